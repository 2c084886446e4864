# cython: language_level=3
"""The bytes of a delivery table: its marks, what living processes share, and a slot per unfinished record.

Header only, no Python: layout, and how one slot is read and changed (FORMAT.md, "Delivery tables").
Invariant: a slot that is being changed stands whole in `undo`, so that a process killed anywhere leaves
either its old or its new content; what is derived (heaps, chains, counts) is never needed to tell what the
slots say.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.control cimport atomic_store32
from logcore.failpoints cimport failpoint
from logcore.hashing cimport header_checksum
from logcore.linux cimport pthread_mutex_t
from logcore.registry_slots cimport REGISTRY_SLOTS

cdef extern from *:
    """
    /* a killed process leaves a prefix of its stores in program order, which only the compiler can change */
    #define compiler_fence() __atomic_signal_fence(__ATOMIC_SEQ_CST)
    #define NO_SLOT 0xFFFFFFFFu
    """
    void compiler_fence() nogil
    uint32_t NOBODY "NO_SLOT"        # no slot

cdef enum:
    PAGE = 4096
    SLOT_BYTES = 56
    CHECKED_BYTES = 40               # the rest of a slot is derived
    SLOTS_PER_PAGE = 73              # none crosses a page
    MARKS_AT = 4096                  # page 1: two live marks, two durable ones, a sector each
    SHARED_AT = 8192                 # page 2
    OWNERS_AT = 12288                # pages 3 and 4: incarnation of each registry slot that has leases
    IN_FLIGHT_AT = 20480             # page 5: how many leases it has
    FRONT_PAGES = 6
    FIRST_PAGES = 2                  # of slots, in a fresh table
    MARK_SECTOR = 512
    MARK_CHECKED = 56
    MOST_SLOTS = 1 << 30
    MOST_BLOCKED = 1 << 16           # records behind unfinished ones of their key, per partition

cdef enum delivery_state:
    SLOT_FREE = 0
    SLOT_LEASED = 1                  # in flight: `when` is the CLOCK_BOOTTIME ns until which it may be
    SLOT_READY = 2
    SLOT_BLOCKED = 3                 # an earlier record of its key is not finished
    SLOT_DELAYED = 4                 # `when` is the wall clock's ns at which it becomes ready
    SLOT_GHOST = 5                   # its record moved to another slot, which a power cut may have taken

cdef enum:                           # delivery_slot_t.meta
    STATE_MASK = 15
    HOLDS_KEY = 16                   # records of its key wait behind it
    STARTED = 32                     # this delivery is counted
    OWNER_SHIFT = 6                  # 10 bits: registry slot of a lease
    OWNER_MASK = 1023
    COUNT_SHIFT = 16                 # 16 bits: deliveries started, 65535 stays
    MOST_COUNT = 65535

cdef struct delivery_slot_t:
    int64_t offset
    int64_t when
    uint64_t token                   # of the last lease
    uint32_t key                     # hash of the key, 0: order does not matter
    uint32_t epoch                   # of the partition when the record was taken in
    uint32_t meta
    uint32_t check                   # of all before, the index of the slot and the table's salt
    # derived:
    uint32_t heap                    # cell i of the ready heap, or cell room - 1 - i of the due heap
    uint32_t next                    # in the free list; or the record behind this one in its key's order
    uint32_t bucket                  # head of bucket i of the hash of keys
    uint32_t link                    # in its bucket

cdef struct delivery_mark_t:         # what the slots alone do not say
    uint64_t version                 # the larger one of two counts
    int64_t scanned                  # every record below it has a slot or is finished
    int64_t epoch_start              # first offset of `epoch`
    uint64_t finished
    uint32_t epoch
    uint32_t used                    # slots that were ever used: each of them fits its check
    uint64_t reserved[2]
    uint64_t check

cdef struct delivery_shared_t:       # of living processes, void in another session of the registry
    uint64_t session
    pthread_mutex_t lock             # robust, process-shared; guards everything
    uint32_t holder                  # pid
    uint32_t poisoned                # errno of a sync that failed
    uint32_t pages                   # of slots that are allocated
    uint32_t broken                  # what is derived is not: rebuild before use
    uint32_t moving                  # a slot is on its way between the next two
    uint32_t moving_from
    uint32_t moving_to
    uint32_t undo_index              # slot that is being changed + 1
    delivery_slot_t undo
    uint8_t boot_id[16]              # under which the live marks and slots were written
    uint64_t durable_version         # of the newest durable mark
    # working copy of the live mark
    uint64_t version
    int64_t scanned
    int64_t epoch_start
    uint64_t finished
    uint32_t epoch
    uint32_t used
    # derived from the slots
    uint32_t free_head
    uint32_t free_count
    uint32_t ready
    uint32_t delayed
    uint32_t blocked
    uint32_t leased
    uint32_t ghosts
    uint32_t buckets                 # power of two, 0: order does not matter
    uint64_t token                   # the last one that was given
    int64_t next_deadline            # no lease is to be taken back before, by CLOCK_BOOTTIME
    int64_t reclaimed_at             # CLOCK_BOOTTIME
    int64_t log_start                # records below were dropped from the slots
    uint64_t changes                 # bumped by whatever a sync would bring to disk
    uint64_t synced_changes          # as of the last one

cdef struct delivery_table_t:        # one process's view
    uint8_t* base                    # the front, mapped for life: the lock is in it
    uint8_t* slots                   # mapped anew when the table grows
    delivery_shared_t* shared
    uint64_t* owners
    uint32_t* in_flight
    uint64_t salt
    uint32_t pages                   # of slots that are mapped here
    uint32_t room                    # slots in them
    bint by_key


@cython.cdivision(True)
cdef inline delivery_slot_t* slot_at(delivery_table_t* table, uint32_t index) noexcept nogil:
    return <delivery_slot_t*> (
        table.slots + <size_t> (index // SLOTS_PER_PAGE) * PAGE + (index % SLOTS_PER_PAGE) * SLOT_BYTES
    )


cdef inline int state_of(const delivery_slot_t* slot) noexcept nogil:
    return slot.meta & STATE_MASK


cdef inline uint32_t count_of(const delivery_slot_t* slot) noexcept nogil:
    return slot.meta >> COUNT_SHIFT


cdef inline uint32_t owner_of(const delivery_slot_t* slot) noexcept nogil:
    return slot.meta >> OWNER_SHIFT & OWNER_MASK


cdef inline uint32_t slot_check(const delivery_slot_t* slot, uint32_t index, uint64_t salt) noexcept nogil:
    cdef uint64_t found = header_checksum(
        <const uint8_t*> slot, 32, salt, <uint64_t> slot.meta << 32 | index
    )
    return <uint32_t> (found ^ found >> 32)


cdef inline bint slot_fits(const delivery_slot_t* slot, uint32_t index, uint64_t salt) noexcept nogil:
    return slot.check == slot_check(slot, index, salt) and (slot.meta & STATE_MASK) <= SLOT_GHOST


cdef inline void set_slot(
    delivery_table_t* table, uint32_t index, int64_t offset, int64_t when, uint64_t token, uint32_t key,
    uint32_t epoch, uint32_t meta,
) noexcept nogil:
    """Change the checked part of a slot so that a kill leaves the old or the new one."""
    cdef delivery_slot_t* slot = slot_at(table, index)
    cdef delivery_shared_t* shared = table.shared
    shared.undo = slot[0]
    atomic_store32(&shared.undo_index, index + 1)
    compiler_fence()
    failpoint("deliveries.undo_noted")
    slot.offset, slot.when, slot.token = offset, when, token
    failpoint("deliveries.slot_half_written")
    slot.key, slot.epoch, slot.meta = key, epoch, meta
    slot.check = slot_check(slot, index, table.salt)
    compiler_fence()
    atomic_store32(&shared.undo_index, 0)
    shared.changes += 1


cdef inline void set_state(
    delivery_table_t* table, uint32_t index, int64_t when, uint64_t token, uint32_t meta
) noexcept nogil:
    cdef delivery_slot_t* slot = slot_at(table, index)
    set_slot(table, index, slot.offset, when, token, slot.key, slot.epoch, meta)


# ---- marks --------------------------------------------------------------------------------------------

cdef enum mark_kind:
    LIVE = 0                         # of the processes of one boot
    DURABLE = 2                      # of what a sync has brought to disk


cdef inline uint64_t mark_check(const delivery_mark_t* mark, int place, uint64_t salt) noexcept nogil:
    return header_checksum(<const uint8_t*> mark, MARK_CHECKED, salt, MARKS_AT + place * MARK_SECTOR)


cdef inline void put_mark(delivery_table_t* table, int kind, delivery_mark_t* mark) noexcept nogil:
    """Write over the older one of two: a kill, or a torn sector, leaves the newer one."""
    cdef int place = kind + <int> (mark.version & 1)
    mark.check = mark_check(mark, place, table.salt)
    (<delivery_mark_t*> (table.base + MARKS_AT + place * MARK_SECTOR))[0] = mark[0]
    compiler_fence()


cdef inline bint newest_mark(delivery_table_t* table, int kind, delivery_mark_t* found) noexcept nogil:
    """The newer one of the two marks that are whole; False where neither is."""
    cdef int place
    cdef bint any = False
    cdef delivery_mark_t* mark
    for place in range(kind, kind + 2):
        mark = <delivery_mark_t*> (table.base + MARKS_AT + place * MARK_SECTOR)
        if mark.check != mark_check(mark, place, table.salt) or mark.version & 1 != <uint64_t> (place - kind):
            continue
        if not any or mark.version > found.version:
            found[0] = mark[0]
        any = True
    return any
