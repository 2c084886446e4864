"""Dead letters: what a record carries when it is buried, and how it comes back.

A dead letter is the record itself, byte for byte, in another topic, with headers that say why. That topic is
worked as a queue of its own, so that redriving is leasing and finishing. Invariant: a record is either in its
queue or in its dead-letter topic, whoever dies: each way is one transaction.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pylog.clock import Clock
from pylog.config import MAX_RECORD_BYTES, check_count
from pylog.engine import Engine
from pylog.errors import (
    ConfigError,
    LeaseLostError,
    PylogError,
    RecordTooLargeError,
    SerializationError,
    UnknownTopicError,
)
from pylog.filters import Filter
from pylog.queue_options import DUE_HEADER, EXPIRES_HEADER, PRIORITY_HEADER, number_of, stated
from pylog.queue_source import Lease, QueueSource
from pylog.records import Record, TopicDescription

if TYPE_CHECKING:
    from pylog.queues.queue import Queue

DEAD = "pylog-dead-"
REASON_HEADER = DEAD + "reason"
"""The first of those that a burial adds."""
CONNECT = "__connect.errors."
"""What Kafka Connect writes on its dead letters, so that tools made for it understand ours."""
IDENTITY_HEADER = "pylog-identity"
"""Where a redriven record was first: topic-partition@offset."""
REDRIVES_HEADER = "pylog-redrives"

MAX_TRACEBACK_BYTES = 8 << 10
MAX_MESSAGE_BYTES = 1 << 10
ROOM_BYTES = 64 << 10
"""What a dead-letter topic takes beyond the largest record of the queue's topic."""
LARGEST_BYTES = 2 * MAX_RECORD_BYTES
"""Of a transaction: whatever may be put can be buried, and redriven."""
TRACES = (DEAD + "traceback", CONNECT + "exception.stacktrace")
AT_ONCE = 100
LOWEST_RATE = 1e-6
MOST_SHOWN = 1 << 20

Header = tuple[str, bytes | None]


def identity_of(record: Record) -> str:
    """Return what names a record however often it is redriven: where it was first."""
    for name, value in record.headers:
        if name == IDENTITY_HEADER and value:
            return value.decode(errors="backslashreplace")
    return f"{record.topic}-{record.partition}@{record.offset}"


def capped(text: str, most: int) -> bytes:
    """Return the text as UTF-8; of a longer one the end, which is where a traceback says what happened."""
    data = text.encode(errors="backslashreplace")
    return data if len(data) <= most else data[-most:].decode(errors="ignore").encode()


def message_of(error: BaseException) -> str:
    """Return what an exception says; somebody else wrote it, and it may not even do that."""
    try:
        return str(error)
    except Exception as other:
        return f"<its str() raised {type(other).__name__}>"


def ours(name: str) -> bool:
    """Return whether a header says why and where a record was buried."""
    return name.startswith((DEAD, CONNECT))


def burials(headers: Sequence[Header]) -> list[int]:
    """Return where in the headers each burial begins: a dead letter may die again, as a record of a queue."""
    return [place for place, (name, _) in enumerate(headers) if name == REASON_HEADER]


def burial_headers(
    lease: Lease, queue: str, attempts: int, reason: str, error: BaseException | None, now: int
) -> list[Header]:
    """Return the headers of a dead letter: the record's own, in their order, and then why."""
    record = lease.record
    kept = list(record.headers)
    if lease.level and PRIORITY_HEADER not in dict(kept):
        kept.append((PRIORITY_HEADER, b"%d" % lease.level))
    facts: dict[str, bytes] = {
        "reason": capped(reason, MAX_MESSAGE_BYTES),
        "attempts": b"%d" % attempts,
        "topic": record.topic.encode(),
        "partition": b"%d" % record.partition,
        "offset": b"%d" % record.offset,
        "group": queue.encode(),
        "time": b"%d" % now,
    }
    connect = {name: facts[name] for name in ("topic", "partition", "offset")}
    connect["connector.name"] = facts["group"]
    if error is not None:
        facts["exception"] = f"{type(error).__module__}.{type(error).__qualname__}".encode()
        facts["message"] = capped(message_of(error), MAX_MESSAGE_BYTES)
        facts["traceback"] = capped("".join(traceback.format_exception(error)), MAX_TRACEBACK_BYTES)
        connect["exception.class.name"] = facts["exception"]
        connect["exception.message"] = facts["message"]
        connect["exception.stacktrace"] = facts["traceback"]
    return [
        *kept,
        *((DEAD + name, value) for name, value in facts.items()),
        *((CONNECT + name, value) for name, value in connect.items()),
    ]


