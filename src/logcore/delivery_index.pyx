# cython: language_level=3, cdivision=True
"""What is derived from the slots of a delivery table: free list, two heaps, order by key, counts.

Kept in the slots' own words, so that it costs nothing beside them: cell i of the ready heap (by offset) is
in slot i, cell i of the due heap (by time) in slot room - 1 - i, and a slot is in one of them at most. With
order by key each unfinished key has a holder and, behind it, a chain of blocked records in their order; a
hash leads to the last one. Invariant: everything here follows from the checked part of the slots.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort

from logcore.delivery_slots cimport (
    HOLDS_KEY, NOBODY, SLOT_BLOCKED, SLOT_DELAYED, SLOT_FREE, SLOT_GHOST, SLOT_LEASED, SLOT_READY, STATE_MASK,
    delivery_shared_t, delivery_slot_t, delivery_table_t, owner_of, set_slot, set_state, slot_at, slot_fits,
    state_of,
)
from logcore.failpoints cimport planted
from logcore.registry_slots cimport REGISTRY_SLOTS

# ---- free slots ---------------------------------------------------------------------------------------

cdef uint32_t take_free(delivery_table_t* table) noexcept nogil:
    cdef delivery_shared_t* shared = table.shared
    cdef uint32_t index = shared.free_head
    if index != NOBODY:
        shared.free_head = slot_at(table, index).next
        shared.free_count -= 1
        return index
    if shared.used < table.room:
        shared.used += 1
        return shared.used - 1
    return NOBODY


cdef void free_slot(delivery_table_t* table, uint32_t index) noexcept nogil:
    set_slot(table, index, 0, 0, 0, 0, 0, SLOT_FREE)
    link_free(table, index)


cdef void link_free(delivery_table_t* table, uint32_t index) noexcept nogil:
    cdef delivery_shared_t* shared = table.shared
    slot_at(table, index).next = shared.free_head
    shared.free_head = index
    shared.free_count += 1


# ---- heaps --------------------------------------------------------------------------------------------

cdef inline uint32_t* ready_cell(delivery_table_t* table, uint32_t i) noexcept nogil:
    return &slot_at(table, i).heap


cdef inline uint32_t* due_cell(delivery_table_t* table, uint32_t i) noexcept nogil:
    return &slot_at(table, table.room - 1 - i).heap


cdef inline bint sooner(const delivery_slot_t* a, const delivery_slot_t* b) noexcept nogil:
    return a.when < b.when or (a.when == b.when and a.offset < b.offset)


cdef void push_ready(delivery_table_t* table, uint32_t index) noexcept nogil:
    cdef uint32_t i = table.shared.ready, parent
    cdef int64_t offset = slot_at(table, index).offset
    table.shared.ready += 1
    while i > 0:
        parent = (i - 1) >> 1
        if slot_at(table, ready_cell(table, parent)[0]).offset <= offset:
            break
        ready_cell(table, i)[0] = ready_cell(table, parent)[0]
        i = parent
    ready_cell(table, i)[0] = index


cdef uint32_t pop_ready(delivery_table_t* table) noexcept nogil:
    cdef uint32_t count, i = 0, child, last, found
    cdef int64_t offset
    if table.shared.ready == 0:
        return NOBODY
    found = ready_cell(table, 0)[0]
    count = table.shared.ready = table.shared.ready - 1
    last = ready_cell(table, count)[0]
    offset = slot_at(table, last).offset
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and (
            slot_at(table, ready_cell(table, child + 1)[0]).offset
            < slot_at(table, ready_cell(table, child)[0]).offset
        ):
            child += 1
        if offset <= slot_at(table, ready_cell(table, child)[0]).offset:
            break
        ready_cell(table, i)[0] = ready_cell(table, child)[0]
        i = child
    ready_cell(table, i)[0] = last
    return found


cdef void push_due(delivery_table_t* table, uint32_t index) noexcept nogil:
    cdef uint32_t i = table.shared.delayed, parent
    cdef delivery_slot_t* slot = slot_at(table, index)
    table.shared.delayed += 1
    while i > 0:
        parent = (i - 1) >> 1
        if not sooner(slot, slot_at(table, due_cell(table, parent)[0])):
            break
        due_cell(table, i)[0] = due_cell(table, parent)[0]
        i = parent
    due_cell(table, i)[0] = index


cdef uint32_t pop_due(delivery_table_t* table) noexcept nogil:
    cdef uint32_t count, i = 0, child, last, found = due_cell(table, 0)[0]
    cdef delivery_slot_t* slot
    count = table.shared.delayed = table.shared.delayed - 1
    last = due_cell(table, count)[0]
    slot = slot_at(table, last)
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and sooner(
            slot_at(table, due_cell(table, child + 1)[0]), slot_at(table, due_cell(table, child)[0])
        ):
            child += 1
        if not sooner(slot_at(table, due_cell(table, child)[0]), slot):
            break
        due_cell(table, i)[0] = due_cell(table, child)[0]
        i = child
    due_cell(table, i)[0] = last
    return found


cdef void room_changed(delivery_table_t* table, uint32_t before) noexcept nogil:
    """Move the due heap to the new end, and make the hash of keys as large as the room allows."""
    cdef uint32_t i
    if table.room > before:
        for i in range(table.shared.delayed):        # upwards, so that no cell is overwritten before its turn
            slot_at(table, table.room - 1 - i).heap = slot_at(table, before - 1 - i).heap
    if table.by_key and table.shared.buckets * 2 <= table.room:
        hash_keys(table)


# ---- order by key -------------------------------------------------------------------------------------

cdef inline uint32_t* bucket_of(delivery_table_t* table, uint32_t key) noexcept nogil:
    return &slot_at(table, key & (table.shared.buckets - 1)).bucket


cdef uint32_t last_of(delivery_table_t* table, uint32_t key) noexcept nogil:
    """The last record of a key that is unfinished."""
    cdef uint32_t index = bucket_of(table, key)[0]
    while index != NOBODY and slot_at(table, index).key != key:
        index = slot_at(table, index).link
    return index


cdef void enter_last(delivery_table_t* table, uint32_t index) noexcept nogil:
    cdef delivery_slot_t* slot = slot_at(table, index)
    cdef uint32_t* bucket = bucket_of(table, slot.key)
    slot.link = bucket[0]
    bucket[0] = index


cdef void leave_last(delivery_table_t* table, uint32_t index) noexcept nogil:
    cdef uint32_t* place = bucket_of(table, slot_at(table, index).key)
    while place[0] != NOBODY:
        if place[0] == index:
            place[0] = slot_at(table, index).link
            return
        place = &slot_at(table, place[0]).link


cdef void stand_behind(delivery_table_t* table, uint32_t last, uint32_t index) noexcept nogil:
    """A record of a key waits for those before it: its state is SLOT_BLOCKED."""
    leave_last(table, last)
    slot_at(table, last).next = index
    slot_at(table, index).next = NOBODY
    enter_last(table, index)
    table.shared.blocked += 1


cdef bint hold(delivery_table_t* table, uint32_t index) noexcept nogil:
    """Become the holder of the key; False where another record has it."""
    if last_of(table, slot_at(table, index).key) != NOBODY:
        return False
    slot_at(table, index).next = NOBODY
    enter_last(table, index)
    return True


cdef void hash_keys(delivery_table_t* table) noexcept nogil:
    """Make the hash anew, larger: those who are last of their key stay so."""
    cdef uint32_t i, buckets = 1
    cdef delivery_slot_t* slot
    while buckets * 2 <= table.room:
        buckets *= 2
    table.shared.buckets = buckets
    for i in range(buckets):
        slot_at(table, i).bucket = NOBODY
    for i in range(table.shared.used):
        slot = slot_at(table, i)
        if slot.key and slot.next == NOBODY and (
            slot.meta & HOLDS_KEY or state_of(slot) == SLOT_BLOCKED
        ):
            enter_last(table, i)


# ---- records ------------------------------------------------------------------------------------------

cdef void make_ready(delivery_table_t* table, uint32_t index, uint64_t token) noexcept nogil:
    """Of a slot that is in no heap; the token of its last lease is void."""
    cdef uint32_t meta = slot_at(table, index).meta
    set_state(table, index, 0, token, SLOT_READY | meta & HOLDS_KEY | meta & <uint32_t> 0xFFFF0000)
    push_ready(table, index)


cdef void make_delayed(delivery_table_t* table, uint32_t index, int64_t due) noexcept nogil:
    cdef uint32_t meta = slot_at(table, index).meta
    set_state(table, index, due, 0, SLOT_DELAYED | meta & HOLDS_KEY | meta & <uint32_t> 0xFFFF0000)
    push_due(table, index)


cdef uint32_t make_due_ready(delivery_table_t* table, int64_t now) noexcept nogil:
    cdef uint32_t index, came = 0, last
    cdef delivery_slot_t* slot
    while table.shared.delayed and (
        slot_at(table, due_cell(table, 0)[0]).when <= now or planted("due_time_ignored")
    ):
        index = pop_due(table)
        slot = slot_at(table, index)
        came += 1
        if table.by_key and slot.key and not slot.meta & HOLDS_KEY:
            # scheduled, and never delivered: it takes its place in the order of its key now
            last = last_of(table, slot.key)
            if last != NOBODY:
                set_state(table, index, 0, 0, SLOT_BLOCKED | slot.meta & <uint32_t> 0xFFFF0000)
                stand_behind(table, last, index)
                continue
            set_state(table, index, slot.when, 0, slot.meta | HOLDS_KEY)
            hold(table, index)
        make_ready(table, index, 0)
    return came


cdef int64_t next_due(delivery_table_t* table) noexcept nogil:
    return slot_at(table, due_cell(table, 0)[0]).when if table.shared.delayed else INT64_MAX


cdef int64_t first_offset(delivery_table_t* table) noexcept nogil:
    cdef uint32_t i
    cdef int64_t first = table.shared.scanned
    cdef delivery_slot_t* slot
    for i in range(table.shared.used):
        slot = slot_at(table, i)
        if state_of(slot) != SLOT_FREE and state_of(slot) != SLOT_GHOST and slot.offset < first:
            first = slot.offset
    return first


cdef void take_in(
    delivery_table_t* table, uint32_t index, int64_t offset, int64_t due, uint32_t key
) noexcept nogil:
    cdef uint32_t last = NOBODY, epoch = table.shared.epoch
    if due > 0:
        set_slot(table, index, offset, due, 0, key, epoch, SLOT_DELAYED)
        push_due(table, index)
        return
    if key:
        last = last_of(table, key)
        if last != NOBODY:
            set_slot(table, index, offset, 0, 0, key, epoch, SLOT_BLOCKED)
            stand_behind(table, last, index)
            return
    set_slot(table, index, offset, 0, 0, key, epoch, SLOT_READY | (HOLDS_KEY if key else 0))
    if key:
        hold(table, index)
    push_ready(table, index)


cdef bint finish(delivery_table_t* table, uint32_t index) noexcept nogil:
    cdef delivery_slot_t* slot = slot_at(table, index)
    cdef uint32_t behind = NOBODY
    if table.by_key and slot.key and slot.meta & HOLDS_KEY:
        behind = slot.next
        if behind == NOBODY:
            leave_last(table, index)
        else:
            table.shared.blocked -= 1
            set_state(table, behind, 0, 0, slot_at(table, behind).meta & ~<uint32_t> STATE_MASK
                      | SLOT_READY | HOLDS_KEY)
            push_ready(table, behind)
    free_slot(table, index)
    table.shared.finished += 1
    return behind != NOBODY


# ---- all of it ----------------------------------------------------------------------------------------

cdef struct waiting_t:
    int64_t offset
    uint32_t index


cdef int by_offset(const void* a, const void* b) noexcept nogil:
    cdef int64_t x = (<const waiting_t*> a).offset, y = (<const waiting_t*> b).offset
    return (x > y) - (x < y)


cdef int rebuild(delivery_table_t* table) noexcept nogil:
    """Make everything derived anew, from slots [0, used) of which each fits its check, or say it does not.

    What lies at or above `scanned` was being taken in when its process died: it is as if it had not been.
    """
    cdef delivery_shared_t* shared = table.shared
    cdef delivery_slot_t* slot
    cdef waiting_t* waiting = NULL
    cdef uint32_t i, waits = 0
    cdef int state
    if shared.used > table.room:
        return DAMAGED
    for i in range(shared.used):
        slot = slot_at(table, i)
        if not slot_fits(slot, i, table.salt):
            return DAMAGED
        state = state_of(slot)
        if table.by_key and slot.key and (state == SLOT_BLOCKED or state == SLOT_READY):
            waits += 1
    if waits:
        waiting = <waiting_t*> malloc(waits * sizeof(waiting_t))
        if waiting is NULL:
            return NO_MEMORY
    forget(table)
    waits = 0
    for i in range(shared.used):
        slot = slot_at(table, i)
        state = state_of(slot)
        if state != SLOT_FREE and (slot.offset >= shared.scanned or (
            slot.epoch < shared.epoch and slot.offset >= shared.epoch_start
        )):
            state = SLOT_FREE
        if state == SLOT_FREE:
            if state_of(slot) == SLOT_FREE:
                link_free(table, i)
            else:
                free_slot(table, i)
        elif state == SLOT_GHOST:
            shared.ghosts += 1
        elif table.by_key and slot.key and (state == SLOT_BLOCKED or state == SLOT_READY):
            waiting[waits].offset, waiting[waits].index = slot.offset, i
            waits += 1
        else:
            if state == SLOT_LEASED:
                shared.leased += 1
                table.in_flight[owner_of(slot)] += 1
                shared.next_deadline = min(shared.next_deadline, slot.when)
            elif state == SLOT_DELAYED:
                push_due(table, i)
            else:
                push_ready(table, i)
            if table.by_key and slot.key and slot.meta & HOLDS_KEY:
                hold(table, i)
    if waits:
        # holders in flight or delayed are in: now everybody else in the order of the log
        qsort(waiting, waits, sizeof(waiting_t), by_offset)
        for i in range(waits):
            line_up(table, waiting[i].index)
        free(waiting)
    return REBUILT


cdef void forget(delivery_table_t* table) noexcept nogil:
    cdef delivery_shared_t* shared = table.shared
    cdef uint32_t i
    shared.free_head = NOBODY
    shared.free_count = shared.ready = shared.delayed = shared.blocked = 0
    shared.leased = shared.ghosts = shared.buckets = 0
    shared.next_deadline = INT64_MAX
    for i in range(REGISTRY_SLOTS):
        table.in_flight[i] = 0
    for i in range(shared.used):
        slot_at(table, i).next = NOBODY
    if table.by_key:
        shared.buckets = 1
        while shared.buckets * 2 <= table.room:
            shared.buckets *= 2
        for i in range(shared.buckets):
            slot_at(table, i).bucket = NOBODY


cdef void line_up(delivery_table_t* table, uint32_t index) noexcept nogil:
    """While rebuilding: a ready or blocked record takes its place in the order of its key."""
    cdef delivery_slot_t* slot = slot_at(table, index)
    cdef uint32_t counted = slot.meta & <uint32_t> 0xFFFF0000
    cdef uint32_t last = last_of(table, slot.key)
    if last != NOBODY:
        set_state(table, index, 0, 0, SLOT_BLOCKED | counted)
        stand_behind(table, last, index)
        return
    set_state(table, index, 0, 0, SLOT_READY | HOLDS_KEY | counted)
    hold(table, index)
    push_ready(table, index)
