# cython: language_level=3
"""Bringing a delivery table to disk, and giving back what a burst made it grow to.

Pages reach the disk in any order, so what may be believed after a power cut is only what the durable mark
says, which is written after a sync and tells of what stood before it. A slot moves in two steps with a sync
between: first its copy stands in both places, then the old place is free. Invariant: at every instant the
disk has each unfinished record below the durable mark in a slot, or once too often.
"""

from libc.stdint cimport int64_t, uint32_t

from logcore.delivery_file cimport DeliveryFile
from logcore.delivery_slots cimport *
from logcore.failpoints cimport failpoint, failpoint_errno
from logcore.linux cimport EIO, fallocate, fdatasync

from logcore.errors import DurabilityError

cdef extern from *:
    """
    #include <linux/falloc.h>
    """
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE

cdef enum:
    WORTH_SHRINKING = 64 * SLOTS_PER_PAGE        # slots: below that a table stays as large as it became
    SPARSE = 4                                   # one slot in so many is in use


def sync_table(table: DeliveryFile) -> bool:
    """Bring what was done before to disk; True where there was anything to do.

    Raises:
        DurabilityError: the disk failed; the table is not used any more until all engines were closed.
    """
    cdef delivery_shared_t* shared = table.table.shared
    cdef delivery_mark_t mark
    cdef bint shrinks
    cdef uint64_t changes = shared.changes
    if shared.synced_changes == changes:
        return False
    table.lock()
    try:
        table.write_mark(LIVE)
        changes = shared.changes
        mark.scanned, mark.finished, mark.epoch = shared.scanned, shared.finished, shared.epoch
        mark.epoch_start = shared.epoch_start
        shrinks = is_sparse(table)
        if shrinks:
            move_down(table)
        mark.used = shared.used
    finally:
        table.unlock()
    bring_to_disk(table)
    failpoint("deliveries.synced")
    table.lock()
    try:
        if shrinks:
            trim(table)
            mark.used = shared.used
        put_durable(table, &mark)
        failpoint("deliveries.durable_marked")
    finally:
        table.unlock()
    bring_to_disk(table)
    shared.synced_changes = changes
    if shrinks:
        table.lock()
        try:
            give_back_pages(table)
        finally:
            table.unlock()
    return True


cdef int bring_to_disk(DeliveryFile table) except -1:
    cdef int code = failpoint_errno("deliveries.sync")
    table.users += 1
    try:
        with nogil:
            if code == 0 and fdatasync(table.fd) != 0:
                code = EIO
    finally:
        table.users -= 1
    if code:
        table.table.shared.poisoned = code
        raise DurabilityError(
            f"a sync of {table.path} failed: close all engines of this directory and open again; what was "
            "acked since the last one may be delivered again"
        )
    return 0


cdef void put_durable(DeliveryFile table, delivery_mark_t* mark) noexcept:
    cdef delivery_shared_t* shared = table.table.shared
    shared.durable_version += 1
    mark.version = shared.durable_version
    mark.reserved[0] = mark.reserved[1] = 0
    mark.used = min(mark.used, shared.used)
    # else the log was cut meanwhile: the next sync says so
    if mark.epoch == shared.epoch and mark.scanned <= shared.scanned:
        put_mark(&table.table, DURABLE, mark)


# ---- shrinking ----------------------------------------------------------------------------------------

cdef bint is_sparse(DeliveryFile table) noexcept:
    cdef delivery_shared_t* shared = table.table.shared
    cdef uint32_t live = shared.used - shared.free_count - shared.ghosts
    return shared.used > WORTH_SHRINKING and live < shared.used // SPARSE


cdef int move_down(DeliveryFile table) except -1:
    """Copy records from upper slots to free lower ones; who has one in flight knows its slot: it stays."""
    cdef delivery_shared_t* shared = table.table.shared
    cdef uint32_t low = 0, high = shared.used
    cdef delivery_slot_t* slot
    shared.broken = 1
    while True:
        while low < high and state_of(slot_at(&table.table, low)) != SLOT_FREE:
            low += 1
        high -= 1
        while high > low and state_of(slot_at(&table.table, high)) in (SLOT_FREE, SLOT_LEASED, SLOT_GHOST):
            high -= 1
        if high <= low:
            break
        slot = slot_at(&table.table, high)
        shared.moving_from, shared.moving_to = high, low
        shared.moving = 1
        compiler_fence()
        set_slot(
            &table.table, low, slot.offset, slot.when, slot.token, slot.key, slot.epoch, slot.meta
        )
        failpoint("deliveries.slot_moving")
        set_state(&table.table, high, slot.when, slot.token, slot.meta & ~<uint32_t> STATE_MASK | SLOT_GHOST)
        compiler_fence()
        shared.moving = 0
    table.write_mark(LIVE)
    table.mend()
    return 0


cdef int trim(DeliveryFile table) except -1:
    """After the sync: the copies are on disk, so the ghosts may go, and the slots behind the last one."""
    cdef delivery_shared_t* shared = table.table.shared
    cdef uint32_t i, used = 0
    shared.broken = 1
    for i in range(shared.used):
        if state_of(slot_at(&table.table, i)) == SLOT_GHOST:
            set_slot(&table.table, i, 0, 0, 0, 0, 0, SLOT_FREE)
        elif state_of(slot_at(&table.table, i)) != SLOT_FREE:
            used = i + 1
    failpoint("deliveries.ghosts_gone")
    shared.used = used
    table.write_mark(LIVE)
    table.mend()
    return 0


cdef int give_back_pages(DeliveryFile table) except -1:
    """The durable mark, which needs fewer slots, is on disk: their pages are not needed any more."""
    cdef delivery_shared_t* shared = table.table.shared
    cdef uint32_t needed = max(shared.used // SLOTS_PER_PAGE + FIRST_PAGES, <uint32_t> FIRST_PAGES)
    cdef uint32_t pages = table.table.pages
    if needed + needed // 4 >= pages:
        return 0
    table.write_mark(LIVE)
    shared.broken = 1
    shared.pages = needed
    table.remap()
    table.mend()
    failpoint("deliveries.shrunk")
    # where it fails the blocks stay taken, and nothing else
    fallocate(
        table.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <int64_t> (FRONT_PAGES + needed) * PAGE,
        <int64_t> (pages - needed) * PAGE
    )
    return 0
