"""EmbeddedEngine: what a program calls of an opened data directory.

Appends and reads, and hands out producers, consumers, transactions, queues and event stores; what an
administrator asks is in administration.py, opening and closing in opened.py. Invariant: each method checks
that the engine may do it before it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from logcore.segment_files import LARGEST_OFFSET
from logcore.topic_log import TopicLog
from pylog.config import (
    Durability,
    GroupOptions,
    Isolation,
    OffsetReset,
    OnTruncate,
    ProducerOptions,
    check_count,
    check_name,
    group_config,
)
from pylog.embedded.administration import AdministeredDirectory
from pylog.engine import (
    Capability,
    Headers,
    OnAssign,
    OnDelivery,
    OnRejected,
    OnRevoke,
    Topics,
    TruncateCallback,
    Values,
)
from pylog.filters import Filter
from pylog.queue_options import QueueOptions
from pylog.records import CopyReport, Record, RecordId
from pylog.serdes import Serde

if TYPE_CHECKING:
    from pylog.embedded.consumer import EmbeddedConsumer
    from pylog.embedded.producer import EmbeddedProducer
    from pylog.embedded.queue_source import EmbeddedQueueSource
    from pylog.embedded.transactions import Transaction
    from pylog.eventsourcing.store import EventStore, StoreOptions
    from pylog.queues import Queue, QueueArguments

CAPABILITIES: frozenset[Capability] = frozenset(
    {
        "append_returns_offset",
        "durability_per_call",
        "synced_offset",
        "columnar_batches",
        "producer_resume",
        "recover",
        "clean",
        "backup",
        "group_administration",
        "transactions",
        "queues",
        "keys",
        "event_store",
    }
)


class EmbeddedEngine(AdministeredDirectory):
    """An opened data directory; made by pylog.open(). Threads may share it, and so may forked children.

    `append` is the native core's own method.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this engine can do beyond what every engine can."""
        return CAPABILITIES

    # ---- records ----------------------------------------------------------------------------------------

    def append_many(
        self,
        topic: str,
        values: Values,
        keys: Values | None = None,
        *,
        partition: int | None = None,
        timestamps: Any = None,
        headers: Sequence[Headers | None] | None = None,
        durability: Durability | None = None,
        guard: Mapping[bytes, int] | None = None,
    ) -> Sequence[RecordId]:
        """Append many records by one native call; visible on return.

        Each batch (up to 1 MiB, one partition) is all or nothing.

        Args:
            values: A list of bytes or None, a pair of columns (offsets int32[n+1], bytes), or an Arrow array.
            keys: The same, one for each value. They choose the partitions where none is given.
            partition: The partition of all of them.
            timestamps: A list of ns since 1970, or an array of integers; now where left out.
            headers: A list with the headers of each.
            durability: "os", "interval" or "sync"; the topic's where left out.
            guard: For each of some keys the offset of its last record in the partition, -1 where it has none.
                All records are then one batch in one partition, appended only while that holds.

        Returns:
            A sequence of RecordId in the order of the values.

        Raises:
            PartialAppendError: a later batch failed; `appended` has what is in.
            VersionConflictError: the guard does not hold: `actual` is the offset of that key's last record.
            UnknownTopicError, TypeError, ValueError, RecordTooLargeError, DiskFullError, LockTimeoutError,
            DurabilityError, ReadOnlyError, ClosedError: nothing was appended.
        """
        log: TopicLog = self._topic(topic)
        found: Sequence[RecordId] = log.append_many(
            values,
            keys,
            partition=partition,
            timestamps=timestamps,
            headers=headers,
            durability=durability,
            guard=guard,
        )
        return found

    def read(
        self,
        topic: str,
        partition: int | None = None,
        offset: int | None = None,
        *,
        isolation: Isolation = "published",
    ) -> Iterator[Record]:
        """Yield the records that are there now, partition by partition, each from its beginning or `offset`.

        What is appended after the call is not waited for and not read.

        Raises:
            UnknownTopicError, TypeError, ConfigError, ClosedError
            OffsetOutOfRangeError: outside [log_start_offset, log_end_offset].
            CorruptionError: at the damage, after everything before it; `next_offset` says where to go on.
        """
        from pylog.embedded.reading import read_to_end

        return read_to_end(self._log(topic), partition, offset, isolation)

    def copy_topic(self, source: str, destination: str, partitions: int | None = None) -> CopyReport:
        """Copy the records that a topic has now into another one, on disk on return.

        Keys choose among the destination's partitions, and the records of each key keep their order; where
        the source had got more partitions they are brought together in the order of their timestamps. Keys,
        values, headers and timestamps stay, offsets do not. A copy that was interrupted is called again and
        goes on; called once more it copies what came since. Only copies should write to the destination.

        Args:
            destination: Made with the configuration of the source where it is not there.
            partitions: Of the destination; left out: as many as the source has, or as it has already.

        Raises:
            TopicConfigError: the destination is there with other partitions.
            FencedError: somebody else began the same copy since, and goes on with it.
            UnknownTopicError, ConfigError, CorruptionError, ReadOnlyError, DiskFullError, ClosedError
        """
        from pylog.embedded.copying import copy_topic

        self._writable("copy topics")
        return copy_topic(self, source, destination, partitions)

    def read_key(
        self,
        topic: str,
        key: bytes,
        *,
        partition: int | None = None,
        first: int = 0,
        behind: int | None = None,
        most: int | None = None,
        backward: bool = False,
    ) -> list[Record]:
        """Return the records of one key in one partition, without reading those of other keys.

        Args:
            partition: Left out: the one that the key chooses.
            first: The least offset.
            behind: The offset before which it ends; left out, the log end offset.
            most: How many records at most.
            backward: Newest first.

        Raises:
            UnknownTopicError, TypeError, ConfigError, ClosedError
            CorruptionError: damage may hide one of them.
        """
        if not isinstance(key, bytes):
            raise TypeError(f"a key is bytes, not {type(key).__name__}")
        log = self._log(topic)
        index = log.key_index(log.partition_for(key) if partition is None else partition)
        if first.__class__ is not int or not 0 <= first <= LARGEST_OFFSET:
            check_count(first, "first", 0, LARGEST_OFFSET)
        behind = LARGEST_OFFSET if behind is None else check_count(behind, "behind", 0, LARGEST_OFFSET)
        most = -1 if most is None else check_count(most, "most", 0, LARGEST_OFFSET)
        return index.find(key, first, behind, most=most, backward=backward)

    def producer(
        self,
        *,
        producer_id: str | None = None,
        on_delivery: OnDelivery | None = None,
        key_serde: str | Serde | None = None,
        value_serde: str | Serde | None = None,
        **options: Unpack[ProducerOptions],
    ) -> EmbeddedProducer:
        """Open a producer, which collects records into batches.

        Args:
            producer_id: Makes it idempotent: `send(..., sequence=n)` drops what is in already. Whoever opened
                the same id before is fenced.
            on_delivery: Called after each batch with its RecordIds and None, or with what failed.
            key_serde: "bytes", "str", "json" or an object with serialize and deserialize.
            value_serde: The same for values.
            options: See ProducerConfig.

        Raises:
            TypeError, ConfigError, ReadOnlyError, ClosedError
        """
        from pylog.embedded.producer import open_producer

        self._writable("produce")
        made = open_producer(self, producer_id, on_delivery, key_serde, value_serde, options)
        self._members.add(made)
        return made

    def consumer(
        self,
        topics: Topics | None = None,
        *,
        group: str | None = None,
        auto_offset_reset: OffsetReset = "latest",
        isolation: Isolation = "published",
        timeout: float | None = None,
        on_truncate: OnTruncate | TruncateCallback = "resume",
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
        key_serde: str | Serde | None = None,
        value_serde: str | Serde | None = None,
        filter: Filter | None = None,
        on_rejected: OnRejected | None = None,
        **options: Unpack[GroupOptions],
    ) -> EmbeddedConsumer:
        """Open a consumer; subscribed to the topics where they are given, else to be assigned partitions.

        Args:
            group: Whose committed offsets it starts at and commits to.
            auto_offset_reset: Where to start without a committed offset: "earliest", "latest", or "error".
            isolation: "published" shows what is visible, "synced" only what a power cut cannot take away.
            timeout: Seconds without a record after which iteration ends; None: never.
            on_truncate: What happens where a power cut took records behind the position: "resume" at the
                cut with a warning, "raise" LogTruncatedError, or a function that is called before resuming.
            on_assign: Called within a poll with the partitions that the group gave this consumer.
            on_revoke: Called within a poll with the partitions that go to others, and the seconds to finish.
            key_serde: "bytes", "str", "json" or an object with serialize and deserialize.
            value_serde: The same for values.
            filter: Lets through what the application is given: see pylog.filters. Commits pass the rest.
            on_rejected: Called within a poll with each record that the filter rejects.
            options: As a member of the group: see GroupConfig.

        Raises:
            UnknownTopicError, TypeError, ConfigError, ClosedError
        """
        from pylog.embedded.consumer import EmbeddedConsumer

        self._check_open()
        if group is not None:
            check_name(group, "group")
        made = EmbeddedConsumer(
            self,
            group=group,
            auto_offset_reset=auto_offset_reset,
            isolation=isolation,
            timeout=timeout,
            on_truncate=on_truncate,
            on_assign=on_assign,
            on_revoke=on_revoke,
            key_serde=key_serde,
            value_serde=value_serde,
            filter=filter,
            on_rejected=on_rejected,
            config=group_config(options),
        )
        self._members.add(made)
        if topics is not None:
            try:
                made._subscribe(topics)  # so that it belongs to no thread yet
            except BaseException:
                made.close()
                raise
        return made

    # ---- transactions -----------------------------------------------------------------------------------

    def transaction(self, *, transaction_bytes: int = 16 << 20) -> Transaction:
        """Begin a transaction: what it appends and commits becomes visible all or nothing.

        Parts become visible partition by partition; after a crash all of them are, or none. It survives a
        power cut as a whole where one of its topics has a durability other than "os".

        Args:
            transaction_bytes: The most that it may buffer.

        Raises:
            ReadOnlyError, ClosedError
        """
        from pylog.embedded.transactions import Transaction

        self._writable("begin transactions")
        check_count(transaction_bytes, "transaction_bytes", 1 << 10, 1 << 30)
        return Transaction(self, transaction_bytes=transaction_bytes)

    # ---- queues and event stores ------------------------------------------------------------------------

    def queue(self, name: str, **options: Unpack[QueueArguments]) -> Queue:
        """Open a work queue over a topic of its name, which is made where there is none.

        Args:
            options: See QueueArguments, and QueueConfig for those that are stored with the queue.

        Raises:
            TopicConfigError: a stored option was given another value.
            TypeError, ConfigError, UnknownTopicError, UnsupportedError, ReadOnlyError, ClosedError
        """
        from pylog.queues import open_queue

        self._check_open()
        options.setdefault("clock", self._clock)
        return open_queue(self, name, **options)

    def queue_source(
        self,
        queue: str,
        topic: str | None = None,
        *,
        notes: Mapping[str, Any] | None = None,
        **options: Unpack[QueueOptions],
    ) -> EmbeddedQueueSource:
        """Open what queue() stands on: the records of an existing topic, leased one by one.

        Args:
            queue: Its name; several queues may work the same topic, each for itself.
            topic: Left out: what is stored, or else the topic of the queue's name.
            notes: JSON values to keep with the queue, compared as options are.
            options: See QueueConfig. Those left out are what is stored.

        Raises:
            TopicConfigError: the queue has other options.
            UnknownTopicError, TypeError, ConfigError, CorruptionError, ReadOnlyError, ClosedError
        """
        from pylog.embedded.queue_files import QueueFiles
        from pylog.embedded.queue_source import EmbeddedQueueSource

        self._check_open()
        check_name(queue, "queue")
        files = QueueFiles(self, queue)
        made = EmbeddedQueueSource(self, files, files.open(topic, options, notes))
        self._members.add(made)
        return made

    def list_queues(self) -> list[str]:
        """Return the names of the queues that were ever opened, sorted."""
        from pylog.embedded.queue_files import list_queues

        self._check_open()
        return list_queues(self.path)

    def event_store(self, name: str, **options: Unpack[StoreOptions]) -> EventStore:
        """Open a store of event-sourced entities over a topic of its name, made where there is none.

        Args:
            options: See EventStore.

        Raises:
            TopicConfigError: the topic is there and was made otherwise.
            TypeError, ConfigError, ReadOnlyError, ClosedError
        """
        from pylog.eventsourcing.store import EventStore

        self._check_open()
        made = EventStore(self, name, **options)
        self._members.add(made)  # whose snapshots are taken before it closes
        return made
