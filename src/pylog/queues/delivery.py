"""Delivery: one record that is in flight here, and what may come of it.

Not the lease, which the engine keeps alive, and no retry loop. Invariant: a delivery ends once; one that is
dropped without an end is given back at the queue's next call, and a warning says so.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pylog.errors import CircuitOpenError, ClosedError, LeaseLostError, PylogError
from pylog.queue_source import Lease
from pylog.records import Record
from pylog.retries import Permit

if TYPE_CHECKING:
    from pylog.queues.queue import Queue


NO_LONGER_OURS = (LeaseLostError, ClosedError)
"""Somebody else has the record, or close() gave it back."""
UNDECODED = object()
"""Stands for the value of a queue without a serde: it is read when it is asked for."""


class Forks:
    """How often this process is a forked child: such a one has no part in its parent's deliveries."""

    count = 0

    @classmethod
    def note(cls) -> None:
        """Count one; called in the child."""
        cls.count += 1


os.register_at_fork(after_in_child=Forks.note)


class Delivery:
    """A record of a queue that nobody else has as long as this object lives; made by Queue.get().

    As a context manager it is acked where the block ends well, given back with back-off (or dead-lettered)
    where it raises an Exception, and given back without burning an attempt on KeyboardInterrupt, SystemExit,
    CancelledError and CircuitOpenError. The exception goes on. Threads may pass it on, not share it.
    """

    __slots__ = ("__weakref__", "_forks", "_lease", "_over", "_permit", "_queue", "_value")

    def __init__(
        self, queue: Queue, lease: Lease, permit: Permit | None = None, value: Any = UNDECODED
    ) -> None:
        self._over = False
        self._queue = queue
        self._lease = lease
        self._permit = permit
        self._forks = Forks.count
        self._value = value

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def record(self) -> Record:
        """The record as the log has it."""
        return self._lease.record

    @property
    def value(self) -> Any:
        """The value, decoded where the queue has a serde."""
        return self._lease.record.value if self._value is UNDECODED else self._value

    @property
    def key(self) -> bytes | None:
        """Key of the record."""
        return self.record.key

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Headers of the record, also those that the queue wrote."""
        return self.record.headers

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.record.topic

    @property
    def partition(self) -> int:
        """Number of the partition."""
        return self.record.partition

    @property
    def offset(self) -> int:
        """Offset in the partition."""
        return self.record.offset

    @property
    def priority(self) -> int:
        """The record's level."""
        return self._lease.level

    @property
    def delivery_count(self) -> int:
        """How many deliveries of the record were started, this one included once it was."""
        return self._lease.delivery_count

    @property
    def token(self) -> int:
        """The fencing token: larger for each later lease of the record."""
        return self._lease.token

    @property
    def identity(self) -> str:
        """What stays the same however often the record is delivered, dead-lettered and redriven."""
        from pylog.queues.dead_letters import identity_of

        return identity_of(self.record)

    @property
    def over(self) -> bool:
        """Whether it was ended."""
        return self._over

    # ---- what comes of it -------------------------------------------------------------------------------

    def start(self) -> None:
        """Count the attempt. Entering the block does, and so did get(); those of get_many() wait for it.

        Raises:
            LeaseLostError: somebody else has the record, or it is finished.
        """
        self._queue.source.start(self._lease)

    def ack(self) -> None:
        """Finish the record: it is never delivered again.

        Raises:
            LeaseLostError: somebody else has the record, or it is finished; nothing was changed.
        """
        if self._permit is not None:
            self._queue.note_success(self._permit)
        try:
            self._queue.source.ack(self._lease)
        except NO_LONGER_OURS:
            self._over = True
            raise
        self._over = True

    def nack(self, delay: float | None = None, error: BaseException | None = None) -> None:
        """Give the record back, to be delivered again; or dead-letter it after its last attempt.

        Args:
            delay: Seconds until then; left out: what the queue's retry policy says, which may also give up.
            error: What went wrong.

        Raises:
            LeaseLostError: as ack().
        """
        if self._permit is not None:
            self._queue.note_failure(self._permit, error)
        with self._ending():
            self._queue.give_back(self._lease, delay, error)

    def reject(self, reason: str = "rejected", error: BaseException | None = None) -> None:
        """Dead-letter the record now, whatever attempts are left.

        Raises:
            LeaseLostError: as ack().
        """
        if self._permit is not None:
            self._queue.note_success(self._permit)  # the record is bad, not what handles it
        with self._ending():
            self._queue.bury(self._lease, reason, error)

    def release(self) -> None:
        """Give the record back as if it had not been delivered: no attempt is burnt."""
        if self._permit is not None:
            self._queue.note_nothing(self._permit)
        with self._ending():
            self._queue.source.release([self._lease])

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Be over where the block ends it or somebody else has it; not where it failed, as on a full disk."""
        try:
            yield
        except NO_LONGER_OURS:
            self._over = True
            raise
        self._over = True

    def extend(self, seconds: float | None = None) -> None:
        """Let it take so many seconds from now; left out: max_processing once more.

        Raises:
            LeaseLostError: as ack().
        """
        self._queue.source.extend(self._lease, seconds)

    # ---- as a block -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if not self._lease.started:
            try:
                self.start()
            except LeaseLostError:
                self._over = True
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over:
            return
        if error is None:
            self.ack()
        else:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """End as the exception that leaves the block says, which must not be hidden by another one."""
        try:
            if isinstance(error, Exception) and not isinstance(error, CircuitOpenError):
                self.nack(error=error)
            else:
                self.release()
        except PylogError as later:
            # the lease holds no longer than this process lives: the record is not lost
            error.add_note(f"and the delivery could not be given back: {later}")

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception):
            self.__exit__(kind, error, trace)
        else:
            # may commit a transaction
            await asyncio.to_thread(self.__exit__, kind, error, trace)

    def __del__(self) -> None:
        if self._over or self._forks != Forks.count:
            return
        # may run within any call of the engine: who calls the queue next gives it back
        if self._queue.note_dropped(self._lease, self._permit) and self._lease.started:
            warnings.warn(f"{self!r} was dropped without ack, nack or reject", ResourceWarning, 2, self)

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.topic}-{self.partition} offset {self.offset} of queue {self._queue.name!r}, "
            f"attempt {self.delivery_count}>"
        )
