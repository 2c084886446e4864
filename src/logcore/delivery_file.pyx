# cython: language_level=3
"""DeliveryFile: the mapped file of a delivery table, its lock, its size, and what stands in it.

Not leasing, which deliveries.pyx adds. All is done under one robust mutex, in which nothing waits and no
Python object is made. Invariant: a slot changes as a whole (delivery_slots.pxd), so that whoever dies inside,
the next one rebuilds the rest from the slots.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_FromStringAndSize

from logcore.control cimport atomic_load32, atomic_store32, atomic_loadi64, atomic_storei64
from logcore.delivery_index cimport (
    DAMAGED, NO_MEMORY, first_offset, make_ready, next_due, rebuild, room_changed,
)
from logcore.delivery_slots cimport *
from logcore.failpoints cimport failpoint, failpoint_errno
from logcore.linux cimport (
    EBUSY, EOWNERDEAD, ETIMEDOUT, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, close as close_file,
    fdatasync, mmap, munmap, mutex_lock_within, posix_fallocate, pthread_mutex_consistent,
    pthread_mutex_trylock, pthread_mutex_unlock,
)
from logcore.processes cimport Registry, fork_count

import os

from logcore.errors import (
    ClosedError, ConfigError, CorruptionError, DurabilityError, LockTimeoutError, ReadOnlyError,
)

cdef enum:
    GROWTH = 16                   # a table grows by a 16th of itself


cdef class DeliveryFile:
    """The state of each unfinished record of a queue in one partition, and the lock around it.

    Args:
        path: of the file; made where there is none, or where it is of another topic.
        topic, partition: whose records.
        registry: of the engine; read-only there is a look at a copy here.
        by_key: a record is blocked while an earlier one of its key is unfinished.
        floor: (offset, epoch) where to begin without a table; the log start offset where left out.
        visibility_timeout: seconds that a process may stop before its leases end.
        max_processing: seconds that a lease may last.

    Raises:
        CorruptionError: the page that living processes share is damaged.
        FormatError, LockTimeoutError, DiskFullError, ReadOnlyError
    """

    def __cinit__(self):
        self.fd = -1
        self.closed = True

    def __init__(
        self, path: str, topic: TopicLog, partition: int, registry: Registry, *, by_key: bool = False,
        floor: tuple | None = None, visibility_timeout: float = 30.0, max_processing: float = 3600.0,
    ):
        if self.table.base is not NULL or self.fd >= 0:
            raise ConfigError("a delivery table is opened once")
        self.path, self.topic, self.partition, self.registry = path, topic, partition, registry
        self.log = topic.log(topic.check_partition(partition))
        self.log.ensure_ready()
        self.table.by_key = by_key
        self.visibility_ns = <int64_t> (visibility_timeout * 1e9)
        self.processing_ns = <int64_t> (max_processing * 1e9)
        self.floor_offset, self.floor_epoch = (
            floor if floor is not None else (self.log.slot.log_start_offset, self.log.slot.active_epoch)
        )
        self.forks = fork_count()
        self.closed = False
        try:
            from logcore.delivery_opening import open_table
            open_table(self)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        close_descriptor(self)
        if self.mapped_pages:
            munmap(self.table.slots, <size_t> self.mapped_pages * PAGE)
        if self.table.base is not NULL:
            munmap(self.table.base, FRONT_PAGES * PAGE)

    # ---- under the lock -------------------------------------------------------------------------------

    cdef int lock(self) except -1:
        cdef int code
        cdef delivery_shared_t* shared = self.table.shared
        if self.forks != fork_count():
            raise ClosedError("this queue was opened before a fork: the child must open its own")
        if self.closed:
            raise ClosedError("the queue is closed")
        if self.private:
            raise ReadOnlyError("an engine opened with read_only=True changes no queue")
        code = pthread_mutex_trylock(&shared.lock)
        if code == EBUSY:
            self.users += 1
            with nogil:
                code = mutex_lock_within(&shared.lock, self.log.lock_timeout_ns)
            self.users -= 1
        if code == ETIMEDOUT:
            raise LockTimeoutError(
                f"{self.path}: process {shared.holder} has held the table for "
                f"{self.log.lock_timeout_ns / 1e9:g} s",
                pid=shared.holder,
            )
        if code != 0 and code != EOWNERDEAD:
            raise CorruptionError(
                f"{self.path}: the page that living processes share is damaged ({os.strerror(code)}): close "
                "all engines of this directory and open again", path=self.path, position=SHARED_AT,
            )
        if code == EOWNERDEAD:
            shared.broken = 1
            pthread_mutex_consistent(&shared.lock)
        shared.holder = self.registry.pid
        try:
            if shared.pages != self.table.pages:
                self.remap()
            if shared.broken:
                self.mend()
            if self.closed:
                raise ClosedError("the queue is closed")
            if shared.poisoned:
                raise DurabilityError(
                    f"a sync of {self.path} failed: close all engines of this directory and open again; what "
                    "was acked since the last one may be delivered again"
                )
        except BaseException:
            self.unlock()
            raise
        return 0

    cdef int unlock(self) except -1:
        self.table.shared.holder = 0
        pthread_mutex_unlock(&self.table.shared.lock)
        if self.closed and self.users == 0:
            close_descriptor(self)
        return 0

    cdef int mend(self) except -1:
        cdef delivery_shared_t* shared = self.table.shared
        cdef delivery_mark_t mark
        cdef uint32_t index = shared.undo_index
        cdef int result = DAMAGED
        if index and index <= self.table.room:
            memcpy(slot_at(&self.table, index - 1), &shared.undo, CHECKED_BYTES)
        atomic_store32(&shared.undo_index, 0)
        self.undo_move()
        failpoint("deliveries.undone")
        if newest_mark(&self.table, LIVE, &mark):
            self.take_mark(&mark)
            result = rebuild(&self.table)
        failpoint("deliveries.mended")
        if result == NO_MEMORY:
            raise MemoryError()
        if result == DAMAGED:
            self.began = "damaged"
            self.reset(self.floor_offset, self.floor_epoch)
        shared.broken = 0
        return 0

    cdef void undo_move(self) noexcept nogil:
        """A record that was being moved stays where it was, unless it has arrived."""
        cdef delivery_shared_t* shared = self.table.shared
        if shared.moving and max(shared.moving_from, shared.moving_to) < self.table.room:
            if state_of(slot_at(&self.table, shared.moving_from)) != SLOT_GHOST:
                set_slot(&self.table, shared.moving_to, 0, 0, 0, 0, 0, SLOT_FREE)
        shared.moving = 0

    cdef int take_mark(self, const delivery_mark_t* mark) except -1:
        cdef delivery_shared_t* shared = self.table.shared
        shared.version = mark.version
        shared.epoch, shared.epoch_start, shared.used = mark.epoch, mark.epoch_start, mark.used
        atomic_storei64(&shared.scanned, mark.scanned)
        return 0

    cdef int reset(self, int64_t offset, uint32_t epoch) except -1:
        """Begin anew at an offset: everything from there on is ready."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef int _place
        shared.used = 0
        shared.finished = 0
        shared.epoch, shared.epoch_start = epoch, 0
        atomic_storei64(&shared.scanned, offset)
        for _place in range(2):
            self.write_mark(LIVE)
            self.write_mark(DURABLE)
        rebuild(&self.table)
        if not self.private:
            # an older durable mark must not meet the slots to come
            if fdatasync(self.fd) != 0:
                shared.poisoned = 5
        return 0

    cdef void write_mark(self, int kind) noexcept nogil:
        """Live: the slots are what they are to be, from now on `scanned` and `used` count."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef delivery_mark_t mark
        memset(&mark, 0, sizeof(delivery_mark_t))
        failpoint("deliveries.before_mark")
        if kind == LIVE:
            shared.version += 1
            mark.version = shared.version
        else:
            shared.durable_version += 1
            mark.version = shared.durable_version
        mark.scanned, mark.finished = shared.scanned, shared.finished
        mark.epoch, mark.epoch_start, mark.used = shared.epoch, shared.epoch_start, shared.used
        put_mark(&self.table, kind, &mark)
        shared.changes += 1
        failpoint("deliveries.marked")

    cdef int remap(self) except -1:
        """Follow the table's size; address space is taken for twice as much, so that it rarely is a call."""
        cdef uint32_t pages = atomic_load32(&self.table.shared.pages), room
        cdef void* mapped
        if pages > self.mapped_pages:
            room = max(2 * pages, <uint32_t> 64)
            mapped = mmap(
                NULL, <size_t> room * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, FRONT_PAGES * PAGE
            )
            if mapped is MAP_FAILED:
                raise MemoryError(f"cannot map {self.path}")
            if self.table.slots is not NULL:
                munmap(self.table.slots, <size_t> self.mapped_pages * PAGE)
            self.table.slots = <uint8_t*> mapped
            self.mapped_pages = room
        self.table.pages, self.table.room = pages, pages * SLOTS_PER_PAGE
        return 0

    cdef int grow(self, uint32_t wanted) noexcept:
        """Make room for so many more slots."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef uint32_t before = self.table.room, pages = self.table.pages
        cdef uint64_t more = max(wanted // SLOTS_PER_PAGE + 1, pages // GROWTH)
        cdef int error = failpoint_errno("deliveries.grow")
        if (pages + more) * SLOTS_PER_PAGE > MOST_SLOTS:
            return 27                # EFBIG
        if not error:
            error = posix_fallocate(
                self.fd, <int64_t> (FRONT_PAGES + pages) * PAGE, <int64_t> more * PAGE
            )
        if error:
            return error
        failpoint("deliveries.allocated")
        atomic_store32(&shared.pages, <uint32_t> (pages + more))
        try:
            self.remap()
        except BaseException:
            atomic_store32(&shared.pages, pages)
            return 12                # ENOMEM
        failpoint("deliveries.grown")
        room_changed(&self.table, before)
        return 0

    cdef void end_lease(self, uint32_t index) noexcept nogil:
        """Ready again; the count stays."""
        self.table.in_flight[owner_of(slot_at(&self.table, index))] -= 1
        self.table.shared.leased -= 1
        make_ready(&self.table, index, 0)

    # ---- looking --------------------------------------------------------------------------------------

    def next_due(self) -> int | None:
        """When the first delayed record comes due (wall clock, ns), None where there is none."""
        cdef int64_t due
        self.enter()
        due = next_due(&self.table)
        self.leave()
        return None if due == INT64_MAX else due

    def counts(self) -> tuple:
        """(ready, blocked, delayed, in flight, finished) among the records below scanned()."""
        cdef delivery_shared_t shared
        self.enter()
        shared = self.table.shared[0]
        self.leave()
        return shared.ready, shared.blocked, shared.delayed, shared.leased, shared.finished

    def scanned(self) -> int:
        """Every record below it is in the table, or finished."""
        return atomic_loadi64(&self.table.shared.scanned)

    def entries(self, most: int) -> list:
        """(offset, state, count, when) of up to `most` unfinished records below scanned(), by offset."""
        cdef uint32_t i = 0, end
        cdef list found = []
        cdef delivery_slot_t slots[SLOTS_PER_PAGE]
        end = self.table.shared.used
        while i < end:
            self.enter()
            end = min(self.table.shared.used, self.table.room)
            if i < end:
                memcpy(slots, slot_at(&self.table, i), SLOT_BYTES * min(<uint32_t> SLOTS_PER_PAGE, end - i))
            self.leave()
            for j in range(min(<uint32_t> SLOTS_PER_PAGE, end - i) if i < end else 0):
                if state_of(&slots[<int> j]) not in (SLOT_FREE, SLOT_GHOST):
                    found.append((
                        slots[<int> j].offset, state_of(&slots[<int> j]), count_of(&slots[<int> j]),
                        slots[<int> j].when,
                    ))
            i += SLOTS_PER_PAGE
        found.sort()
        return found[:most]

    def state_of(self, offset: int) -> int:
        """The state of a record below scanned(): SLOT_FREE where it is finished."""
        cdef uint32_t i
        cdef int64_t wanted = offset
        cdef int found = SLOT_FREE, state
        self.enter()
        for i in range(self.table.shared.used):
            state = state_of(slot_at(&self.table, i))
            if state != SLOT_FREE and state != SLOT_GHOST and slot_at(&self.table, i).offset == wanted:
                found = state
                break
        self.leave()
        return found

    def floor(self) -> tuple:
        """(offset, epoch): every record below is finished."""
        cdef int64_t first
        cdef uint32_t epoch
        self.enter()
        first = first_offset(&self.table)
        epoch = self.table.shared.epoch
        self.leave()
        return first, epoch

    def snapshot(self) -> bytes:
        """The whole table as a file of its own, for a backup: as it is at one instant."""
        cdef size_t size
        cdef bytes found
        self.enter()
        try:
            size = <size_t> self.table.pages * PAGE
            found = PyBytes_FromStringAndSize(NULL, FRONT_PAGES * PAGE + size)
            memcpy(<char*> found, self.table.base, FRONT_PAGES * PAGE)
            memcpy(<char*> found + FRONT_PAGES * PAGE, self.table.slots, size)
        finally:
            self.leave()
        return found

    cdef int enter(self) except -1:
        """lock(), or nothing where the table is a copy."""
        if not self.private:
            self.lock()
        elif self.closed:
            raise ClosedError("the queue is closed")
        return 0

    cdef int leave(self) except -1:
        if not self.private:
            self.unlock()
        return 0

    def close(self) -> None:
        """Close the file; nothing is synced, and leases stay until the process ends."""
        self.closed = True
        if self.users == 0:
            close_descriptor(self)


cdef void close_descriptor(DeliveryFile table) noexcept:
    if table.fd >= 0:
        close_file(table.fd)
        table.fd = -1
