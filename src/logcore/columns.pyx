# cython: language_level=3
"""Finds the columns of one raw body (FORMAT.md, section 4) and checks every entry of them.

Knows neither header nor records. Invariant: place_columns() leaves only pointers to columns that lie wholly
inside the body, and after check_columns() every offset lies inside its column.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from logcore.format cimport *
from logcore.inputs cimport offsets_fall
from logcore.record_headers cimport check_headers


cdef const uint8_t* take(columns_t* columns, uint64_t* at, uint64_t size) except NULL:
    """The next `size` bytes of the body; the column behind begins at a multiple of 8, zeros between."""
    cdef const uint8_t* column = columns.body + at[0]
    cdef uint64_t i, padded = align8(size)
    if padded > columns.body_bytes - at[0]:
        raise ValueError("a column ends outside of the body")
    for i in range(size, padded):
        if column[i] != 0:
            raise ValueError("what lies between the columns is not zero")
    at[0] += padded
    return column


cdef const uint8_t* take_bytes(columns_t* columns, uint64_t* at, const int32_t* offsets) except NULL:
    """The bytes that `offsets` point into."""
    cdef int32_t size = offsets[columns.record_count]
    if offsets[0] != 0 or size < 0:
        raise ValueError("a column's offsets do not begin at 0")
    return take(columns, at, <uint64_t> size)


cdef int place_columns(columns_t* columns) except -1:
    """Find each column in the body; nothing but their ends is read."""
    cdef uint64_t at = 0
    cdef uint64_t n = columns.record_count
    cdef uint32_t attributes = columns.attributes
    if attributes & ATTR_TIMESTAMPS:
        columns.timestamps = <const int64_t*> take(columns, &at, 8 * n)
    if attributes & ATTR_OFFSET_DELTAS:
        columns.deltas = <const uint32_t*> take(columns, &at, 4 * n)
    if attributes & ATTR_SEQUENCES:
        columns.sequences = <const int64_t*> take(columns, &at, 8 * n)
    if attributes & ATTR_KEY_NULLS:
        columns.key_validity = take(columns, &at, (n + 7) >> 3)
    if attributes & ATTR_VALUE_NULLS:
        columns.value_validity = take(columns, &at, (n + 7) >> 3)
    if attributes & ATTR_KEYS:
        columns.key_offsets = <const int32_t*> take(columns, &at, 4 * (n + 1))
        columns.keys = take_bytes(columns, &at, columns.key_offsets)
    if attributes & ATTR_HEADERS:
        columns.header_offsets = <const int32_t*> take(columns, &at, 4 * (n + 1))
        columns.headers = take_bytes(columns, &at, columns.header_offsets)
    columns.value_offsets = <const int32_t*> take(columns, &at, 4 * (n + 1))
    columns.values = take_bytes(columns, &at, columns.value_offsets)
    if at != columns.body_bytes:
        raise ValueError("the body does not end with its last column")
    return 0


cdef bint null_has_bytes(const uint8_t* validity, const int32_t* offsets, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not bit_at(validity, i) and offsets[i + 1] != offsets[i]:
            return True
    return False


cdef int check_columns(columns_t* columns) except -1:
    """Check every entry of every column."""
    cdef Py_ssize_t i, begin, n = columns.record_count
    cdef const uint8_t* valid = columns.value_validity
    if offsets_fall(columns.value_offsets, n):
        raise ValueError("value offsets fall")
    if columns.key_offsets is not NULL and offsets_fall(columns.key_offsets, n):
        raise ValueError("key offsets fall")
    if valid is not NULL and null_has_bytes(valid, columns.value_offsets, n):
        raise ValueError("a null value has bytes")
    if columns.key_validity is not NULL and null_has_bytes(columns.key_validity, columns.key_offsets, n):
        raise ValueError("a null key has bytes")
    if columns.header_offsets is not NULL:
        if offsets_fall(columns.header_offsets, n):
            raise ValueError("header offsets fall")
        for i in range(n):
            begin = columns.header_offsets[i]
            check_headers(columns.headers + begin, columns.header_offsets[i + 1] - begin)
    return 0


cdef int check_timestamps(columns_t* columns, int64_t first, int64_t newest) except -1:
    cdef Py_ssize_t i
    cdef int64_t found
    if columns.timestamps is NULL:
        return 0
    found = columns.timestamps[0]
    for i in range(1, columns.record_count):
        found = max(found, columns.timestamps[i])
    if columns.timestamps[0] != first or found != newest:
        raise ValueError("the timestamps do not fit the header's")
    return 0


cdef int check_deltas(columns_t* columns, int64_t span) except -1:
    cdef Py_ssize_t i
    cdef bint bad = False
    if columns.deltas is NULL:
        return 0
    for i in range(1, columns.record_count):
        bad |= columns.deltas[i] <= columns.deltas[i - 1]
    if bad or columns.deltas[columns.record_count - 1] >= span:
        raise ValueError("the offset deltas do not rise or leave the batch")
    return 0


cdef int check_sequences(columns_t* columns, int64_t first, int64_t last) except -1:
    cdef Py_ssize_t i
    cdef bint bad = False
    if columns.sequences is NULL:
        return 0
    for i in range(1, columns.record_count):
        bad |= columns.sequences[i] <= columns.sequences[i - 1]
    if bad or columns.sequences[0] != first or columns.sequences[columns.record_count - 1] != last:
        raise ValueError("the sequences do not rise or do not fit the header's")
    return 0
