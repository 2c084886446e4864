# cython: language_level=3
"""What is derived from the slots of a delivery table: free list, heaps, order by key, counts.

All under the table's lock, none can fail. `rebuild` makes all of it anew from the slots.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from logcore.delivery_slots cimport delivery_table_t

cdef enum rebuilt:
    REBUILT = 0
    DAMAGED = 1                      # a slot does not fit its check
    NO_MEMORY = 2

cdef int rebuild(delivery_table_t* table) noexcept nogil
cdef void room_changed(delivery_table_t* table, uint32_t before) noexcept nogil   # table.room is the new one

cdef uint32_t take_free(delivery_table_t* table) noexcept nogil                   # NOBODY: no room
cdef void free_slot(delivery_table_t* table, uint32_t index) noexcept nogil       # in no heap and no order

cdef uint32_t pop_ready(delivery_table_t* table) noexcept nogil                   # NOBODY: none
cdef void make_ready(delivery_table_t* table, uint32_t index, uint64_t token) noexcept nogil
cdef void make_delayed(delivery_table_t* table, uint32_t index, int64_t due) noexcept nogil
cdef uint32_t make_due_ready(delivery_table_t* table, int64_t now) noexcept nogil  # how many came due
cdef int64_t next_due(delivery_table_t* table) noexcept nogil                     # INT64_MAX: none
cdef int64_t first_offset(delivery_table_t* table) noexcept nogil                 # of what is unfinished

cdef void take_in(
    delivery_table_t* table, uint32_t index, int64_t offset, int64_t due, uint32_t key
) noexcept nogil
# a record that the table did not know, into a slot of take_free(): ready, delayed (due > 0) or blocked

cdef bint finish(delivery_table_t* table, uint32_t index) noexcept nogil
# a slot that is in no heap is free; True where that made a record of its key ready
