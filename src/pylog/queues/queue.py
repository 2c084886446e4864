"""Queue: put, get, and what becomes of what was got. A thin facade over a QueueSource.

Which record is next, and who has it, is the engine's business; when it is tried again and when it is dead is
decided here. Invariant: whatever is taken from the source ends as a Delivery, in the dead-letter topic, or
finished because a filter does not want it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, get_args

from logcore.direct_queue import Delivery, DirectQueue
from pylog.clock import Clock, Deadline, SystemClock
from pylog.config import check_choice, check_count, check_seconds
from pylog.engine import Engine, Headers
from pylog.errors import CircuitOpenError, ConfigError, LeaseLostError, PylogError
from pylog.filters import Sieve, has_header
from pylog.places import nanoseconds
from pylog.queue_options import (
    DUE_HEADER,
    EXPIRES_HEADER,
    PRIORITY_HEADER,
    DeliveryState,
    QueueCounts,
    QueueEntry,
    stated,
)
from pylog.queue_source import Lease, QueueSource
from pylog.queues.dead_letters import (
    MAX_MESSAGE_BYTES,
    DeadLetters,
    burial_headers,
    bury,
    capped,
    identity_of,
    undecodable,
)
from pylog.queues.options import DEFAULT_RETRY, OnDeadLetter
from pylog.queues.putting import SequencedPuts, pairs, put_at
from pylog.records import Record, RecordId
from pylog.retries import CircuitBreaker, Permit, Retry
from pylog.serdes import Serde, serde_for

if TYPE_CHECKING:
    from pylog.queues.face import QueueFace
    from pylog.queues.workers import Handler

logger = logging.getLogger("pylog")

EXPIRES = has_header(EXPIRES_HEADER).matcher
"""Answers from the columns: most records never expire."""

BREAKER_SECONDS = 0.05
"""How often somebody who waits looks at a breaker that is being tried."""
JOIN_SECONDS = 0.05
"""join() looks at least so often: that a record ended elsewhere wakes nobody."""
ASIDE_SECONDS = 60.0
SWEEP_SECONDS = 1.0
"""Who waits looks so often for deliveries that were dropped here: that wakes nobody."""
WAITING: tuple[DeliveryState, ...] = ("ready", "blocked", "delayed")


def checked(state: DeliveryState) -> DeliveryState:
    """Return the state if there is one of that name."""
    return cast(DeliveryState, check_choice(state, "state", get_args(DeliveryState)))


class Queue(DirectQueue):
    """A work queue over a topic; made by engine.queue(). Threads may share it; each process opens its own.

    `put`, `get`, `get_many` and `ack_many` are the native core's own methods.
    """

    source: QueueSource
    """What the engine offers for this queue."""

    def __init__(
        self,
        engine: Engine,
        source: QueueSource,
        *,
        dead_letter: str,
        serde: str | Serde | None = None,
        retry: Retry = DEFAULT_RETRY,
        breaker: CircuitBreaker | None = None,
        sieve: Sieve | None = None,
        on_dead_letter: OnDeadLetter | None = None,
        producer_id: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            engine,
            source,
            expires=EXPIRES,
            most=source.config.max_deliveries,
            puts=serde is None and producer_id is None and source.config.priorities == 1,
            plain=serde is None and sieve is None and breaker is None,
        )
        self.name = source.queue
        self._clock = clock or SystemClock()
        self.dead_letters = DeadLetters(engine, dead_letter, source, self._clock)
        self._engine = engine
        self._serde = serde_for(serde, "serde")
        self._retry = retry
        self._breaker = breaker
        self._sieve = sieve
        self._on_dead_letter = on_dead_letter
        self._placed = source.config.priorities > 1
        self._lock = threading.RLock()  # what on_rejected calls may count as well
        self._dead: Counter[str] = Counter()
        self._sequenced = None if producer_id is None else SequencedPuts(engine, self.topic, producer_id)

    # ---- putting ----------------------------------------------------------------------------------------

    def _put(
        self,
        value: Any,
        key: bytes | None,
        priority: int,
        delay: float | None,
        at: int | datetime | None,
        expiry: float | None,
        headers: Headers | None,
        sequence: int | None,
    ) -> RecordId | None:
        """Put what is more than an append."""
        if self._serde is not None and value is not None:
            value = self._serde.serialize(value)
        partition = None
        if self._placed or priority:
            partition = self.source.partition_for(key, priority)
        if priority or delay is not None or at is not None or expiry is not None:
            headers = [*pairs(headers), *self._terms(priority, delay, at, expiry)]
        if self._sequenced is not None or sequence is not None:
            if self._sequenced is None or sequence is None:
                raise ConfigError("producer_id= and sequence= go together")
            return self._sequenced.put(value, key, partition, headers, sequence)
        return self._engine.append(self.topic, value, key, partition=partition, headers=headers)

    def _terms(
        self, priority: int, delay: float | None, at: int | datetime | None, expiry: float | None
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the headers that say when and how a record is to be delivered."""
        now = self._clock.time_ns()
        if priority:
            yield PRIORITY_HEADER, b"%d" % priority
        if delay is not None and at is not None:
            raise ConfigError("delay= and at= both say when: give one of them")
        if at is not None:
            yield DUE_HEADER, b"%d" % nanoseconds(at)
        if delay is not None:
            yield DUE_HEADER, b"%d" % (now + round((check_seconds(delay, "delay") or 0.0) * 1e9))
        if expiry is not None:
            yield EXPIRES_HEADER, b"%d" % (now + round((check_seconds(expiry, "expiry") or 0.0) * 1e9))

    def put_many(
        self,
        values: Sequence[Any],
        keys: Sequence[bytes | None] | None = None,
        *,
        priority: int = 0,
        delay: float | None = None,
        at: int | datetime | None = None,
        expiry: float | None = None,
        headers: Headers | None = None,
    ) -> Sequence[RecordId]:
        """Append many records on the same terms by one native call. As put(), and as Engine.append_many.

        Raises:
            PartialAppendError: a later batch failed; `appended` has what is in.
            ValueError: not as many keys as values.
        """
        if self._sequenced is not None:
            raise ConfigError("with producer_id= each record needs its sequence=: put() them one by one")
        serde = self._serde
        if serde is not None:
            values = [None if value is None else serde.serialize(value) for value in values]
        each = [*pairs(headers), *self._terms(priority, delay, at, expiry)]
        many = [each] * len(values) if each else None
        if not self._placed and not priority:
            return self._engine.append_many(self.topic, values, keys, headers=many)
        if keys is not None and len(keys) != len(values):
            raise ValueError(f"{len(values)} values and {len(keys)} keys: one key a value")
        given = [None] * len(values) if keys is None else keys
        places = [self.source.partition_for(key, priority) for key in given]
        return put_at(self._engine, self.topic, places, values, keys, each or None)

    def resume_from(self) -> int:
        """Return the first sequence that may be missing; with producer_id=."""
        if self._sequenced is None:
            raise ConfigError("resume_from() needs producer_id=")
        return self._sequenced.resume_from()

    # ---- getting ----------------------------------------------------------------------------------------

    def _get(self, timeout: float | None) -> Delivery | None:
        found = self._wait(1, timeout, start=True)
        return found[0] if found else None

    def _get_many(self, max_records: int, timeout: float | None) -> list[Delivery]:
        check_count(max_records, "max_records", 1, 1 << 20)
        return self._wait(max_records, timeout, start=False)

    def _wait(self, max_records: int, timeout: float | None, *, start: bool) -> list[Delivery]:
        deadline = Deadline(self._clock, check_seconds(timeout, "timeout"))
        while True:
            self._sweep()
            permit = self._enter(deadline)
            if permit is None and self._breaker is not None:
                return []
            found: list[Delivery] = []
            try:
                left = deadline.left(SWEEP_SECONDS)
                leases = self.source.lease(max_records if permit is None else 1, left, start=start)
                if permit is not None and leases and not self._holds(permit):
                    # it opened while we waited
                    self.source.release(leases)
                    continue
                found = self._admitted(leases, permit, start)
            finally:
                if permit is not None and not found:
                    self.note_nothing(permit)
            if found:
                return found
            if timeout is None:
                continue
            # where others come behind what was refused, timeout=0 goes on to them, since they are there
            if (timeout > 0 and deadline.passed()) if leases else left < SWEEP_SECONDS:
                return []

    def _holds(self, permit: Permit) -> bool:
        return self._breaker is None or self._breaker.holds(permit)

    def _enter(self, deadline: Deadline) -> Permit | None:
        """Return the breaker's permit; None where there is no breaker, or none came in time."""
        while self._breaker is not None:
            try:
                return self._breaker.enter()
            except CircuitOpenError as refused:
                if deadline.passed():
                    return None
                self._sweep()  # the call that is being tried may have been dropped
                # its clock may be another one: look again soon, at the latest then
                time.sleep(min(deadline.left(refused.retry_after or BREAKER_SECONDS), BREAKER_SECONDS))
        return None

    def _admit(self, lease: Lease, permit: Permit | None = None) -> Delivery | None:
        """Return a lease as a Delivery; None where the record is dead, unwanted, or lost meanwhile."""
        record = lease.record
        try:
            before = lease.delivery_count - lease.started
            if before >= self._most:
                # whoever had it last died of it
                self._bury(lease, before, "max_deliveries", None)
                return None
            if EXPIRES.match(record) is not False and self._expired(record):
                self._bury(lease, before, "expired", None)
                return None
            if self._sieve is not None and not self._wanted(self._sieve, lease):
                return None
            if self._serde is None:
                return self._deliver(lease, permit)
            value = record.value
            if value is not None:
                try:
                    value = self._serde.deserialize(value)
                except Exception as error:
                    self._bury(lease, before, "undecodable", undecodable(record, error))
                    return None
        except LeaseLostError:
            return None
        except PylogError:
            self._set_aside(lease)
            return None
        except BaseException:
            self.source.release([lease])
            raise
        return self._deliver_decoded(lease, permit, value)

    def _expired(self, record: Record) -> bool:
        expires = stated(record, EXPIRES_HEADER)
        return expires is not None and expires <= self._clock.time_ns()

    def _wanted(self, sieve: Sieve, lease: Lease) -> bool:
        try:
            with self._lock:
                if sieve.lets_through(lease.record):
                    return True
        except Exception as error:
            logger.exception("the filter of queue %r", self.name)
            self.source.start(lease)
            self.give_back(lease, None, error)  # as a handler that fails: it may be this record's fault
            return False
        self.source.ack(lease)
        return False

    # ---- what was dropped -------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Give back what was dropped."""
        while (dropped := self._take_dropped()) is not None:
            lease, permit = dropped
            try:
                if lease.started:
                    if permit is not None:
                        self.note_failure(permit, None)
                    self.give_back(lease, None, None)
                else:
                    if permit is not None:
                        self.note_nothing(permit)
                    self.source.release([lease])
            except LeaseLostError:
                pass
            except PylogError:
                self._set_aside(lease)

    def _set_aside(self, lease: Lease) -> None:
        """Keep a record that cannot be ended now, as on a full disk, out of the way of the others."""
        logger.exception("queue %r: %r is tried again in %g s", self.name, lease.record, ASIDE_SECONDS)
        with suppress(LeaseLostError):
            self.source.nack(lease, ASIDE_SECONDS)

    def __iter__(self) -> Iterator[Delivery]:
        """Yield deliveries for ever; Ctrl-C leaves cleanly."""
        while True:
            delivery = self.get()
            if delivery is not None:
                yield delivery

    def run(
        self, handler: Handler, *, workers: int = 1, prefetch: int = 1, idle: float | None = None
    ) -> None:
        """Call the handler with each delivery, log what fails and go on, until SIGTERM, SIGINT or stop().

        A handler that returns acks, one that raises gives back with back-off. What is in flight is finished
        before this returns; what was prefetched and not begun is given back without burning an attempt.

        Args:
            workers: Threads. More processes may run the same queue.
            prefetch: How many records a worker takes at once; 1 where the most urgent always comes next.
            idle: Also return when nothing was to be done for so many seconds.
        """
        from pylog.queues.workers import Workers

        Workers(self, handler, workers=workers, prefetch=prefetch).run(idle=idle)

    def as_queue(self, maxsize: int = 0, *, serde: str | Serde | None = None) -> QueueFace:
        """Return the face of queue.Queue: items instead of deliveries, Empty and Full, task_done and join."""
        from pylog.queues.face import QueueFace

        return QueueFace(self, maxsize, serde)

    # ---- what becomes of a delivery ---------------------------------------------------------------------

    _identity_of = staticmethod(identity_of)

    def _fail(self, delivery: Delivery, error: BaseException) -> None:
        """End as the exception that leaves the block says, which must not be hidden by another one."""
        try:
            if isinstance(error, Exception) and not isinstance(error, CircuitOpenError):
                delivery.nack(error=error)
            else:
                delivery.release()
        except PylogError as later:
            # the lease holds no longer than this process lives: the record is not lost
            error.add_note(f"and the delivery could not be given back: {later}")

    def give_back(self, lease: Lease, delay: float | None, error: BaseException | None) -> None:
        """Have the lease's record delivered again, or bury it: what Delivery.nack() does."""
        attempts = lease.delivery_count
        if attempts >= self._most:
            self.bury(lease, "max_deliveries", error)
            return
        if delay is None:
            decision = self._retry.decide(error, max(1, attempts), self._elapsed(lease.record))
            if decision.reason is not None:
                self.bury(lease, decision.reason, error)
                return
            delay = decision.delay or 0.0
        self.source.nack(lease, check_seconds(delay, "delay") or 0.0)

    def _elapsed(self, record: Record) -> float:
        """Return the seconds since the record could be delivered first."""
        since = max(record.timestamp, stated(record, DUE_HEADER) or 0)
        return (self._clock.time_ns() - since) / 1e9

    def bury(self, lease: Lease, reason: str, error: BaseException | None) -> None:
        """Move the lease's record to the dead-letter topic: what Delivery.reject() does."""
        if not isinstance(reason, str):
            raise TypeError(f"the reason is a str, not {type(reason).__name__}")
        attempts = min(lease.delivery_count, self._most)
        self._bury(lease, attempts, reason, error)

    def _bury(self, lease: Lease, attempts: int, reason: str, error: BaseException | None) -> None:
        reason = capped(reason, MAX_MESSAGE_BYTES).decode()  # as it will be read
        headers = burial_headers(lease, self.name, attempts, reason, error, self._clock.time_ns())
        bury(self._engine, self.source, lease, self.dead_letters.topic, headers)
        with self._lock:
            self._dead[reason] += 1
        if self._on_dead_letter is not None:
            try:
                self._on_dead_letter(lease.record, reason, error)
            except Exception:
                # the record is buried, whatever the hook says
                logger.exception("on_dead_letter of queue %r", self.name)

    def note_success(self, permit: Permit) -> None:
        """Tell the breaker."""
        if self._breaker is not None:
            self._breaker.succeed(permit)

    def note_failure(self, permit: Permit, error: BaseException | None) -> None:
        """Tell the breaker."""
        if self._breaker is not None:
            self._breaker.fail(permit, error)

    def note_nothing(self, permit: Permit) -> None:
        """Tell the breaker."""
        if self._breaker is not None:
            self._breaker.leave(permit)

    # ---- looking ----------------------------------------------------------------------------------------

    @property
    def priorities(self) -> int:
        """How many levels there are."""
        return self.source.config.priorities

    def counts(self) -> list[QueueCounts]:
        """Return how many records of each level are in each state."""
        self._sweep()
        return self.source.counts()

    def qsize(self, state: DeliveryState | None = None) -> int:
        """Return how many records are in a state; left out: how many wait, ready or not."""
        states = WAITING if state is None else (checked(state),)
        return sum(getattr(level, each) for level in self.counts() for each in states)

    def peek(self, max_records: int = 10, state: DeliveryState | None = None) -> list[QueueEntry]:
        """Return records that are not finished, by level and offset, and change nothing."""
        self._sweep()
        return self.source.peek(max_records, None if state is None else checked(state))

    def oldest_age(self, level: int = 0) -> float | None:
        """Return the age in seconds of the first unfinished record of a level, None where there is none."""
        oldest = self.source.oldest(level)
        return None if oldest is None else max(0.0, (self._clock.time_ns() - oldest) / 1e9)

    def dead_by_reason(self) -> dict[str, int]:
        """Return how many records this object buried since it was made, by reason."""
        with self._lock:
            return dict(self._dead)

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened: the source's, `dead`, and with a filter `filtered`."""
        found = {**self.source.metrics(), "dead": sum(self.dead_by_reason().values())}
        if self._sieve is not None:
            found["filtered"] = self._sieve.rejected
        return found

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every record is finished, in all processes; False where the time was up first."""
        deadline = Deadline(self._clock, check_seconds(timeout, "timeout"))
        pause = 0.0005
        while any(c.ready or c.blocked or c.delayed or c.in_flight for c in self.counts()):
            if deadline.passed():
                return False
            time.sleep(deadline.left(pause))
            pause = min(2 * pause, JOIN_SECONDS)
        return True

    # ---- the rest ---------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Finish every record that is there now and not in flight; returns how many."""
        return self.source.purge()

    def sync(self) -> None:
        """Return when a power cut can undo nothing that was acked before; happens every second by itself."""
        self.source.sync()

    def close(self) -> None:
        """Release what is in flight here, and end."""
        self.closed = True
        with suppress(PylogError):
            self._sweep()
        self.dead_letters.close()
        if self._sequenced is not None:
            self._sequenced.close()
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} over topic {self.topic!r}>"
