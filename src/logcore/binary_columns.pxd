# cython: language_level=3
"""Columns of values and keys that come from Arrow or numpy."""

from libc.stdint cimport int32_t, int64_t, uint8_t

from logcore.arrow cimport ArrowArray
from logcore.builder cimport BatchBuilder
from logcore.inputs cimport binary_column_t

cdef class BinaryColumn:
    cdef binary_column_t rows
    cdef Py_ssize_t length
    cdef ArrowArray array                    # ours to release, where it came through Arrow
    cdef int32_t* made_offsets               # where the given ones are of another kind
    cdef Py_buffer offsets_buffer            # obj NULL: none
    cdef Py_buffer data_buffer

cdef class RecordColumns:
    cdef list values                         # of BinaryColumn, one behind the other
    cdef list keys                           # None: no keys
    cdef readonly Py_ssize_t count           # of records
    cdef int value_chunk, key_chunk          # where the last look was
    cdef Py_ssize_t value_start, key_start   # first record of these

    cdef Py_ssize_t add(self, BatchBuilder builder, Py_ssize_t start, Py_ssize_t budget) except -1
    # records from `start` until body_bytes reaches `budget`; how many were taken, at least one

    cdef int record(
        self, Py_ssize_t i, const uint8_t** key, Py_ssize_t* key_bytes, const uint8_t** value,
        Py_ssize_t* value_bytes,
    ) except -1
    # one record; cheap where i rises. NULL_LENGTH says null

    cdef int64_t largest(self) except -1
    # most bytes of key and value that a record has (a null's hidden bytes count); 0 without records.
    # ValueError where offsets fall

    cdef int seek(self, Py_ssize_t i) except -1
    cdef Py_ssize_t stretch(self, Py_ssize_t i, binary_column_t* values, binary_column_t* keys) except -1

cdef bint is_columns(object values) except -1
# True for what record_columns() takes, False for what is a list or tuple of bytes, or wrong

cdef RecordColumns record_columns(object values, object keys)
# values and keys (or None): each an Arrow array or stream of binary, a pair (int32 or int64 offsets, bytes)
# or a 2-D array of bytes with a record a row. Keeps them alive; copies nothing but foreign offsets.
# TypeError, ValueError
