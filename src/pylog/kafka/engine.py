"""KafkaEngine: what a user calls of an Apache Kafka cluster, by the protocol of pylog.engine.

Hands out producers and consumers. Invariant: what Kafka cannot do is missing from `capabilities` and raises
UnsupportedError when it is asked for.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack, get_args

from confluent_kafka.admin import AdminClient

from pylog.config import (
    Durability,
    GroupOptions,
    IfExists,
    Isolation,
    OffsetReset,
    OnTruncate,
    Partitioner,
    ProducerOptions,
    TopicOptions,
    check_choice,
)
from pylog.engine import (
    Capability,
    Guard,
    Headers,
    OnAssign,
    OnDelivery,
    OnRejected,
    OnRevoke,
    Topics,
    TruncateCallback,
    Values,
)
from pylog.errors import PylogError, UnsupportedError
from pylog.filters import Filter
from pylog.kafka.address import Address, address_of
from pylog.kafka.appending import Appender
from pylog.kafka.failures import failures
from pylog.kafka.lacking import LackingEngine
from pylog.kafka.offsets import Offsets
from pylog.kafka.topics import KafkaTopics
from pylog.places import place_of
from pylog.records import Record, RecordId, RecoveryReport, TopicDescription, TopicPartition
from pylog.serdes import Serde

if TYPE_CHECKING:
    from pylog.kafka.consumer import KafkaConsumer
    from pylog.kafka.producer import KafkaProducer

logger = logging.getLogger("pylog")

CAPABILITIES: frozenset[Capability] = frozenset({"append_returns_offset"})


class KafkaEngine(LackingEngine):
    """A cluster; made by pylog.open("kafka://..."). Threads may share it; a forked child opens its own."""

    def __init__(self, url: str) -> None:
        self._closed = True
        self._address: Address = address_of(url)
        self._process = os.getpid()
        self._members: weakref.WeakSet[KafkaProducer | KafkaConsumer] = weakref.WeakSet()
        seconds = self._address.request_seconds
        with failures(f"opening kafka://{self._address.brokers}"):
            self._admin = AdminClient(self._reaching(OPTIONS_OF_PRODUCERS))
            self._admin.list_topics(timeout=seconds)
        self._topics = self._topics_of(self._admin, seconds)
        self._offsets = Offsets(self._admin, self._topics, seconds)
        self._appender = Appender(self._topics, self._producing({"linger.ms": 0}))
        self._closed = False
        OPEN.add(self)

    def _topics_of(self, admin: AdminClient, seconds: float) -> KafkaTopics:
        return KafkaTopics(admin, seconds)

    def _reaching(self, without: frozenset[str]) -> dict[str, Any]:
        """Return what every client of librdkafka is told."""
        given = {key: value for key, value in self._address.options.items() if key not in without}
        return {
            "socket.timeout.ms": int(self._address.request_seconds * 1000),
            # an append waits for its answer, which delayed acknowledgements make 40 ms
            "socket.nagle.disable": True,
            "log.connection.close": False,
            "logger": logger,
            **given,
            "bootstrap.servers": self._address.brokers,
            "allow.auto.create.topics": False,
        }

    def _producing(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what a producing client is told."""
        return {
            "enable.idempotence": True,
            "partitioner": "murmur2_random",  # that of Kafka's Java client
            **self._reaching(OPTIONS_OF_CONSUMERS),
            "delivery.timeout.ms": self._address.delivery_ms,
            "acks": "all",
            **options,
        }

    def _consuming(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what a consuming client is told."""
        return {
            **self._reaching(OPTIONS_OF_PRODUCERS),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            **options,
        }

    # ---- topics -----------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this engine can do beyond what every engine can."""
        return CAPABILITIES

    def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        if_exists: IfExists = "compare",
        **config: Unpack[TopicOptions],
    ) -> TopicDescription:
        """Make a topic; where it exists and agrees with what is given, take it as it is.

        Replicated as the brokers do by default. Of the configuration Kafka knows segment_bytes,
        compression_type and max_record_bytes.

        Raises:
            TopicConfigError: it exists with another shape or configuration.
            TopicExistsError: it exists, and if_exists is "raise".
            UnsupportedError: an option that Kafka has no place for.
            TypeError, ConfigError, RequestTimeoutError, ClosedError
        """
        self._check()
        return self._topics.create(name, partitions, partitioner, config, if_exists)

    def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic's shape and configuration. Raises UnknownTopicError."""
        self._check()
        return self._topics.describe(name)

    def alter_topic(self, name: str, **config: Unpack[TopicOptions]) -> TopicDescription:
        """Change configuration that may be changed: compression_type and max_record_bytes."""
        self._check()
        return self._topics.alter(name, config)

    def create_partitions(self, name: str, partitions: int) -> TopicDescription:
        """Give a topic more partitions, so many in all; keys then choose among all of them."""
        self._check()
        return self._topics.grow(name, partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all its records. Raises UnknownTopicError."""
        self._check()
        self._topics.delete(name)

    def list_topics(self) -> list[str]:
        """Return the names of all topics but Kafka's own, sorted."""
        self._check()
        return self._topics.names()

    # ---- records ----------------------------------------------------------------------------------------

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        durability: Durability | None = None,
        guard: Guard | None = None,
    ) -> RecordId:
        """Append one record: acknowledged by all in-sync replicas, and visible, on return.

        Raises:
            UnsupportedError: durability=, guard=, or a timestamp that is not in whole milliseconds.
            RequestTimeoutError: no acknowledgement came in time; the record may be in or not.
            UnknownTopicError, TypeError, ConfigError, RecordTooLargeError, ClosedError: nothing was appended.
        """
        self._check()
        refuse_durability(durability)
        refuse_guard(guard)
        return self._appender.append(topic, value, key, partition, headers, timestamp)

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
        """Append many records; visible on return. Kafka makes the batches; each is all or nothing.

        Raises:
            PartialAppendError: some are in, `appended` says which; the cause says why not all.
            And what append() raises: nothing was appended.
        """
        self._check()
        refuse_durability(durability)
        refuse_guard(guard)
        return self._appender.append_many(topic, values, keys, partition, timestamps, headers)

    def read(
        self,
        topic: str,
        partition: int | None = None,
        offset: int | None = None,
        *,
        isolation: Isolation = "published",
    ) -> Iterator[Record]:
        """Yield the records that are there now, partition by partition, each from its beginning or `offset`.

        Raises:
            OffsetOutOfRangeError: outside [log_start_offset, log_end_offset].
            UnsupportedError: isolation="synced".
            UnknownTopicError, TypeError, ConfigError, ClosedError
        """
        from pylog.kafka.reading import read_to_end

        self._check()
        refuse_synced(isolation)
        return read_to_end(self, topic, partition, offset)

    def read_key(self, topic: str, key: bytes, **options: Any) -> NoReturn:
        """Raise UnsupportedError: Kafka has no index of keys."""
        raise UnsupportedError("Kafka has no index of keys: see engine.capabilities")

    def producer(
        self,
        *,
        producer_id: str | None = None,
        on_delivery: OnDelivery | None = None,
        key_serde: str | Serde | None = None,
        value_serde: str | Serde | None = None,
        **options: Unpack[ProducerOptions],
    ) -> KafkaProducer:
        """Open a producer, which collects records into batches. Its retries leave no duplicates.

        Args:
            producer_id: Raises UnsupportedError: Kafka's producers resume nothing.
            on_delivery: Called within send, flush and close, with RecordIds and None, or with what failed.
            key_serde: "bytes", "str", "json" or an object with serialize and deserialize.
            value_serde: The same for values.
            options: See ProducerConfig; durability= raises UnsupportedError.
        """
        from pylog.kafka.producer import KafkaProducer

        self._check()
        if producer_id is not None:
            raise UnsupportedError("on Kafka a producer cannot resume, so that it takes no producer_id")
        made = KafkaProducer(self, on_delivery, key_serde, value_serde, options)
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
    ) -> KafkaConsumer:
        """Open a consumer; subscribed to the topics where they are given, else to be assigned partitions.

        A subscribed member has partitions once its polls have joined it to the group. The arguments are those
        of pylog.engine.Engine.consumer.

        Raises:
            UnsupportedError: isolation="synced", another on_truncate than "resume", assignor="weighted",
                capacity= or rebalance_timeout_ms=: Kafka has none of them.
            UnknownTopicError, TypeError, ConfigError, ClosedError
        """
        from pylog.kafka.consumer import KafkaConsumer

        self._check()
        refuse_synced(isolation)
        if on_truncate != "resume":
            raise UnsupportedError(
                'on Kafka a consumer resumes behind a truncation: on_truncate="resume" only'
            )
        made = KafkaConsumer(
            self,
            group=group,
            auto_offset_reset=auto_offset_reset,
            timeout=timeout,
            on_assign=on_assign,
            on_revoke=on_revoke,
            key_serde=key_serde,
            value_serde=value_serde,
            filter=filter,
            on_rejected=on_rejected,
            options=options,
        )
        self._members.add(made)
        if topics is not None:
            try:
                made._subscribe(topics)  # so that it belongs to no thread yet
            except BaseException:
                made.close()
                raise
        return made

    # ---- places and figures -----------------------------------------------------------------------------

    def log_start_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the first record that is there."""
        self._check()
        place = place_of((topic, partition))
        return self._offsets.beginnings([place])[place]

    def log_end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets, as readers of committed transactions see it."""
        self._check()
        place = place_of((topic, partition))
        return self._offsets.ends([place])[place]

    def delete_records(self, topic: str, partition: int, before_offset: int) -> int:
        """Delete the records before an offset, and return the log start offset.

        Raises:
            OffsetOutOfRangeError: beyond the log end offset.
            UnknownTopicError, TypeError, ConfigError, ClosedError
        """
        self._check()
        place = place_of((topic, partition))
        first = self._offsets.beginnings([place])[place]
        if before_offset.__class__ is int and 0 <= before_offset <= first:
            return first
        self._topics.delete_records(place, self._offsets.check(place, before_offset))
        return self._offsets.beginnings([place])[place]

    def recovery_reports(self) -> list[RecoveryReport]:
        """Return an empty list: brokers recover by themselves and report nothing to clients."""
        self._check()
        return []

    def metrics(self) -> dict[str, int]:
        """Return what was appended since it was opened, and the open producers and consumers."""
        self._check()
        return {"appended_records": self._appender.appended, "open_members": len(self._members)}

    def _all_of(self, topics: Sequence[str]) -> list[TopicPartition]:
        counts = {name: self._topics.look(name) for name in topics}
        return [TopicPartition(name, p) for name, count in counts.items() for p in range(count)]

    # ---- the end ----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Close its producers (which flush) and consumers, and end. A second call does nothing.

        Raises:
            PylogError: what a producer could not write; the rest is closed nevertheless.
        """
        if self._closed or os.getpid() != self._process:
            self._closed = True
            return
        self._closed = True
        OPEN.discard(self)
        failure: PylogError | None = None
        for member in list(self._members):
            try:
                member.close()
            except PylogError as error:
                failure = failure or error
        # librdkafka's clients end, threads and connections with them, when the last of these has gone
        del self._admin, self._topics, self._offsets, self._appender
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


OPEN: weakref.WeakSet[KafkaEngine] = weakref.WeakSet()
OPTIONS_OF_PRODUCERS = frozenset({"enable.idempotence", "delivery.timeout.ms", "compression.type"})
OPTIONS_OF_CONSUMERS = frozenset({"fetch.wait.max.ms", "fetch.min.bytes", "isolation.level"})


@atexit.register
def close_all() -> None:
    """Flush the producers of a process that ends normally."""
    for engine in list(OPEN):
        with suppress(PylogError):
            engine.close()


def refuse_durability(durability: Durability | None) -> None:
    """Refuse a durability of one call: Kafka has one for all."""
    if durability is not None:
        check_choice(durability, "durability", get_args(Durability))
        raise UnsupportedError("on Kafka an append always waits for all in-sync replicas: no durability=")


def refuse_guard(guard: object) -> None:
    """Refuse a guard: no broker compares before it appends."""
    if guard is not None:
        raise UnsupportedError("Kafka has no guarded append: see engine.capabilities")


def refuse_synced(isolation: Isolation) -> None:
    """Refuse isolation="synced": brokers do not say what they synced."""
    if check_choice(isolation, "isolation", get_args(Isolation)) == "synced":
        raise UnsupportedError('Kafka does not say what is synced: isolation="published" only')
