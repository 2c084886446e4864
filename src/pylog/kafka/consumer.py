"""KafkaConsumer: reads partitions of a cluster, alone or as a member of a group that its brokers coordinate.

Where it stands and seeks is in standing.py. Invariant: what the application was not given yet is never behind
what commit() commits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, get_args

from confluent_kafka import KafkaError, TopicPartition

from pylog.config import (
    GroupConfig,
    OffsetReset,
    check_choice,
    check_count,
    check_name,
    check_seconds,
    group_config,
)
from pylog.errors import (
    RequestTimeoutError,
    UnsupportedError,
)
from pylog.filters import Filter, sieve_of
from pylog.kafka.committing import CommittingReader
from pylog.kafka.failures import failure_of, failures
from pylog.kafka.record import KafkaRecord
from pylog.places import places_of
from pylog.records import DecodedRecord
from pylog.records import TopicPartition as Place
from pylog.serdes import Serde, serde_for
from pylog.subscription import Subscription, matching

if TYPE_CHECKING:
    from pylog.engine import OnAssign, OnRejected, OnRevoke, Partitions, Topics
    from pylog.kafka.engine import KafkaEngine
    from pylog.records import Record

logger = logging.getLogger("pylog")

RECORDS_AT_ONCE = 500
MOST_RECORDS = 1 << 20
POLL_SECONDS = 0.1
"""The longest sleep within librdkafka: so late are Ctrl-C and a close by another thread seen."""
LOOK_SECONDS = 5.0
"""How often topics are looked for that match a pattern."""
LOOK_AGAIN_SECONDS = 0.02
ASSIGNORS = {"range": "range", "round_robin": "roundrobin", "cooperative_sticky": "cooperative-sticky"}


def member_config(given: Mapping[str, object]) -> GroupConfig:
    """Return the options of a group member; UnsupportedError for what Kafka's groups have not."""
    config = group_config(given)
    if config.assignor not in ASSIGNORS:
        raise UnsupportedError(
            f"Kafka has no assignor={config.assignor!r}: use {', '.join(sorted(ASSIGNORS))}"
        )
    if config.capacity != 1.0:
        raise UnsupportedError("Kafka's groups know no capacity=")
    if "rebalance_timeout_ms" in given:
        raise UnsupportedError(
            "Kafka waits max_poll_interval_ms in a rebalance: it has no rebalance_timeout_ms="
        )
    return config


