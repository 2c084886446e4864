# cython: language_level=3
"""DirectQueue and Delivery: what a queue does where nothing stands between its caller and the log.

Puts that need no header of the queue's, leases of records that nobody has to look at, and their acks, each
without a Python frame. What is decided, as when a record is tried again, is decided by the subclass.
Invariants: a lease that was taken is in a Delivery, with the subclass, or given back; a delivery ends once,
and one that is dropped without an end is given back at the queue's next call, and a warning says so.
"""

import asyncio
import warnings

cimport cython

from logcore.batch cimport Record
from logcore.deliveries cimport Lease
from logcore.log_directory cimport LogDirectory
from logcore.matching cimport Matcher, NO
from logcore.processes cimport fork_count
from logcore.topic_leases cimport MOST_LEASES, TopicLeases

from logcore.errors import ClosedError, LeaseLostError

cdef tuple NO_LONGER_OURS = (LeaseLostError, ClosedError)       # somebody has it, or close() gave it back

cdef class DirectQueue:
    """Puts into a topic and gets from its leases.

    A subclass gives `_put`, `_get` and `_get_many`, called with the arguments of the method where there is
    more to do than append or lease; `_admit(lease, permit)`, which makes a Delivery by `_deliver`, or None
    where it made something else of the lease; and for its deliveries `give_back`, `bury`, `_fail`,
    `_identity_of`, `note_success`, `note_failure` and `note_nothing`.

    Args:
        engine: its own append is used where it is a native directory and `puts` is set.
        source: its own leases are used where they are native.
        expires: which records may have expired.
        most: attempts of a record.
        puts: a value is put as it is, in the partition of its key.
        plain: a lease is a Delivery, unless it expired or had its attempts.
    """

    def __init__(
        self, engine: object, source: object, *, expires: Matcher, most: int, puts: bool, plain: bool
    ):
        self.directory = engine if puts and isinstance(engine, LogDirectory) else None
        self.source, self.topic = source, source.topic
        self.leases = source if isinstance(source, TopicLeases) else None
        self.expires, self._most, self.plain = expires, most, plain
        self.dropped = []

    # ---- putting --------------------------------------------------------------------------------------

    def put(
        self, value: object, key: bytes | None = None, *, priority: int = 0, delay: float | None = None,
        at: object = None, expiry: float | None = None, headers: object = None, sequence: object = None,
    ) -> object:
        """Append a record: in the queue, for all processes, on return.

        Args:
            key: Records of one key are delivered one after the other with order="key".
            priority: Its level; a higher number is more urgent.
            delay: Seconds before which it is not delivered.
            at: The time before which it is not delivered: ns since 1970, or a datetime with a time zone.
            expiry: Seconds after which it is dead-lettered instead of delivered.
            sequence: With producer_id=: strictly increasing; what is in already is dropped.

        Returns:
            Where it is, a RecordId; None where it was in already.

        Raises:
            TypeError, SerializationError, ConfigError, RecordTooLargeError, DiskFullError, LockTimeoutError,
            DurabilityError, ReadOnlyError, ClosedError: it is not in.
        """
        if self.directory is not None and (
            delay is None and at is None and expiry is None and sequence is None
            and type(priority) is int and not priority
        ):
            topic = self.directory.topic_log(self.topic)
            return topic.append_one(value, key, None, headers, None, None, None)
        return self._put(value, key, priority, delay, at, expiry, headers, sequence)

    # ---- getting --------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> object:
        """Return the next record as a started Delivery, None where none came in time.

        Args:
            timeout: Seconds to wait; 0 does not wait, None waits for ever.

        Raises:
            DiskFullError, CorruptionError, LockTimeoutError, ReadOnlyError, ClosedError
        """
        cdef list leases, found
        if self.is_direct(timeout):
            leases = self.leases.take(1, True)
            if leases:
                self.leases.note_leased(1)
                found = self.admit(leases, None, True)
                if found:
                    return found[0]
        return self._get(timeout)

    def get_many(self, max_records: int = 100, timeout: float | None = None) -> list:
        """Return up to max_records, waiting up to timeout seconds (None: for ever) for the first.

        An attempt is counted when a Delivery is started: by its block or start(), not by this.
        """
        cdef list leases, found
        if self.is_direct(timeout) and type(max_records) is int and 0 < max_records <= MOST_LEASES:
            leases = self.leases.take(max_records, False)
            if leases:
                self.leases.note_leased(len(leases))
                found = self.admit(leases, None, False)
                if found:
                    return found
        return self._get_many(max_records, timeout)

    cdef bint is_direct(self, object timeout) except -1:
        """Whether a record that is there already is returned, however long the caller would wait."""
        if not self.plain or self.leases is None or self.dropped:
            return False
        return timeout is None or (type(timeout) is int or type(timeout) is float) and timeout >= 0

    def _deliver(self, lease: object, permit: object = None) -> Delivery:
        """A lease as a Delivery whose value is the record's."""
        return new_delivery(self, lease, permit)

    def _deliver_decoded(self, lease: object, permit: object, value: object) -> Delivery:
        """A lease as a Delivery with its decoded value."""
        cdef Delivery delivery = new_delivery(self, lease, permit)
        delivery.decoded, delivery.is_decoded = value, True
        return delivery

    def _admitted(self, leases: object, permit: object, start: bool) -> list:
        """The deliveries of leases: all of them, or all are given back where that fails."""
        return self.admit(list(leases), permit, start)

    cdef list admit(self, list leases, object permit, bint start):
        cdef list found = []
        cdef int most = self._most if start else self._most - 1
        cdef bint plain = self.plain and permit is None
        cdef Record record
        try:
            for lease in leases:
                if plain and type(lease) is Lease and (<Lease> lease).delivery_count <= most:
                    record = (<Lease> lease).record
                    if self.expires.answer(record.batch, record.index) == NO:
                        found.append(new_delivery(self, lease, None))
                        continue
                delivery = self._admit(lease, permit)
                if delivery is not None:
                    found.append(delivery)
        except BaseException:
            for delivery in found:
                (<Delivery> delivery).over = True
            self.source.release(leases)          # leaves alone what was ended already
            raise
        return found

    # ---- ending ---------------------------------------------------------------------------------------

    def ack_many(self, deliveries: object) -> list:
        """Finish many by a few native calls; returns those that somebody else has meanwhile."""
        cdef list ending = list(deliveries), leases = []
        cdef Delivery delivery
        for each in ending:
            if type(each) is not Delivery:
                raise TypeError(f"expected deliveries of a queue, not {type(each).__name__}")
            leases.append((<Delivery> each).lease)
        lost = self.source.ack_many(leases)
        for each in ending:
            delivery = <Delivery> each
            delivery.over = True
            if delivery.permit is not None:
                self.note_success(delivery.permit)
        if not lost:
            return []
        gone = set(map(id, lost))
        return [each for each in ending if id((<Delivery> each).lease) in gone]

    def _take_dropped(self) -> object:
        """(lease, permit) of a delivery that was dropped without an end; None where there is none."""
        return self.dropped.pop() if self.dropped else None


