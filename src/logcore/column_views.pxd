# cython: language_level=3
"""numpy arrays over columns; numpy is imported at the first use."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef enum column_type:
    COLUMN_U8 = 0
    COLUMN_I32 = 1
    COLUMN_U32 = 2
    COLUMN_I64 = 3

cdef object view_array(object exporter, const uint8_t* body, const void* column, int type, Py_ssize_t count)
# read-only view of `count` items; `exporter` gives the body by the buffer protocol and is kept by the array

# new arrays
cdef object offsets_array(int64_t first, const uint32_t* deltas, Py_ssize_t count)   # int64; NULL: dense
cdef object filled_array(int64_t value, Py_ssize_t count)            # int64: the same everywhere
cdef object lengths_array(const int32_t* offsets, Py_ssize_t count)  # int32: differences; zeros for NULL