def bury(engine: Engine, source: QueueSource, lease: Lease, topic: str, headers: list[Header]) -> None:
    """Move a record to the dead-letter topic, in one step with its end in the queue.

    Raises:
        LeaseLostError: somebody else has the record; nothing was done.
    """
    record = lease.record
    without = [header for header in headers if header[0] not in TRACES]
    for wanted in (headers, without):
        try:
            with engine.transaction(transaction_bytes=LARGEST_BYTES) as transaction:
                transaction.append(
                    topic, record.value, record.key, headers=wanted, timestamp=record.timestamp
                )
                transaction.ack([lease])
            return
        except UnknownTopicError:
            create_dead_letter_topic(engine, topic, engine.describe_topic(source.topic))
            bury(engine, source, lease, topic, wanted)
            return
        except RecordTooLargeError:
            if wanted is not headers:
                raise


def undecodable(record: Record, error: Exception) -> SerializationError:
    """Return the error that says which record cannot be decoded."""
    found = SerializationError(
        f"the value of {record.topic}-{record.partition} at offset {record.offset}: {message_of(error)}",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        part="value",
    )
    found.__cause__ = error
    return found


def create_dead_letter_topic(engine: Engine, topic: str, origin: TopicDescription) -> None:
    """Create it as durable as the queue's own topic, with room for what is added to a record."""
    config = origin.config
    engine.create_topic(
        topic,
        partitions=1,
        durability=config.durability,
        segment_bytes=config.segment_bytes,
        max_record_bytes=min(config.max_record_bytes + ROOM_BYTES, config.segment_bytes - 8192),
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record in a dead-letter topic, and what its headers say of it."""

    record: Record
    reason: str
    attempts: int
    topic: str
    """Where the record was, with `partition` and `offset`."""
    partition: int
    offset: int
    group: str
    """The queue that buried it."""
    time: int
    """When: nanoseconds since 1970."""
    exception: str | None
    message: str | None
    traceback: str | None
    redrives: int
    """How often it was redriven before."""
    identity: str

    @classmethod
    def of(cls, record: Record) -> DeadLetter:
        """Return what the headers say; a record that was not buried here has the reason "unknown"."""
        headers = record.headers
        begins = [*burials(headers), len(headers)]
        first = texts(headers[begins[0] : begins[min(1, len(begins) - 1)]])
        said = texts(headers[begins[-2] :]) if len(begins) > 1 else {}
        return cls(
            record,
            reason=said.get(REASON_HEADER, "unknown"),
            attempts=number(said.get(DEAD + "attempts"), 0),
            topic=said.get(DEAD + "topic", ""),
            partition=number(said.get(DEAD + "partition"), -1),
            offset=number(said.get(DEAD + "offset"), -1),
            group=said.get(DEAD + "group", ""),
            time=number(said.get(DEAD + "time"), record.timestamp),
            exception=said.get(DEAD + "exception"),
            message=said.get(DEAD + "message"),
            traceback=said.get(DEAD + "traceback"),
            redrives=number(texts(headers).get(REDRIVES_HEADER), 0),
            identity=identity_of_letter(record, first),
        )


def texts(headers: Sequence[Header]) -> dict[str, str]:
    """Return headers as text, of each name the last."""
    return {name: (value or b"").decode(errors="replace") for name, value in headers}


def level_of(record: Record, levels: int) -> int:
    """Return the level that the record was put with, or the highest there is."""
    return min(stated(record, PRIORITY_HEADER) or 0, levels - 1)


def number(text: str | None, otherwise: int) -> int:
    """Return the digits' number; anybody may have written the header."""
    found = None if text is None else number_of(text.encode())
    return otherwise if found is None else found


def identity_of_letter(record: Record, first: dict[str, str]) -> str:
    """Return the identity of the record that a dead letter is; its first burial says where it was."""
    if DEAD + "topic" not in first or any(name == IDENTITY_HEADER for name, _ in record.headers):
        return identity_of(record)
    return f"{first[DEAD + 'topic']}-{first.get(DEAD + 'partition')}@{first.get(DEAD + 'offset')}"


class Redriven(NamedTuple):
    """What a redrive did, or would do."""

    redriven: int
    left: int
    """Dead letters that are there still."""


@dataclass
class DeadLetters:
    """The dead letters of a queue: to look at, to bring back, to throw away. May be shared by threads."""

    engine: Engine
    topic: str
    """Where they are; there is no such topic before the first one."""
    origin: QueueSource
    clock: Clock
    sleep: Callable[[float], object] = time.sleep
    _opened: QueueSource | None = field(default=None, repr=False)
    _uuid: str | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def _source(self) -> QueueSource | None:
        """Return the dead-letter topic as a queue; None where nothing was buried yet."""
        there = self._there()
        with self._lock:
            if self._opened is not None and there != self._uuid:
                self._opened.close()  # the topic was deleted, and perhaps made anew
                self._opened = None
            if self._opened is None and there is not None:
                self._opened, self._uuid = self.engine.queue_source(self.topic, topic=self.topic), there
            return self._opened

    def _there(self) -> str | None:
        """Return which topic it is now, None where there is none."""
        try:
            return self.engine.describe_topic(self.topic).uuid
        except UnknownTopicError:
            return None

    def _unfinished(self, most: int = MOST_SHOWN) -> Iterator[Record]:
        """Yield the records that are there, oldest burial first."""
        try:
            source = self._source()
        except UnknownTopicError:
            # opened read-only, and never worked: all that was buried is there
            if self._there() is not None:
                yield from self.engine.read(self.topic)
            return
        if source is not None:
            for entry in source.peek(most):
                yield entry.record

    def close(self) -> None:
        """End."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    # ---- looking ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        try:
            source = self._source()
        except UnknownTopicError:
            return sum(1 for _ in self._unfinished())
        if source is None:
            return 0
        return sum(c.ready + c.blocked + c.delayed + c.in_flight for c in source.counts())

    def __iter__(self) -> Iterator[DeadLetter]:
        """Yield what is there, oldest burial first; of very many the first million."""
        return map(DeadLetter.of, self._unfinished())

    def by_reason(self) -> Counter[str]:
        """Return how many there are of each reason."""
        return Counter(letter.reason for letter in self)

    def oldest(self) -> int | None:
        """Return when the first of them was buried, ns since 1970, None where there is none."""
        first = next(self._unfinished(1), None)
        return None if first is None else DeadLetter.of(first).time

    # ---- bringing back ----------------------------------------------------------------------------------

    def redrive(
        self,
        *,
        where: Filter | None = None,
        to: Queue | str | None = None,
        rate: float | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> Redriven:
        """Put dead letters back where they came from, or elsewhere: each in one step, and repeatable.

        They come with their key, value, headers, timestamp and priority, a new offset, and no expiry; their
        identity stays, and their attempts begin anew. Several may redrive at once.

        Args:
            where: Which; left out: all that are there now.
            to: A topic or a Queue; left out: partition and topic of their origin.
            rate: The most per second.
            limit: The most at all.
            dry_run: Change nothing, and return what would be done.

        Raises:
            ConfigError: `to` is the dead-letter topic itself, or a record does not say where it came from.
            UnknownTopicError, RecordTooLargeError: it cannot go there. It stays, as the first of those that
                have to, and all others were brought back.
        """
        target = to if isinstance(to, str) or to is None else to.topic
        if target == self.topic:
            raise ConfigError(f"{target!r} is the dead-letter topic itself: redriving would never end")
        if target is not None:
            self.engine.describe_topic(target)  # raises where there is none
        if rate is not None and not rate >= LOWEST_RATE:
            raise ConfigError(f"rate={rate} is out of range: at least {LOWEST_RATE:g} per second")
        if limit is not None:
            check_count(limit, "limit", 0, 1 << 62)
        if dry_run:
            chosen = [where is None or where.matches(record) for record in self._unfinished()]
            moved = sum(chosen) if limit is None else min(sum(chosen), limit)
            return Redriven(moved, len(chosen) - moved)
        source = self._source()
        if source is None:
            return Redriven(0, 0)
        moved = self._redrive(source, where, to, rate, limit)
        return Redriven(moved, len(self))

    def _redrive(
        self,
        source: QueueSource,
        where: Filter | None,
        to: Queue | str | None,
        rate: float | None,
        limit: int | None,
    ) -> int:
        at_once = AT_ONCE if rate is None else max(1, int(min(AT_ONCE, rate / 10)))
        began, moved = self.clock.monotonic(), 0
        # what is buried again meanwhile is not chased
        partitions = range(self.engine.describe_topic(self.topic).partitions)
        ends = [self.engine.log_end_offset(self.topic, partition) for partition in partitions]
        held: list[Lease] = []
        refused: list[PylogError] = []
        pending: list[Lease] = []
        try:
            while limit is None or moved < limit:
                wanted = at_once if limit is None else min(at_once, limit - moved)
                pending = list(source.lease(wanted, 0.0, start=False))
                chosen: list[Lease] = []
                behind = 0
                for lease in pending:
                    late = lease.record.offset >= ends[lease.record.partition]
                    wants = not late and (where is None or where.matches(lease.record))
                    (chosen if wants else held).append(lease)
                    behind += late
                if behind == len(pending):
                    break
                if rate is not None and chosen:
                    self.sleep(max(0.0, began + moved / rate - self.clock.monotonic()))
                held += chosen  # what was moved is left alone in the end
                moved += self._move(chosen, to, refused)
        finally:
            # held until now, so that each was looked at once
            source.release([*held, *pending])
        if refused:
            refused[0].add_note(f"{len(refused)} stay, {moved} were brought back")
            raise refused[0]
        return moved

    def _move(self, leases: list[Lease], to: Queue | str | None, refused: list[PylogError]) -> int:
        """Bring back as many as can be, in as few steps; returns how many."""
        if not leases:
            return 0
        try:
            with self.engine.transaction(transaction_bytes=LARGEST_BYTES) as transaction:
                for lease in leases:
                    topic, partition = self._target(lease.record, to)
                    transaction.append(
                        topic,
                        lease.record.value,
                        lease.record.key,
                        partition=partition,
                        headers=redriven_headers(lease.record, self.clock.time_ns()),
                        timestamp=lease.record.timestamp,
                    )
                transaction.ack(leases)
            return len(leases)
        except (LeaseLostError, UnknownTopicError, RecordTooLargeError, ConfigError) as error:
            if len(leases) > 1:
                half = len(leases) // 2
                return self._move(leases[:half], to, refused) + self._move(leases[half:], to, refused)
            if not isinstance(error, LeaseLostError):  # else somebody else redrove it
                refused.append(error)
            return 0

    def _target(self, record: Record, to: Queue | str | None) -> tuple[str, int | None]:
        if isinstance(to, str):
            return to, None
        if to is not None:
            level = level_of(record, to.source.config.priorities)
            return to.topic, to.source.partition_for(record.key, level)
        letter = DeadLetter.of(record)
        if not letter.topic or letter.topic == self.topic:
            raise ConfigError(
                f"{record.topic}-{record.partition} offset {record.offset} does not say where it came from: "
                "give to="
            )
        return letter.topic, letter.partition

    def purge(self) -> int:
        """Finish all that are there: they are not redriven any more. Returns how many."""
        source = self._source()
        return 0 if source is None else source.purge()


def redriven_headers(record: Record, now: int) -> list[Header]:
    """Return the headers of a record that comes back: its own, its identity, and when it may be tried."""
    letter = DeadLetter.of(record)
    gone = (DUE_HEADER, EXPIRES_HEADER, IDENTITY_HEADER, REDRIVES_HEADER)
    begins = burials(record.headers)
    # what the last burial added; one before it is the record's own by now
    added = begins[-1] if begins else len(record.headers)
    kept: list[Any] = [
        header
        for place, header in enumerate(record.headers)
        if header[0] not in gone and not (place >= added and ours(header[0]))
    ]
    return [
        *kept,
        (IDENTITY_HEADER, letter.identity.encode()),
        (REDRIVES_HEADER, b"%d" % (letter.redrives + 1)),
        (DUE_HEADER, b"%d" % now),
    ]
