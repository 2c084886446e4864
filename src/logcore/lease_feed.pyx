# cython: language_level=3
"""LeaseFeed: leases of one partition's records, from its delivery table and its log together.

Reads outside the table's lock and leases under it, in C only. Threads take turns with a feed; any number of
feeds, here and in other processes, lease from the same table. Invariant: a record is leased only after it was
looked at, so that one whose due header lies in the future is delayed, whatever became of the table.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport (
    NOWAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock,
    WAIT_LOCK,
)

from logcore.batch cimport Record, RecordBatch
from logcore.columns cimport bit_at, columns_t
from logcore.control cimport atomic_load32, atomic_loadi64, atomic_storei64
from logcore.deliveries cimport DeliveryTable, Lease
from logcore.delivery_index cimport make_due_ready, pop_ready, take_free, take_in
from logcore.delivery_slots cimport *
from logcore.failpoints cimport failpoint
from logcore.format cimport load16, load32
from logcore.hashing cimport xxh3
from logcore.linux cimport CLOCK_BOOTTIME, CLOCK_REALTIME, clock_ns
from logcore.reader cimport PartitionReader

import os

from logcore.errors import ClosedError, CorruptionError, LogTruncatedError, OffsetOutOfRangeError
from logcore.whole_files import clear_error

cdef enum:
    ROWS_AHEAD = 64                      # read ahead at least so many records
    WALK_ROWS = 512                      # seek rather than walk over more than so many
    MOST_READERS = 16                    # of what was taken in before, one a segment
    RECLAIM_NS = 10_000_000              # look for dead owners so often while there is work to do


@cython.final
cdef class LeaseFeed:
    """Leases records of the partition of `table`.

    Args:
        due_header: name of the record header with the earliest time of delivery (ns since 1970, in digits).
        level: of the partition; stated in its leases.
    """

    def __cinit__(self):
        self.turn = PyThread_allocate_lock()
        if self.turn is NULL:
            raise MemoryError()

    def __init__(self, table: DeliveryTable, due_header: bytes, level: int = 0):
        self.table, self.due_header, self.level = table, due_header, level
        self.log = table.log
        self.ahead, self.again = [], []

    def __dealloc__(self):
        if self.turn is not NULL:
            PyThread_free_lock(self.turn)
        free(self.claims)

    cdef void take_turn(self) noexcept:
        """Wait for the other threads."""
        if not PyThread_acquire_lock(self.turn, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.turn, WAIT_LOCK)

    cdef list take(self, int most, int64_t now, bint start):
        """Lease up to `most` records that are ready at `now` (wall clock, ns; 0: the machine's own).

        Returns an empty list where none is.

        Raises:
            DiskFullError: the table cannot grow.
            CorruptionError: the next record cannot be read; it stays ready.
        """
        self.take_turn()
        try:
            return self.take_in_turn(most, now, start)
        finally:
            PyThread_release_lock(self.turn)

    cdef list take_in_turn(self, int most, int64_t now, bint start):
        cdef list made = []
        cdef bint more = True
        while more and not made:
            self.follow_log()
            self.read_ahead(most)
            more = self.claim(most, now, start)
            if self.claimed:
                self.make_leases(made)
                more = True
        if not made:
            if self.disk_error:
                raise clear_error(OSError(self.disk_error, os.strerror(self.disk_error)), self.table.path)
            if self.trouble is not None:
                raise self.trouble
        return made

    def at_hand(self) -> bool:
        """Whether a lease might find something; takes no lock."""
        return self.has_some()

    cdef bint has_some(self) noexcept:
        cdef uint64_t end
        cdef int64_t next_offset
        self.log.published(&end, &next_offset)
        return (
            self.table.table.shared.ready > 0 or self.table.table.shared.delayed > 0
            or atomic_loadi64(&self.table.table.shared.scanned) < next_offset
        )

    # ---- reading --------------------------------------------------------------------------------------

    cdef int follow_log(self) except -1:
        """Let go of what was read before a cut, a deletion or a rewriting of segments."""
        cdef uint32_t rewrites = atomic_load32(&self.log.control.header.rewrites)
        if self.log.control.header.deleted:
            raise ClosedError(f"topic {self.log.topic!r} was deleted")
        if (
            self.table.follow_log() or rewrites != self.rewrites
            or self.epoch != atomic_load32(&self.log.slot.active_epoch)
        ):
            self.fresh = self.last = None
            self.ahead, self.again = [], []
            self.rewrites = rewrites
        return 0

    cdef int restart(self, int64_t offset) except -1:
        self.ahead = []
        self.ahead_from = offset
        self.epoch = atomic_load32(&self.log.slot.active_epoch)
        if self.fresh is None:
            self.fresh = PartitionReader(self.log, self.table.topic, offset)
        else:
            self.fresh.seek(offset)
        return 0

    cdef int read_ahead(self, int most) except -1:
        """Have batches from `scanned` on in `ahead`; `trouble` is what kept us from it."""
        cdef int64_t scanned = atomic_loadi64(&self.table.table.shared.scanned), last, rows = 0
        cdef uint64_t end
        cdef RecordBatch batch
        self.trouble = None
        self.log.published(&end, &last)
        if scanned >= last:
            return 0
        try:
            if self.fresh is None or self.ahead_from > scanned or (
                not self.ahead and scanned - self.fresh.next_offset > WALK_ROWS
            ):
                self.restart(scanned)
            while self.ahead:
                batch = self.ahead[0]
                if batch.next_offset > scanned:
                    break
                self.ahead_from = batch.next_offset
                del self.ahead[0]
            if self.ahead:
                batch = self.ahead[len(self.ahead) - 1]
                rows = batch.next_offset - scanned       # or fewer: then the next look reads on
                if rows >= most:
                    return 0
            while rows < max(most, ROWS_AHEAD):
                batch = self.fresh.next_batch()
                if batch is None:
                    break
                if batch.next_offset <= scanned:
                    self.ahead_from = batch.next_offset
                    continue
                self.ahead.append(batch)
                rows += batch.next_offset - max(scanned, batch.base_offset)
        except (CorruptionError, LogTruncatedError, OffsetOutOfRangeError) as error:
            self.fresh = None
            if isinstance(error, CorruptionError):       # else the next follow_log() sees what happened
                self.trouble = error
        return 0

    cdef Record record_at(self, int64_t offset):
        """The record at an offset; None where it is gone."""
        if self.last is None or not self.last.base_offset <= offset < self.last.next_offset:
            try:
                self.last = self.reader_at(offset).next_batch()
            except OffsetOutOfRangeError:
                return None
            except LogTruncatedError:
                self.again, self.last = [], None
                return None
        if self.last is None:
            return None
        return record_of(self.last, offset)

    cdef PartitionReader reader_at(self, int64_t offset):
        """A reader that stands at `offset`: one that has its segment mapped, since to find one costs most."""
        cdef PartitionReader reader
        for reader in self.again:
            if reader.segment is not None and reader.stays_within(offset):
                reader.seek(offset)
                return reader
        if len(self.again) < MOST_READERS:
            reader = PartitionReader(self.log, self.table.topic, offset)
        else:
            reader = self.again.pop(0)
            reader.seek(offset)
        self.again.append(reader)
        return reader

    # ---- leasing --------------------------------------------------------------------------------------

    cdef bint claim(self, int most, int64_t now, bint start) except -1:
        """Lease under the lock into `claims`; True where another call may find more."""
        cdef DeliveryTable table = self.table
        cdef delivery_shared_t* shared = table.table.shared
        cdef int64_t scanned, boot_now
        cdef bint room = True
        cdef claim_t* grown
        if self.claim_room < most:
            grown = <claim_t*> realloc(self.claims, most * sizeof(claim_t))
            if grown is NULL:
                raise MemoryError()
            self.claims, self.claim_room = grown, most
        self.claimed = self.disk_error = 0
        self.started = start
        table.lock()
        if not table.join():
            table.unlock()
            return False
        scanned, boot_now = shared.scanned, clock_ns(CLOCK_BOOTTIME)
        if boot_now - shared.reclaimed_at > RECLAIM_NS:
            table.reclaim(boot_now, False)
        if shared.delayed:
            make_due_ready(&table.table, now if now else clock_ns(CLOCK_REALTIME))
        failpoint("deliveries.due_made_ready")
        self.claim_ready(most, start, boot_now)
        if self.claimed < most and shared.epoch == self.epoch and self.ahead_from <= scanned:
            while not self.take_rows(most - self.claimed, now):
                self.disk_error = table.grow(ROWS_AHEAD)
                if self.disk_error:
                    break
            if shared.scanned != scanned:
                table.write_mark(LIVE)
                self.claim_ready(most, start, boot_now)
        room = shared.scanned != scanned
        table.unlock()
        return room and not self.disk_error

    cdef int claim_ready(self, int most, bint start, int64_t boot_now) noexcept:
        cdef DeliveryTable table = self.table
        cdef uint32_t index
        cdef claim_t* claim
        while self.claimed < most:
            index = pop_ready(&table.table)
            if index == NOBODY:
                break
            claim = &self.claims[self.claimed]
            claim.offset, claim.index = slot_at(&table.table, index).offset, index
            claim.token = table.lease_slot(index, start, boot_now)
            claim.count = count_of(slot_at(&table.table, index))
            self.claimed += 1
            failpoint("deliveries.leased")
        return 0

    cdef bint take_rows(self, int most, int64_t now) noexcept:
        """Take records in from `ahead` until `most` of them are ready; False where no slot is left."""
        cdef delivery_table_t* table = &self.table.table
        cdef delivery_shared_t* shared = table.shared
        cdef RecordBatch batch
        cdef Py_ssize_t i
        cdef int row
        cdef uint32_t index, key, ready = shared.ready
        cdef int64_t due
        for i in range(len(self.ahead)):
            batch = <RecordBatch> self.ahead[i]
            if batch.next_offset <= shared.scanned:
                continue
            row = batch.first_at_or_after(shared.scanned)
            while row < batch.record_count:
                if shared.ready - ready >= <uint32_t> most or shared.blocked >= MOST_BLOCKED:
                    return True
                index = take_free(table)
                if index == NOBODY:
                    return False
                due = due_of(&batch.columns, row, self.due_header)
                if due and not now:
                    now = clock_ns(CLOCK_REALTIME)
                key = key_of(&batch.columns, row) if table.by_key else 0
                take_in(table, index, batch.offset_at(row), due if due > now else 0, key)
                failpoint("deliveries.taken_in")
                row += 1
                atomic_storei64(&shared.scanned, batch.offset_at(row - 1) + 1)
            atomic_storei64(&shared.scanned, batch.next_offset)
        return True

    cdef int make_leases(self, list made) except -1:
        """Turn the claims into leases; records that are gone from the log are finished."""
        cdef list leases = []
        cdef Lease lease
        cdef int i
        cdef int done = 0
        for i in range(self.claimed):
            lease = Lease.__new__(Lease)
            lease.table, lease.level = self.table, self.level
            lease.offset, lease.token = self.claims[i].offset, self.claims[i].token
            lease.index, lease.delivery_count = self.claims[i].index, self.claims[i].count
            lease.started = self.started
            leases.append(lease)
        self.place = 0
        try:
            for lease in leases:
                lease.record = self.find(lease.offset)
                if lease.record is None:
                    self.table.ack(lease)
                else:
                    made.append(lease)
                done += 1
        except BaseException as error:
            self.table.release(leases[done:])
            if not made or not isinstance(error, CorruptionError):
                self.table.release(made)
                raise
        return 0

    cdef Record find(self, int64_t offset):
        """The record at an offset, most often from a batch that was read ahead."""
        cdef RecordBatch batch
        cdef Py_ssize_t i
        for i in range(self.place, len(self.ahead)):
            batch = <RecordBatch> self.ahead[i]
            if batch.base_offset > offset:
                break
            if offset < batch.next_offset:
                self.place = i
                return record_of(batch, offset)
        return self.record_at(offset)

    # ---- looking, and what a transaction left -----------------------------------------------------------

    def record(self, offset: int) -> Record | None:
        """The record at an offset, None where it is gone."""
        self.take_turn()
        try:
            return self.record_at(offset)
        finally:
            PyThread_release_lock(self.turn)

    def head(self, now: int) -> Record | None:
        """The record that would be leased first at `now`, or None."""
        self.take_turn()
        try:
            return self.first_ready(now)
        finally:
            PyThread_release_lock(self.turn)

    cdef Record first_ready(self, int64_t now):
        cdef DeliveryTable table = self.table
        cdef int64_t offset = -1
        cdef RecordBatch batch
        self.follow_log()
        table.lock()
        make_due_ready(&table.table, now)
        if table.table.shared.ready:
            offset = slot_at(&table.table, slot_at(&table.table, 0).heap).offset
        table.unlock()
        if offset < 0:
            self.read_ahead(1)
            if not self.ahead:
                return None
            batch = self.ahead[0]
            if batch.next_offset <= table.table.shared.scanned:
                return None
            offset = max(table.table.shared.scanned, batch.base_offset)
        return self.find_anew(offset)

    cdef Record find_anew(self, int64_t offset):
        self.place = 0
        return self.find(offset)

    def finish_again(self, offsets: list, now: int) -> None:
        """Finish records that a committed transaction finished, whatever the table knows of them."""
        self.take_turn()
        try:
            self.take_in_until(max(offsets), now)
        finally:
            PyThread_release_lock(self.turn)
        self.table.finish_offsets(set(offsets))

    cdef int take_in_until(self, int64_t wanted, int64_t now) except -1:
        cdef DeliveryTable table = self.table
        cdef delivery_shared_t* shared = table.table.shared
        cdef int64_t before = -1
        while shared.scanned <= wanted and shared.scanned != before:
            self.follow_log()
            before = shared.scanned
            self.read_ahead(ROWS_AHEAD)
            if self.trouble is not None:
                raise self.trouble
            table.lock()
            while shared.epoch == self.epoch and self.ahead_from <= shared.scanned and (
                not self.take_rows(1 << 30, now)
            ):
                self.disk_error = table.grow(ROWS_AHEAD)
                if self.disk_error:
                    break
            table.write_mark(LIVE)
            table.unlock()
            if self.disk_error:
                raise clear_error(OSError(self.disk_error, os.strerror(self.disk_error)), table.path)
        return 0


# ---- what stands in a record ----------------------------------------------------------------------------

cdef Record record_of(RecordBatch batch, int64_t offset):
    cdef Record record
    cdef int row = batch.first_at_or_after(offset)
    if row >= batch.record_count or batch.offset_at(row) != offset:
        return None
    record = Record.__new__(Record)
    record.batch, record.index = batch, row
    return record


cdef uint32_t key_of(const columns_t* columns, int row) noexcept nogil:
    """A hash of the record's key; 0: it has none, and no order."""
    cdef const int32_t* at = columns.key_offsets
    cdef uint32_t found
    if at is NULL or (columns.key_validity is not NULL and not bit_at(columns.key_validity, row)):
        return 0
    found = <uint32_t> xxh3(columns.keys + at[row], at[row + 1] - at[row])
    return found if found else 1


cdef int64_t due_of(const columns_t* columns, int row, bytes name) noexcept:
    """When the record is due by its own header, of several the last (wall clock, ns); 0: at once."""
    cdef const int32_t* at = columns.header_offsets
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef Py_ssize_t wanted = PyBytes_GET_SIZE(name), name_bytes
    cdef int32_t value_bytes
    cdef int64_t due = 0
    if at is NULL:
        return 0
    p, end = columns.headers + at[row], columns.headers + at[row + 1]
    while p < end:                       # checked when the batch was read
        name_bytes = load16(p)
        value_bytes = <int32_t> load32(p + 2 + name_bytes)
        if name_bytes == wanted and memcmp(p + 2, PyBytes_AS_STRING(name), wanted) == 0:
            due = digits(p + 6 + name_bytes, value_bytes)
        p += 6 + name_bytes + max(value_bytes, 0)
    return due


cdef int64_t digits(const uint8_t* p, int32_t size) noexcept nogil:
    """A decimal number, 0 where it is none: a header that somebody else wrote delays nothing."""
    cdef int64_t found = 0
    cdef int32_t i
    if size <= 0 or size > 18 + 1:
        return 0
    for i in range(size):
        if p[i] < 48 or p[i] > 57 or found > (INT64_MAX - (p[i] - 48)) // 10:
            return 0
        found = found * 10 + (p[i] - 48)
    return found
