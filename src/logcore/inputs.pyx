# cython: language_level=3
"""Checks and measures keys and values as they come from Python, before they are copied.

Nothing is copied or kept here. Invariant: whoever was told a length may read that many bytes as long as he
holds the object that it came from.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t


cdef int refuse_item(PyObject* item) except -1:
    raise TypeError(f"keys and values are bytes or None, not {type(<object> item).__name__}")


cdef int check_items(object items, str what) except -1:
    cdef PyObject** at
    cdef Py_ssize_t i
    if not isinstance(items, (list, tuple)):
        raise TypeError(f"{what} are a list or tuple of bytes or None, not {type(items).__name__}")
    at = fast_items(items)
    for i in range(fast_size(items)):
        if not is_bytes(at[i]) and at[i] is not NONE:
            raise TypeError(f"{what}[{i}] is bytes or None, not {type(<object> at[i]).__name__}")
    return 0


cdef int check_list(object values, object keys) except -1:
    check_items(values, "values")
    if keys is not None:
        check_items(keys, "keys")
        if len(keys) != len(values):
            raise ValueError(f"{len(values)} values and {len(keys)} keys: one key a value")
    return 0


cdef int row_bytes(
    const binary_column_t* rows, Py_ssize_t i, const uint8_t** data, Py_ssize_t* size
) except -1:
    """Bytes and length of row i; NULL_LENGTH for a null."""
    cdef int64_t bit = rows.first_bit + i
    if rows.validity is not NULL and not rows.validity[bit >> 3] >> (bit & 7) & 1:
        size[0] = NULL_LENGTH
        return 0
    if rows.offsets[i] < 0 or rows.offsets[i + 1] < rows.offsets[i]:
        raise ValueError("the offsets of a column fall")
    data[0] = rows.data + rows.offsets[i]
    size[0] = rows.offsets[i + 1] - rows.offsets[i]
    return 0


cdef bint offsets_fall(const int32_t* offsets, Py_ssize_t count) noexcept nogil:
    cdef bint bad = offsets[0] < 0
    cdef Py_ssize_t i
    for i in range(count):               # without an early end the compiler makes it a vector loop
        bad |= offsets[i + 1] < offsets[i]
    return bad


cdef Py_ssize_t rows_within(
    const binary_column_t* values, const binary_column_t* keys, Py_ssize_t start, Py_ssize_t most,
    int64_t room,
) noexcept nogil:
    """Most rows from `start` whose bytes and offsets fit into `room`."""
    cdef Py_ssize_t low = 0, high = most, middle
    cdef int64_t size
    while low < high:
        middle = (low + high + 1) // 2
        size = <int64_t> values.offsets[start + middle] - values.offsets[start] + 4 * middle
        if keys is not NULL:
            size += <int64_t> keys.offsets[start + middle] - keys.offsets[start] + 4 * middle
        if size <= room:
            low = middle
        else:
            high = middle - 1
    return low