cdef Delivery new_delivery(DirectQueue queue, object lease, object permit):
    cdef Delivery delivery = Delivery.__new__(Delivery)
    delivery.queue, delivery.lease, delivery.permit = queue, lease, permit
    delivery.forks = fork_count()
    return delivery


@cython.final
@cython.no_gc_clear          # __dealloc__ needs the queue and the lease
@cython.freelist(1000)
cdef class Delivery:
    """A record of a queue that nobody else has as long as this object lives; made by Queue.get().

    As a context manager it is acked where the block ends well, given back with back-off (or dead-lettered)
    where it raises an Exception, and given back without burning an attempt on KeyboardInterrupt, SystemExit,
    CancelledError and CircuitOpenError. The exception goes on. Threads may pass it on, not share it. Inert in
    a forked child: it has no part in its parent's deliveries.
    """

    def __init__(self):
        raise TypeError("deliveries come from a queue, not from a constructor")

    def __dealloc__(self):
        # not __del__, which recycled objects do not get again; it may run within any call of the engine, so
        # who calls the queue next gives the record back
        if self.over or self.queue is None or self.queue.closed or self.forks != fork_count():
            return
        if self.queue.dropped is not None:           # else the queue is garbage with us
            self.queue.dropped.append((self.lease, self.permit))
            if self.lease.started:
                text = f"{described(self.queue, self.lease)}, was dropped without ack, nack or reject"
                warnings.warn(text, ResourceWarning, 1)

    # ---- what it is -----------------------------------------------------------------------------------

    @property
    def record(self):
        """The record as the log has it."""
        return self.lease.record

    @property
    def value(self):
        """The value, decoded where the queue has a serde."""
        if self.is_decoded:
            return self.decoded
        if type(self.lease) is Lease:
            return (<Lease> self.lease).record.value
        return self.lease.record.value

    @property
    def key(self):
        """Key of the record, or None."""
        return self.lease.record.key

    @property
    def headers(self):
        """Headers of the record, also those that the queue wrote: pairs of (str, bytes | None)."""
        return self.lease.record.headers

    @property
    def topic(self):
        """Name of the topic."""
        return self.lease.record.topic

    @property
    def partition(self):
        """Number of the partition."""
        return self.lease.record.partition

    @property
    def offset(self):
        """Offset in the partition."""
        return self.lease.record.offset

    @property
    def priority(self):
        """The record's level."""
        return self.lease.level

    @property
    def delivery_count(self):
        """How many deliveries of the record were started, this one included once it was."""
        return self.lease.delivery_count

    @property
    def token(self):
        """The fencing token: larger for each later lease of the record."""
        return self.lease.token

    @property
    def identity(self):
        """What stays the same however often the record is delivered, dead-lettered and redriven."""
        return self.queue._identity_of(self.lease.record)

    # ---- what comes of it -----------------------------------------------------------------------------

    def start(self) -> None:
        """Count the attempt. Entering the block does, and so did get(); those of get_many() wait for it.

        Raises:
            LeaseLostError: somebody else has the record, or it is finished.
        """
        self.queue.source.start(self.lease)

    def ack(self) -> None:
        """Finish the record: it is never delivered again.

        Raises:
            LeaseLostError: somebody else has the record, or it is finished; nothing was changed.
        """
        if self.permit is not None:
            self.queue.note_success(self.permit)
        try:
            if self.queue.leases is not None:
                self.queue.leases.finish(self.lease)
            else:
                self.queue.source.ack(self.lease)
        except NO_LONGER_OURS:
            self.over = True
            raise
        self.over = True

    def nack(self, delay: float | None = None, error: BaseException | None = None) -> None:
        """Give the record back, to be delivered again; or dead-letter it after its last attempt.

        Args:
            delay: Seconds until then; left out: what the queue's retry policy says, which may also give up.
            error: What went wrong.

        Raises:
            LeaseLostError: as ack().
        """
        if self.permit is not None:
            self.queue.note_failure(self.permit, error)
        self.end(self.queue.give_back, (self.lease, delay, error))

    def reject(self, reason: str = "rejected", error: BaseException | None = None) -> None:
        """Dead-letter the record now, whatever attempts are left.

        Raises:
            LeaseLostError: as ack().
        """
        if self.permit is not None:
            self.queue.note_success(self.permit)     # the record is bad, not what handles it
        self.end(self.queue.bury, (self.lease, reason, error))

    def release(self) -> None:
        """Give the record back as if it had not been delivered: no attempt is burnt."""
        if self.permit is not None:
            self.queue.note_nothing(self.permit)
        self.end(self.queue.source.release, ([self.lease],))

    cdef int end(self, object act, tuple arguments) except -1:
        """Be over where the call ends it or somebody else has it; not where it failed, as on a full disk."""
        try:
            act(*arguments)
        except NO_LONGER_OURS:
            self.over = True
            raise
        self.over = True
        return 0

    def extend(self, seconds: float | None = None) -> None:
        """Let it take so many seconds from now; left out: max_processing once more.

        Raises:
            LeaseLostError: as ack().
        """
        self.queue.source.extend(self.lease, seconds)

    # ---- as a block -----------------------------------------------------------------------------------

    def __enter__(self):
        if not self.lease.started:
            try:
                self.start()
            except LeaseLostError:
                self.over = True
                raise
        return self

    def __exit__(self, kind, error, trace):
        if self.over:
            return
        if error is None:
            self.ack()
        else:
            self.queue._fail(self, error)

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, kind, error, trace):
        if error is None or not isinstance(error, Exception):
            self.__exit__(kind, error, trace)
        else:
            # may commit a transaction
            await asyncio.to_thread(self.__exit__, kind, error, trace)

    def __repr__(self):
        return f"<Delivery {described(self.queue, self.lease)}>"


cdef str described(DirectQueue queue, object lease):
    record = lease.record
    return (
        f"{record.topic}-{record.partition} offset {record.offset} of queue {queue.name!r}, "
        f"attempt {lease.delivery_count}"
    )
