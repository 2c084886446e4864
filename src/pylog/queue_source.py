"""The seam below queues: what an engine offers natively for one queue over one topic.

Protocols only, and no policy: what a retry is, when a record is dead and what a Delivery does when it is
dropped is decided above. Invariant: a record that is not finished is ready, blocked, delayed or in flight,
whoever dies, and what a lease does is refused as soon as somebody else got the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from pylog.queue_options import DeliveryState, QueueConfig, QueueCounts, QueueEntry
from pylog.records import Record

if TYPE_CHECKING:
    from pylog.engine import Arrivals


class Lease(Protocol):
    """A record that is in flight here, and nowhere else as long as the lease holds.

    It holds while this process lives and is not stopped for visibility_timeout, and for max_processing at
    most; the engine sees to the first by itself. Dropping the object ends nothing: nack() or release() it.
    Inert in a forked child: using it there raises LeaseLostError.
    """

    @property
    def record(self) -> Record:
        """The record."""

    @property
    def delivery_count(self) -> int:
        """How many deliveries were started; this one is counted once it is."""

    @property
    def started(self) -> bool:
        """Whether this delivery was counted."""

    @property
    def token(self) -> int:
        """The fencing token: larger for each later lease of the record."""

    @property
    def level(self) -> int:
        """The record's priority level; 0 where there are none."""


@runtime_checkable
class QueueSource(Protocol):
    """The records of a topic as one queue. May be shared by threads; each process opens its own.

    Every method raises ClosedError after close(), ReadOnlyError where it would change something through an
    engine that was opened read-only, and LockTimeoutError where a stopped process holds the queue's table.
    """

    @property
    def queue(self) -> str:
        """The name of the queue."""

    @property
    def topic(self) -> str:
        """The name of the topic."""

    @property
    def config(self) -> QueueConfig:
        """The options that hold for all who work the queue."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was stored with the queue for who opens it, JSON values; the source does not read them."""

    def partition_for(self, key: bytes | None, level: int = 0) -> int | None:
        """Return where to append a record of a level; None: wherever the topic's partitioner puts it.

        Raises:
            ConfigError: no such level.
        """

    # ---- leases -----------------------------------------------------------------------------------------

    def lease(
        self, max_records: int = 1, timeout: float | None = 0.0, *, start: bool = True
    ) -> Sequence[Lease]:
        """Return up to max_records leases, waiting up to timeout seconds (None: for ever) for the first.

        Ready records come by level as the policy says, within a partition those that were there before
        first, by offset; nothing is returned before it is due. A caller that waits uses no CPU.

        Args:
            start: Count the delivery of each now; False leaves that to start(), for who leases ahead.

        Raises:
            DiskFullError: the table cannot grow; what is in flight can still be finished.
            CorruptionError: a record cannot be read; it stays ready, and the error says where it is.
        """

    def start(self, lease: Lease) -> None:
        """Count a delivery; one that was started already is not counted again.

        Raises:
            LeaseLostError: somebody else has the record, or it is finished.
        """

    def ack(self, lease: Lease) -> None:
        """Finish a record: it is never delivered again (but see sync()).

        Raises:
            LeaseLostError: somebody else has the record, or it is finished; nothing was changed.
        """

    def ack_many(self, leases: Iterable[Lease]) -> Sequence[Lease]:
        """Finish many by a few native calls; returns those whose lease was lost, the others are finished."""

    def nack(self, lease: Lease, delay: float = 0.0) -> None:
        """Give a record back: ready again in `delay` seconds of the wall clock. The count stays.

        Raises:
            LeaseLostError: as ack().
        """

    def release(self, leases: Iterable[Lease]) -> None:
        """Give records back as if they had not been leased: ready at once, and an attempt is not burnt.

        For shutdown and KeyboardInterrupt. Leases that were lost are left alone.
        """

    def extend(self, lease: Lease, seconds: float | None = None) -> None:
        """Let a delivery take so many seconds from now; None: max_processing once more.

        Raises:
            LeaseLostError: as ack().
        """

    # To finish records in a transaction, together with appends and offsets, in one atomic step:
    # `transaction.ack(leases)`. commit() raises LeaseLostError where one was lost, and has done nothing.

    # ---- waiting in an event loop, as consumers do ------------------------------------------------------

    @property
    def arrivals(self) -> Arrivals | None:
        """What an event loop waits by; None where it has to poll."""

    def announce(self) -> float:
        """Say that somebody waits for a record: call lease(timeout=0) once more, then wait for `arrivals`.

        Returns the seconds after which to look again, announced or not: a record may come due.
        """

    # ---- looking ----------------------------------------------------------------------------------------

    def counts(self) -> list[QueueCounts]:
        """Return how many records of each level are in each state."""

    def oldest(self, level: int) -> int | None:
        """Return the timestamp (ns) of the first record of a level that is not finished, or None."""

    def next_due(self) -> int | None:
        """Return when the first delayed record comes due, ns since 1970, or None."""

    def peek(self, max_records: int = 10, state: DeliveryState | None = None) -> list[QueueEntry]:
        """Return records that are not finished, by level and offset, and change nothing."""

    def state_of(self, partition: int, offset: int) -> DeliveryState:
        """Return the state of one record: "finished" also where it is gone from the log.

        Raises:
            OffsetOutOfRangeError: beyond the log end offset.
        """

    def floor(self, partition: int) -> int:
        """Return the offset below which every record of a partition is finished: what retention may take."""

    # ---- the rest ---------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Finish every record that is there now and not in flight; returns how many."""

    def sync(self) -> None:
        """Return when a power cut can undo nothing that was acked, nacked or counted before.

        Happens every second by itself, and in close(). What a power cut undoes is delivered again.
        """

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened: leased, acked, nacked, released, reclaimed, lost."""

    def close(self) -> None:
        """Sync, and end. A second call does nothing.

        What is in flight here goes back as if its process had died, unless the queue is open here a second
        time: then the last one to close gives it back. release() what was not begun before.
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
