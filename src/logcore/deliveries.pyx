# cython: language_level=3
"""DeliveryTable: the per-record state of a queue in one partition, mapped and shared by all processes.

Not the queue: it knows offsets, leases and times, and no record; lease_feed.pyx brings the two together.
Invariant: every record below `scanned` has a slot or is finished, so that the table costs what is unfinished.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from logcore.control cimport atomic_load32, atomic_loadi64, atomic_storei64
from logcore.delivery_file cimport DeliveryFile
from logcore.delivery_index cimport finish, make_delayed, next_due
from logcore.delivery_slots cimport *
from logcore.failpoints cimport planted
from logcore.linux cimport CLOCK_BOOTTIME, clock_ns
from logcore.registry_slots cimport slot_loadi64

from logcore.segment_files import read_start


@cython.final
@cython.no_gc
@cython.freelist(1000)
cdef class Lease:
    """A record that is in flight in this process: see pylog.queue_source.Lease."""

    def __init__(self):
        raise TypeError("leases come from a queue, not from a constructor")

    @property
    def partition(self):
        """Number of the partition."""
        return self.table.partition


@cython.final
cdef class DeliveryTable(DeliveryFile):
    """Which records of a partition are unfinished in a queue, and in which state each of them is.

    Arguments and errors are those of DeliveryFile.
    """

    # ---- leases ---------------------------------------------------------------------------------------

    cdef bint join(self) noexcept nogil:
        cdef int slot = self.registry.slot
        if self.table.owners[slot] != self.registry.incarnation:
            if self.table.in_flight[slot]:
                self.dead_seen = True            # who had our registry slot before
                return False
            self.table.owners[slot] = self.registry.incarnation
        return True

    cdef void end_leases_of(self, int owner) noexcept nogil:
        cdef uint32_t i
        cdef delivery_slot_t* slot
        for i in range(self.table.shared.used):
            slot = slot_at(&self.table, i)
            if state_of(slot) == SLOT_LEASED and owner_of(slot) == <uint32_t> owner:
                self.end_lease(i)

    cdef bint reclaim(self, int64_t now, bint bury) noexcept nogil:
        """End the leases of who is stopped, of whom a handler keeps for ever and, if told to, of the dead.

        Who finds dead owners finishes their transactions before it buries them: these may be acked in one.
        A stopped owner is in no transaction, or it would hold our lock.
        """
        cdef delivery_shared_t* shared = self.table.shared
        cdef uint32_t owner, before = shared.leased
        cdef bint dead
        shared.reclaimed_at = now
        if before == 0:
            return False
        for owner in range(REGISTRY_SLOTS):
            if self.table.in_flight[owner] == 0:
                continue
            dead = not self.registry.lives(owner, self.table.owners[owner])
            if planted("dead_worker_kept"):
                dead = False
            if dead and not bury:
                self.dead_seen = True
            elif dead or now - slot_loadi64(&self.registry.slots[owner].heartbeat) > self.visibility_ns:
                self.end_leases_of(owner)
        if now >= shared.next_deadline:
            self.end_overdue(now, bury)
        self.reclaimed += before - shared.leased
        return before != shared.leased

    cdef void end_overdue(self, int64_t now, bint bury) noexcept nogil:
        cdef delivery_shared_t* shared = self.table.shared
        cdef int64_t deadline = INT64_MAX
        cdef uint32_t i, owner
        cdef delivery_slot_t* slot
        for i in range(shared.used):
            slot = slot_at(&self.table, i)
            if state_of(slot) != SLOT_LEASED:
                continue
            owner = owner_of(slot)
            if slot.when <= now and (bury or self.registry.lives(owner, self.table.owners[owner])):
                self.end_lease(i)
            else:
                deadline = min(deadline, slot.when)
        shared.next_deadline = deadline

    cdef uint64_t lease_slot(self, uint32_t index, bint start, int64_t now) noexcept nogil:
        cdef delivery_shared_t* shared = self.table.shared
        cdef delivery_slot_t* slot = slot_at(&self.table, index)
        cdef uint32_t count = count_of(slot)
        cdef uint32_t meta = SLOT_LEASED | slot.meta & HOLDS_KEY
        meta |= <uint32_t> self.registry.slot << OWNER_SHIFT
        if start:
            count = min(count + 1, <uint32_t> MOST_COUNT)
            meta |= STARTED
        shared.token += 1
        set_state(&self.table, index, now + self.processing_ns, shared.token, meta | count << COUNT_SHIFT)
        self.table.in_flight[self.registry.slot] += 1
        shared.leased += 1
        shared.next_deadline = min(shared.next_deadline, now + self.processing_ns)
        return shared.token

    cdef delivery_slot_t* held(self, Lease lease) noexcept:
        cdef delivery_slot_t* slot
        if lease.table is not self or lease.index >= self.table.shared.used:
            return NULL
        slot = slot_at(&self.table, lease.index)
        if slot.token != lease.token and not planted("stale_lease_believed"):
            return NULL
        if slot.offset != lease.offset or state_of(slot) != SLOT_LEASED:
            return NULL
        return slot

    cdef bint finish_lease(self, Lease lease) noexcept:
        self.table.in_flight[owner_of(slot_at(&self.table, lease.index))] -= 1
        self.table.shared.leased -= 1
        return finish(&self.table, lease.index)

    cdef bint give_back(self, Lease lease, int64_t due, bint counted) noexcept:
        cdef delivery_slot_t* slot = slot_at(&self.table, lease.index)
        cdef int64_t first = next_due(&self.table)
        cdef uint32_t count = count_of(slot)
        if not counted and slot.meta & STARTED and count < MOST_COUNT:
            set_state(
                &self.table, lease.index, slot.when, slot.token,
                slot.meta & <uint32_t> 0xFFFF | (count - 1) << COUNT_SHIFT
            )
        if due <= 0:
            self.end_lease(lease.index)
            return True
        self.table.in_flight[owner_of(slot)] -= 1
        self.table.shared.leased -= 1
        make_delayed(&self.table, lease.index, due)
        return due < first

    # ---- what a queue does ----------------------------------------------------------------------------

    def start(self, lease: Lease) -> bool:
        """Count the delivery, once; False where the lease is lost. Its time begins now."""
        cdef delivery_slot_t* slot
        cdef uint32_t count
        self.lock()
        slot = self.held(lease)
        if slot is not NULL and not slot.meta & STARTED:
            count = min(count_of(slot) + 1, <uint32_t> MOST_COUNT)
            set_state(
                &self.table, lease.index, clock_ns(CLOCK_BOOTTIME) + self.processing_ns, slot.token,
                slot.meta & <uint32_t> 0xFFFF | STARTED | count << COUNT_SHIFT
            )
            lease.delivery_count = count
            lease.started = True
        self.unlock()
        return slot is not NULL

    def ack(self, lease: Lease) -> bool:
        """Finish a record; False where the lease is lost, and nothing was changed."""
        return self.finish_held(lease)

    cdef bint finish_held(self, Lease lease) except -1:
        cdef bint kept, woken = False
        self.lock()
        kept = self.held(lease) is not NULL
        if kept:
            woken = self.finish_lease(lease)
        self.unlock()
        if woken:
            self.log.control.ring()
        return kept

    def ack_many(self, leases: list) -> list:
        """Finish many under one lock; those that are lost are returned."""
        cdef Lease lease
        cdef Py_ssize_t i, lost_count = 0
        cdef bint woken = False
        cdef bytearray lost = bytearray(len(leases))
        cdef uint8_t* marks = <uint8_t*> <char*> lost
        self.lock()
        for i in range(len(leases)):
            lease = <Lease> leases[i]
            if self.held(lease) is NULL:
                marks[i] = 1
                lost_count += 1
            else:
                woken |= self.finish_lease(lease)
        self.unlock()
        if woken:
            self.log.control.ring()
        return [lease for lease, mark in zip(leases, lost) if mark] if lost_count else []

    def nack(self, lease: Lease, due: int = 0) -> bool:
        """Ready again at `due` (wall clock, ns), or now; False where the lease is lost."""
        cdef bint kept, woken = False
        cdef int64_t when = due
        self.lock()
        kept = self.held(lease) is not NULL
        if kept:
            woken = self.give_back(lease, when, True)
        self.unlock()
        if woken:
            self.log.control.ring()
        return kept

    def release(self, leases: object) -> int:
        """Ready again as if never leased: the attempt is not counted. How many were still held."""
        cdef Lease lease
        cdef list given = list(leases)
        cdef Py_ssize_t i, kept = 0
        self.lock()
        for i in range(len(given)):
            lease = <Lease> given[i]
            if self.held(lease) is not NULL:
                self.give_back(lease, 0, False)
                kept += 1
        self.unlock()
        if kept:
            self.log.control.ring()
        return kept

    def extend(self, lease: Lease, seconds: float | None = None) -> bool:
        """Let the lease last so long from now, max_processing if left out; False where it is lost."""
        cdef delivery_slot_t* slot
        cdef int64_t until = clock_ns(CLOCK_BOOTTIME)
        until += self.processing_ns if seconds is None else <int64_t> (<double> seconds * 1e9)
        self.lock()
        slot = self.held(lease)
        if slot is not NULL:
            set_state(&self.table, lease.index, until, slot.token, slot.meta)
            self.table.shared.next_deadline = min(self.table.shared.next_deadline, until)
        self.unlock()
        return slot is not NULL

    def end_own(self) -> None:
        """Make ready what this process has in flight, as if it had died."""
        cdef int slot = self.registry.slot
        cdef bint found
        self.lock()
        found = self.table.in_flight[slot] > 0 and self.table.owners[slot] == self.registry.incarnation
        if found:
            self.end_leases_of(slot)
        self.unlock()
        if found:
            self.log.control.ring()

    def reclaim_now(self, bury: bool = False) -> bool:
        """Make ready what stopped or endless owners have, if told to dead ones too; True where there was any.

        Where dead owners were found `dead_seen` is set: finish their transactions, then call it with `bury`.
        """
        cdef bint found
        self.lock()
        if bury:
            self.dead_seen = False
            if self.table.owners[self.registry.slot] != self.registry.incarnation:
                self.end_leases_of(self.registry.slot)
        found = self.reclaim(clock_ns(CLOCK_BOOTTIME), bury)
        self.unlock()
        return found

    def sync(self) -> bool:
        """Bring what was done before to disk: see delivery_sync.pyx. Nothing where it is closed."""
        if self.closed:
            return False
        from logcore.delivery_sync import sync_table
        return sync_table(self)

    # ---- the log changes ------------------------------------------------------------------------------

    cdef bint follow_log(self) except -1:
        """Let go of what a cut took or what was deleted; True where something changed."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef uint32_t epoch = atomic_load32(&self.log.slot.active_epoch)
        cdef int64_t start = atomic_loadi64(&self.log.slot.log_start_offset), cut_at = INT64_MAX
        if shared.epoch == epoch and shared.log_start >= start and shared.scanned >= start:
            return False
        self.lock()
        try:
            shared.broken = 1
            if shared.epoch != epoch:
                newer = read_start(self.log.directory).newer_epoch(shared.epoch)
                if newer is not None:
                    cut_at = newer[1]
                self.cut(cut_at, epoch)
            self.drop_below(start)
            self.write_mark(LIVE)
            self.mend()
        finally:
            self.unlock()
        return True

    cdef void cut(self, int64_t first, uint32_t epoch) noexcept nogil:
        """Records from `first` on are others now, or none."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef uint32_t i
        cdef delivery_slot_t* slot
        for i in range(shared.used):
            slot = slot_at(&self.table, i)
            if state_of(slot) != SLOT_FREE and slot.offset >= first:
                set_slot(&self.table, i, 0, 0, 0, 0, 0, SLOT_FREE)
        if shared.scanned > first:
            atomic_storei64(&shared.scanned, first)
        shared.epoch_start = min(first, shared.scanned)
        shared.epoch = epoch

    cdef void drop_below(self, int64_t start) noexcept nogil:
        """Records below are gone from the log; who has one in flight may still finish it."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef uint32_t i
        cdef delivery_slot_t* slot
        shared.log_start = start
        if shared.scanned < start:
            atomic_storei64(&shared.scanned, start)
        for i in range(shared.used):
            slot = slot_at(&self.table, i)
            if slot.offset < start and state_of(slot) != SLOT_FREE and state_of(slot) != SLOT_LEASED:
                set_slot(&self.table, i, 0, 0, 0, 0, 0, SLOT_FREE)
                shared.finished += 1

    # ---- looking, and finishing without a lease ----------------------------------------------------------

    def next_look(self, now: int) -> float:
        """Seconds until something may happen by itself: a due time or the end of a lease; 1 at most."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef int64_t due, deadline
        self.lock()
        due = next_due(&self.table)
        deadline = shared.next_deadline
        self.unlock()
        wait = 1e9
        if due != INT64_MAX:
            wait = min(wait, due - now)
        if deadline != INT64_MAX:
            wait = min(wait, deadline - clock_ns(CLOCK_BOOTTIME))
        return max(wait, 0) / 1e9

    def purge(self, end: int) -> int:
        """Finish everything below `end` that is not in flight; how many records the table knew of."""
        cdef delivery_shared_t* shared = self.table.shared
        cdef uint32_t i, purged = 0
        cdef int64_t last = end, unseen
        cdef int state
        self.lock()
        try:
            shared.broken = 1
            for i in range(shared.used):
                state = state_of(slot_at(&self.table, i))
                if state == SLOT_READY or state == SLOT_BLOCKED or state == SLOT_DELAYED:
                    set_slot(&self.table, i, 0, 0, 0, 0, 0, SLOT_FREE)
                    purged += 1
            unseen = max(last - shared.scanned, 0)
            shared.finished += purged + unseen
            atomic_storei64(&shared.scanned, shared.scanned + unseen)
            self.write_mark(LIVE)
            self.mend()
        finally:
            self.unlock()
        return purged + unseen

    def finish_offsets(self, offsets: set) -> int:
        """Finish records whatever their state is; how many of them were unfinished."""
        cdef uint32_t i
        cdef int state, finished = 0
        self.lock()
        try:
            self.table.shared.broken = 1
            for i in range(self.table.shared.used):
                state = state_of(slot_at(&self.table, i))
                if state == SLOT_FREE or slot_at(&self.table, i).offset not in offsets:
                    continue
                finished += state != SLOT_GHOST
                set_slot(&self.table, i, 0, 0, 0, 0, 0, SLOT_FREE)
            self.table.shared.finished += finished
            self.write_mark(LIVE)
            self.mend()
        finally:
            self.unlock()
        return finished
