"""EmbeddedConsumer: reads partitions of one engine, waits for records, and remembers how far.

Alone, or as a member of a group whose other members are anywhere on the machine: see coordinator.py. Where
it stands is in positions.py, what it commits in committing.py.
Invariant: what the application was not given yet is never behind what commit() commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

from logcore.processes import fork_count
from pylog.clock import Deadline
from pylog.config import (
    GroupConfig,
    Isolation,
    OffsetReset,
    OnTruncate,
    check_choice,
    check_count,
    check_seconds,
)
from pylog.embedded.assignment import Assignment
from pylog.embedded.batches import Batches
from pylog.embedded.committing import CommittingReader
from pylog.embedded.coordinator import LOOK_SECONDS, Coordinator, Rebalance
from pylog.embedded.partition_cursor import PartitionCursor
from pylog.errors import ClosedError, ConfigError, UnknownTopicError
from pylog.filters import Filter, sieve_of
from pylog.places import places_of
from pylog.records import DecodedRecord, Record, RecordBatch, TopicPartition
from pylog.serdes import serde_for
from pylog.subscription import Subscription, matching

if TYPE_CHECKING:
    from pylog.embedded.arrivals import Arrivals
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.engine import OnAssign, OnRevoke, Partitions, Topics, TruncateCallback
    from pylog.serdes import Serde

RECORDS_AHEAD = 500
"""How many records iteration takes from a partition at once."""
MOST_RECORDS = 1 << 20
SYNCED_POLL_SECONDS = 0.02
"""With isolation="synced": a sync wakes nobody, so look again after this."""
READ_ONLY_POLL_SECONDS = 0.05
"""Who writes nothing cannot ask to be woken."""
MEMBER_POLL_SECONDS = 2 * LOOK_SECONDS
"""A member of a group looks after the others even where no record comes."""


class EmbeddedConsumer(CommittingReader):
    """A consumer of an EmbeddedEngine. Belongs to the thread that uses it first, and raises in others."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        *,
        group: str | None,
        auto_offset_reset: OffsetReset,
        isolation: Isolation,
        timeout: float | None,
        on_truncate: OnTruncate | TruncateCallback,
        on_assign: OnAssign | None,
        on_revoke: OnRevoke | None,
        key_serde: str | Serde | None,
        value_serde: str | Serde | None,
        filter: Filter | None,
        on_rejected: Callable[[Record], object] | None,
        config: GroupConfig,
    ) -> None:
        synced = check_choice(isolation, "isolation", get_args(Isolation)) == "synced"
        super().__init__(engine, synced=synced, group=group, config=config)
        self._reset = check_choice(auto_offset_reset, "auto_offset_reset", get_args(OffsetReset))
        self._longest_wait = SYNCED_POLL_SECONDS if synced else 1.0
        if engine.read_only:
            self._longest_wait = READ_ONLY_POLL_SECONDS
        self._timeout = check_seconds(timeout, "timeout")
        if not callable(on_truncate):
            check_choice(on_truncate, "on_truncate", get_args(OnTruncate))
        for name, given in (("on_assign", on_assign), ("on_revoke", on_revoke)):
            if given is not None and not callable(given):
                raise TypeError(f"{name} is a function, not {type(given).__name__}")
        self._on_truncate = on_truncate
        self._on_assign, self._on_revoke = on_assign, on_revoke
        self._key_serde = serde_for(key_serde, "key_serde")
        self._value_serde = serde_for(value_serde, "value_serde")
        self._decodes = self._key_serde is not None or self._value_serde is not None
        self._sieve = sieve_of(filter, on_rejected)
        self._subscription: Subscription | None = None
        # the partitions of each topic that there were when it was subscribed to, and those that are read
        self._known: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._topics_changed = 0
        self._look_at = 0.0
        self._closed = False

    # ---- what is read -----------------------------------------------------------------------------------

    def subscribe(self, topics: Topics) -> None:
        """Read topics by name, glob or regular expression, from the group's committed offsets on.

        With a group its members share the partitions. Topics that match later are read from their first
        record. What is subscribed to before is replaced.

        Raises:
            UnknownTopicError: one that is named is not there.
            ConfigError: the other members use another assignor.
        """
        self._check()
        self._subscribe(topics)

    def _subscribe(self, topics: Topics) -> None:
        subscription = Subscription(topics)
        for name in subscription.topics:
            self._engine._partitions_of(name)
        self._topics_changed = self._engine._topics.changed()
        self._known = self._counts = self._matching(subscription)
        self._subscription = subscription
        self._longest_wait = min(self._longest_wait, MEMBER_POLL_SECONDS)
        if self._offsets is None or self._engine.read_only:
            self._take(all_of(self._known))
            return
        if self._coordinator is None:
            self._coordinator = Coordinator(self._engine, self._offsets, self._config)
        self._coordinator.join(subscription)
        self._follow()
        # also where nothing moved: a topic may have been deleted and made anew
        self._take(sorted(self._coordinator.held))

    def _matching(self, subscription: Subscription) -> dict[str, int]:
        """Return the topics that there are of it, and how many partitions each has."""
        found: dict[str, int] = {}
        for name in sorted(matching(subscription.topics, subscription.patterns, self._engine.list_topics())):
            with suppress(UnknownTopicError):  # deleted just now
                found[name] = self._engine._partitions_of(name)
        return found

    def assign(self, partitions: Partitions) -> None:
        """Read exactly these (topic, partition) pairs; the group's committed offsets are still used.

        Raises:
            UnknownTopicError, TypeError, ConfigError: there is no such partition.
        """
        self._check()
        places = places_of(partitions)
        for topic, partition in places:
            check_count(partition, "partition", 0, self._engine._partitions_of(topic) - 1)
        self._leave()
        self._take(places)

    def unsubscribe(self) -> None:
        """Read nothing, and leave the group to its other members."""
        self._check()
        self._leave()
        self._take([])

    def _leave(self) -> None:
        """Leave the group, after what close() and a rebalance do as well: commit if asked to, then revoke."""
        self._subscription = None
        coordinator = self._coordinator
        if coordinator is None:
            return
        try:
            places = sorted(coordinator.held)
            if places:
                self._auto_commit(coordinator, at_once=True)
                if self._on_revoke is not None:
                    self._on_revoke(places, self._config.rebalance_timeout_ms / 1000)
        finally:
            self._coordinator = None
            coordinator.close()

    # ---- the group --------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Do what a poll owes the group: say that we live, commit if asked to, take and give partitions."""
        coordinator = self._coordinator
        if coordinator is not None:
            self._auto_commit(coordinator)
            change = coordinator.follow()
            if change is not None:
                self._rebalanced(coordinator, change)
        elif self._subscription is not None:
            self._look_for_topics(self._subscription)

    def _look_for_topics(self, subscription: Subscription) -> None:
        now = self._engine._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        changed = self._engine._topics.changed()
        grew = any(self._has_grown(name, count) for name, count in self._counts.items())
        if grew or (subscription.patterns and changed != self._topics_changed):
            self._topics_changed = changed
            self._counts = self._matching(subscription)
            self._take(all_of(self._counts))

    def _has_grown(self, topic: str, count: int) -> bool:
        with suppress(UnknownTopicError):  # its cursors tell
            return self._engine._partitions_of(topic) > count
        return False

    def _rebalanced(self, coordinator: Coordinator, change: Rebalance) -> None:
        """Give up what was taken, hand over what is to go, begin with what was gained."""
        if change.lost:
            self._take([place for place in self._assigned.cursors if place not in change.lost])
        leaving = [*change.revoked, *change.lost]
        try:
            if change.revoked:
                self._auto_commit(coordinator, at_once=True)
            if leaving and self._on_revoke is not None:
                self._on_revoke(leaving, self._config.rebalance_timeout_ms / 1000)
        finally:
            if change.revoked:
                coordinator.release(change.revoked)
            self._take(sorted(coordinator.held))
        if change.gained and self._on_assign is not None:
            self._on_assign(change.gained)

    def _take(self, places: list[TopicPartition]) -> None:
        if self._offsets is not None:
            self._finish_transactions()
        self._give_back()
        self._assigned.take(places, self._open_cursor)

    def _open_cursor(self, place: TopicPartition) -> PartitionCursor:
        log = self._engine._log(place.topic)
        committed = None if self._offsets is None else self._offsets.committed(log, place.partition)
        came_later = self._subscription is not None and place.partition >= self._known.get(place.topic, 0)
        cursor = PartitionCursor(
            log,
            place.partition,
            committed=committed,
            reset="earliest" if came_later else self._reset,
            synced=self._synced,
            on_truncate=self._on_truncate,
            sieve=self._sieve,
        )
        if came_later and committed is None:
            self._begin_there(cursor)
        return cursor

    # ---- reading ----------------------------------------------------------------------------------------

    def poll(self, max_records: int = RECORDS_AHEAD, timeout: float | None = 0.0) -> list[Record]:
        """Return up to max_records, of one partition or several; an empty list where none came in time.

        Args:
            timeout: Seconds to wait for the first record; 0 does not wait, None waits for ever.

        Raises:
            CorruptionError, LogTruncatedError, OffsetOutOfRangeError, SerializationError, ClosedError
        """
        self._check()
        if max_records.__class__ is not int or not 0 < max_records <= MOST_RECORDS:
            check_count(max_records, "max_records", 1, MOST_RECORDS)
        if self._async is not None:
            self._async.tell()
        if self._ahead and self._coordinator is not None:
            self._follow()
        if self._ahead:
            return self._rest(max_records)

        def fetch() -> list[Record]:
            return self._at_hand().fetch(max_records)

        records = self._look(fetch)
        if not records and timeout != 0:
            seconds = check_seconds(timeout, "timeout")
            records = self._wait(lambda: self._look(fetch), seconds) or []
        return self._decoded(records) if self._decodes else records

    def _at_hand(self) -> Assignment:
        """Return what is assigned, as it is shared now; before, call back for commits that are through."""
        if self._async is not None:
            self._async.tell()
        if self._subscription is not None:
            self._follow()
        if self._engine.read_only:
            self._assigned.follow(self._engine._log)
        return self._assigned

    def _look(self, fetch: Callable[[], list[Record]]) -> list[Record]:
        """Return what is there and not filtered out, however far behind."""
        while True:
            found = fetch()
            if found or self._sieve is None or not self._assigned.skipped():
                return found

    def _wait(self, fetch: Callable[[], Any], timeout: float | None) -> Any:
        """Call fetch until it returns something, sleeping while nobody appends; None when the time is up."""
        deadline = Deadline(self._engine._clock, timeout)
        registry = self._registry
        while not deadline.passed():
            # the order matters: remember our word, say that we wait, look again, sleep until the word changes
            word = registry.word()
            longest = self.announce()
            found = fetch()
            if found:
                return found
            self._assigned.counts["waits"] += 1
            registry.sleep(word, deadline.left(longest))
            if self._engine.closed:
                raise ClosedError("the engine was closed while a consumer waited")
            found = fetch()
            if found:
                return found
            self._finish_for_the_dead()
        return None

    def _decoded(self, records: list[Record]) -> list[Any]:
        return [DecodedRecord(record, self._key_serde, self._value_serde) for record in records]

    def __iter__(self) -> Iterator[Record]:
        """Yield records; ends only where the consumer was given a timeout and nothing came for so long."""

        def fetch() -> list[Record]:
            return self._look(lambda: self._at_hand().fetch_of_one(RECORDS_AHEAD))

        while True:
            self._check()
            if self._given >= len(self._ahead):
                self._ahead, self._given = [], 0
                records = fetch()
                if not records:
                    records = self._wait(fetch, self._timeout)
                    if not records:
                        return
                self._ahead = self._decoded(records) if self._decodes else records
            ahead = self._ahead
            while self._given < len(ahead):
                if self._coordinator is not None and self._coordinator.stale():
                    # a rebalance does not wait until all that was read ahead is done
                    self._follow()
                    if ahead is not self._ahead:
                        break
                record = ahead[self._given]
                self._given += 1
                yield record
                if ahead is not self._ahead:
                    break

    def _rest(self, max_records: int) -> list[Any]:
        """Take what iteration left over."""
        found = self._ahead[self._given : self._given + max_records]
        self._given += len(found)
        if self._given >= len(self._ahead):
            self._ahead, self._given = [], 0
        return found

    def batches(self, timeout: float | None = None) -> Batches:
        """Yield columnar batches without a copy; ends where nothing came for timeout seconds.

        What it returns is also an Arrow stream, that pyarrow, Polars and DuckDB read: give a timeout then.

        Batches come whole: after a seek into the middle of one, `batch.offsets` tells which rows are earlier.

        Args:
            timeout: Seconds; left out: the consumer's own.

        Raises:
            ConfigError: the consumer has a filter, which lets single records through.
        """
        self._check()
        if self._sieve is not None:
            raise ConfigError("batches() come whole: poll() or iterate with a filter")
        waiting = self._timeout if timeout is None else check_seconds(timeout, "timeout")
        self._give_back()
        return Batches(self._batches(waiting), self._let_go)

    def _batches(self, timeout: float | None) -> Iterator[RecordBatch]:
        while True:
            self._check()
            batch = self._at_hand().next_batch()
            if batch is None:
                batch = self._wait(lambda: self._at_hand().next_batch(), timeout)
                if batch is None:
                    return
            yield batch

    # ---- asyncio, figures, the end ----------------------------------------------------------------------

    @property
    def arrivals(self) -> Arrivals | None:
        """What an event loop waits by, None where it has to poll; see pylog.aio."""
        return self._engine.arrivals

    def announce(self) -> float:
        """Say that somebody waits for records of these partitions: look once more, then wait for `arrivals`.

        Returns the seconds after which to look again, whether something was announced or not.
        """
        self._check()
        for log in self._assigned.logs:
            log.mark_waiting()
        return self._longest_wait

    def metrics(self) -> dict[str, int]:
        """Return records, batches, polls, waits, commits, and what a filter rejected, since it was opened."""
        self._check()
        rejected = 0 if self._sieve is None else self._sieve.rejected
        return {**self._assigned.counts, "rejected": rejected, "partitions": len(self._assigned.cursors)}

    def close(self) -> None:
        """End, and hand the partitions over to the other members. Commits only with enable_auto_commit.

        What was committed is synced. Any thread may close it. In a forked child nothing of the parent's is
        touched.
        """
        if self._closed:
            return
        if self._forks == fork_count():
            self._leave()
            if self._async is not None:
                self._async.finish()
        self._closed = True
        self._engine._members.discard(self)
        self._assigned = Assignment()
        self._ahead, self._given = [], 0
        if self._offsets is not None and self._forks == fork_count():
            self._offsets.close()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def all_of(counts: Mapping[str, int]) -> list[TopicPartition]:
    """Return the partitions of topics that have so many each."""
    return [TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)]
