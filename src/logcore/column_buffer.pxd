# cython: language_level=3
"""One growing column of bytes, and how columns are laid into a body.

Header only. Invariant: `used` never exceeds `capacity`, and a failed growth changes neither.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from logcore.format cimport align8
from logcore.inputs cimport binary_column_t

cdef enum:
    FIRST_DATA_BYTES = 1 << 10
    KEEP_BYTES = 8 << 20                     # buffers beyond this are given back after a batch

cdef struct column_buffer_t:
    int32_t* ends                            # one more than there is room for records, the first is 0
    uint8_t* data
    int64_t used
    int64_t capacity
    uint8_t* validity                        # in use where the builder's attributes say so


cdef inline void copy_bytes(uint8_t* to, const uint8_t* source, Py_ssize_t size) noexcept nogil:
    """memcpy without the call for the 8 to 16 bytes that keys commonly have."""
    cdef uint64_t head, tail
    if 8 <= size <= 16:
        memcpy(&head, source, 8)
        memcpy(&tail, source + size - 8, 8)
        memcpy(to, &head, 8)
        memcpy(to + size - 8, &tail, 8)
    else:
        memcpy(to, source, size)


cdef inline void set_validity(uint8_t* bits, Py_ssize_t i, bint valid) noexcept nogil:
    if i & 7 == 0:
        bits[i >> 3] = valid
    else:
        bits[i >> 3] |= <uint8_t> valid << (i & 7)


cdef inline uint8_t* put_column(uint8_t* at, const void* data, int64_t size) noexcept nogil:
    """Copy a column and its padding; return where the next one begins."""
    cdef int64_t padded = <int64_t> align8(size)
    if padded != size:
        memset(at + padded - 8, 0, 8)
    if size:                             # data may be NULL then
        memcpy(at, data, size)
    return at + padded


cdef inline int grow(void** at, size_t size) except -1:
    cdef void* grown = realloc(at[0], size)
    if grown is NULL:
        raise MemoryError()
    at[0] = grown
    return 0


cdef inline int grow_data(column_buffer_t* column, int64_t more) except -1:
    cdef int64_t capacity
    if more > column.capacity - column.used:
        capacity = max(column.used + more, 2 * column.capacity, FIRST_DATA_BYTES)
        grow(<void**> &column.data, capacity)
        column.capacity = capacity
    return 0


cdef inline void drop_huge(column_buffer_t* column) noexcept:
    if column.capacity > KEEP_BYTES:
        free(column.data)
        column.data = NULL
        column.capacity = 0


cdef inline void append_rows(
    column_buffer_t* column, int n, const binary_column_t* rows, Py_ssize_t start, Py_ssize_t count
) noexcept nogil:
    """Copy rows behind the n that `column` has; there is room for them."""
    cdef int32_t first = rows.offsets[start]
    cdef int32_t shift = <int32_t> column.used - first
    cdef int32_t size = rows.offsets[start + count] - first
    cdef int32_t* ends = column.ends + n + 1
    cdef const int32_t* source = rows.offsets + start + 1
    cdef Py_ssize_t i
    for i in range(count):
        ends[i] = source[i] + shift
    if size:                                  # else both may be NULL
        memcpy(column.data + column.used, rows.data + first, size)
    column.used += size