def options_of(config: GroupConfig) -> dict[str, Any]:
    """Return the options of a group member under librdkafka's names."""
    options: dict[str, Any] = {
        "partition.assignment.strategy": ASSIGNORS[config.assignor],
        "session.timeout.ms": config.session_timeout_ms,
        "heartbeat.interval.ms": max(1, config.session_timeout_ms // 3),
        "max.poll.interval.ms": config.max_poll_interval_ms,
    }
    if config.group_instance_id is not None:
        options["group.instance.id"] = config.group_instance_id
    return options


class KafkaConsumer(CommittingReader):
    """A consumer of a KafkaEngine. Belongs to the thread that uses it first, and raises in others."""

    def __init__(
        self,
        engine: KafkaEngine,
        *,
        group: str | None,
        auto_offset_reset: OffsetReset,
        timeout: float | None,
        on_assign: OnAssign | None,
        on_revoke: OnRevoke | None,
        key_serde: str | Serde | None,
        value_serde: str | Serde | None,
        filter: Filter | None,
        on_rejected: OnRejected | None,
        options: Mapping[str, object],
    ) -> None:
        config = member_config(options)
        self._timeout = check_seconds(timeout, "timeout")
        self._on_assign, self._on_revoke = on_assign, on_revoke
        self._key_serde = serde_for(key_serde, "key_serde")
        self._value_serde = serde_for(value_serde, "value_serde")
        self._decodes = self._key_serde is not None or self._value_serde is not None
        self._sieve = sieve_of(filter, on_rejected)
        # the last fetch took records and the filter let none of them through
        self._skipped = False
        self._subscription: Subscription | None = None
        # whether the group has us, whether it has assigned since, whether that waits for a poll
        self._joined = self._told = self._holding = False
        self._known: set[str] = set()
        self._reading: list[str] = []
        self._pending: KafkaError | None = None
        self._look_at = 0.0
        reset = check_choice(auto_offset_reset, "auto_offset_reset", get_args(OffsetReset))
        super().__init__(
            engine,
            None if group is None else check_name(group, "group"),
            reset,
            options_of(config),
            config,
        )

    # ---- what is read -----------------------------------------------------------------------------------

    def subscribe(self, topics: Topics) -> None:
        """Read topics by name, glob or regular expression, from the group's committed offsets on.

        The members of a group share the partitions; polls join it and are told what this one got. Topics that
        match later are found within 5 seconds and read from their first record.

        Raises:
            UnknownTopicError: one that is named is not there.
        """
        with self._owned("subscribing"):
            self._subscribe(topics)

    def _subscribe(self, topics: Topics) -> None:
        subscription = Subscription(topics)
        for name in subscription.topics:
            self._engine._topics.look(name)
        if not self._joined:
            self._take([])
        self._known = self._matching(subscription)
        self._reading = []
        self._subscription = subscription
        self._look_at = 0.0
        with failures("subscribing"):
            self._look_for_topics(subscription)

    def _matching(self, subscription: Subscription) -> set[str]:
        return matching(subscription.topics, subscription.patterns, self._engine._topics.names())

    def _look_for_topics(self, subscription: Subscription) -> None:
        """Read the topics that match now; librdkafka's own patterns are of another language."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        if self._reading and not subscription.patterns and self._group is not None:
            return  # the group itself sees topics grow
        topics = sorted(self._matching(subscription))
        if self._group is None:
            places = self._engine._all_of(topics)
            if places != list(self._positions):
                self._take(places, came_later=set(topics) - self._known)
        elif topics != self._reading and topics:
            self._client.subscribe(
                topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            self._joined = True
        self._reading = topics

    def assign(self, partitions: Partitions) -> None:
        """Read exactly these (topic, partition) pairs; the group's committed offsets are still used.

        Raises:
            UnknownTopicError, TypeError, ConfigError: there is no such partition.
        """
        with self._owned("assigning partitions"):
            places = places_of(partitions)
            for place in places:
                self._engine._topics.check_partition(*place)
            self._leave()
            self._take(places)

    def unsubscribe(self) -> None:
        """Read nothing, and leave the group to its other members."""
        with self._owned("unsubscribing"):
            self._leave()
            self._take([])

    def _leave(self) -> None:
        """Leave the group: closing the client is what hands partitions over before it returns."""
        self._subscription = None
        if self._joined:
            self._joined = self._told = False
            self._reopen()

    # ---- the group, within a poll -----------------------------------------------------------------------

    def _assigned(self, client: Any, partitions: list[Any]) -> None:
        places = [Place(p.topic, p.partition) for p in partitions]
        came_later = {place.topic for place in places} - self._known
        starts = self._starts(places, came_later)
        if self._config.assignor == "cooperative_sticky":
            client.incremental_assign(starts)
        else:
            client.assign(starts)
        if self._holding and places:
            client.pause([TopicPartition(*place) for place in places])
        self._pause_again(places)
        self._told = True
        if places and self._on_assign is not None:
            self._on_assign(places)

    def _await_assignment(self) -> None:
        if not self._joined or self._told:
            return
        end = time.monotonic() + self._engine._address.request_seconds
        self._holding = True  # what is assigned is paused, so that these polls take no record
        try:
            while not self._told:
                if time.monotonic() > end:
                    raise RequestTimeoutError(
                        f"group {self._group!r} has not assigned partitions yet: poll first"
                    )
                message = self._client.poll(POLL_SECONDS)
                if message is not None:
                    self._pending = message.error()
        finally:
            self._holding = False
        held = [TopicPartition(*place) for place in self._positions if place not in self._paused]
        if held:
            self._client.resume(held)

    def _revoked(self, client: Any, partitions: list[Any]) -> None:
        places = [Place(p.topic, p.partition) for p in partitions]
        try:
            self._auto_commit(at_once=True)
            if places and self._on_revoke is not None:
                self._on_revoke(places, self._config.max_poll_interval_ms / 1000)
        finally:
            self._forget(places)

    def _lost(self, client: Any, partitions: list[Any]) -> None:
        """Others may have them already: nothing is left to finish, and a commit would be refused."""
        places = [Place(p.topic, p.partition) for p in partitions]
        try:
            if places and self._on_revoke is not None:
                self._on_revoke(places, 0.0)
        finally:
            self._forget(places)

    def _follow(self) -> None:
        if self._subscription is not None:
            self._look_for_topics(self._subscription)
            if self._joined:
                self._auto_commit()

    # ---- reading ----------------------------------------------------------------------------------------

    def poll(self, max_records: int = RECORDS_AT_ONCE, timeout: float | None = 0.0) -> list[Record]:
        """Return up to max_records; an empty list where none came in time.

        Args:
            timeout: Seconds to wait for the first record; 0 takes what was fetched already, None: for ever.

        Raises:
            OffsetOutOfRangeError, UnknownTopicError, ClosedError
        """
        check_count(max_records, "max_records", 1, MOST_RECORDS)
        seconds = check_seconds(timeout, "timeout")
        records: list[Any] = self._fetch(max_records, seconds)
        return records

    def _fetch(self, max_records: int, seconds: float | None) -> list[Any]:
        end = None if seconds is None else time.monotonic() + seconds
        self._counts["polls"] += 1
        while True:
            left = POLL_SECONDS if end is None else min(POLL_SECONDS, max(0.0, end - time.monotonic()))
            with self._owned("polling"):
                self._tell()
                self._follow()
                found = self._next(max_records, left)
            if found:
                self._counts["records"] += len(found)
                return found
            if not self._skipped and end is not None and time.monotonic() >= end:
                return []

    def _next(self, max_records: int, seconds: float) -> list[Any]:
        """Wait for a record, take it with what else is there; an error behind records has its turn later."""
        if self._pending is not None:
            error, self._pending = self._pending, None
            raise failure_of(error, "polling")
        first = self._client.poll(seconds)
        self._skipped = False
        if first is None:
            return []
        messages = [first]
        if max_records > 1 and first.error() is None:
            messages += self._client.consume(max_records - 1, 0)
        found: list[KafkaRecord] = []
        for message in messages:
            error = message.error()
            if error is None:
                found.append(KafkaRecord(message))
            elif error.code() == KafkaError._MAX_POLL_EXCEEDED:
                logger.warning("no poll for max_poll_interval_ms: others get the partitions: %s", error.str())
            elif error.code() != KafkaError._PARTITION_EOF and self._pending is None:
                self._pending = error
        if self._pending is not None and not found:
            return self._next(1, 0)
        return self._given(found)

    def _given(self, records: list[Any]) -> list[Any]:
        """Stand behind the records, and return those that the filter lets through, decoded."""
        kept = records
        if self._sieve is not None:
            try:
                kept = self._sieve.keep(records)
            except BaseException:
                firsts = {Place(record.topic, record.partition): record.offset for record in records[::-1]}
                self._seek(firsts)
                raise
        self._skipped = bool(records) and not kept
        for record in records:
            self._positions[Place(record.topic, record.partition)] = record.offset + 1
        if not self._decodes:
            return kept
        return [DecodedRecord(record, self._key_serde, self._value_serde) for record in kept]

    def __iter__(self) -> Iterator[Record]:
        """Yield records; ends only where the consumer was given a timeout and nothing came for so long."""
        while True:
            # one by one: librdkafka holds them ready, and each position is that of what was yielded
            records = self._fetch(1, self._timeout)
            if not records:
                return
            yield records[0]

    def batches(self, timeout: float | None = None) -> NoReturn:
        """Raise UnsupportedError: Kafka's batches are rows."""
        raise UnsupportedError("Kafka's batches are rows, not columns: poll() or iterate")

    # ---- asyncio, figures, the end ----------------------------------------------------------------------

    @property
    def arrivals(self) -> None:
        """None: an event loop has to poll."""
        return None

    def announce(self) -> float:
        """Return the seconds after which to look again."""
        with self._owned("announcing"):
            return LOOK_AGAIN_SECONDS

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened, also of what a filter rejected, and its partitions."""
        with self._owned("counting"):
            rejected = 0 if self._sieve is None else self._sieve.rejected
            return {**self._counts, "rejected": rejected, "partitions": len(self._positions)}

    def close(self) -> None:
        """End, and hand the partitions over to the other members. Commits only with enable_auto_commit.

        Any thread may close it. In a forked child nothing of the parent's is touched.
        """
        self._close()
        self._tell()

    def __enter__(self) -> Self:
        with self._use():
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
