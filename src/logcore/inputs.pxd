# cython: language_level=3
"""Keys and values as they come from Python: bytes objects, lists of them, columns in Arrow's layout."""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t

cdef enum:
    NULL_LENGTH = -1                         # length of a null key or value

cdef extern from "Python.h":
    # Borrowed references and no checks: for loops that run no Python code.
    PyObject** fast_items "PySequence_Fast_ITEMS"(object items)          # of a list or tuple
    Py_ssize_t fast_size "PySequence_Fast_GET_SIZE"(object items)
    bint is_bytes "PyBytes_Check"(PyObject* item)
    const char* bytes_data "PyBytes_AS_STRING"(PyObject* item)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject* item)
    PyObject* NONE "Py_None"

cdef struct binary_column_t:                 # rows of an Arrow Binary array, or anything laid out like one
    const int32_t* offsets                   # row i is data[offsets[i]:offsets[i + 1]]
    const uint8_t* data
    const uint8_t* validity                  # NULL: none is null
    int64_t first_bit                        # of row 0 in validity

cdef int check_list(object values, object keys) except -1
# TypeError or ValueError unless both are lists or tuples of bytes | None and equally long

cdef int refuse_item(PyObject* item) except -1

cdef inline int item_bytes(PyObject* item, const uint8_t** data, Py_ssize_t* size) except -1:
    """Bytes and length of a bytes object; NULL_LENGTH for None; TypeError for anything else."""
    if is_bytes(item):
        data[0] = <const uint8_t*> bytes_data(item)
        size[0] = bytes_size(item)
    elif item is NONE:
        data[0] = NULL
        size[0] = NULL_LENGTH
    else:
        refuse_item(item)
    return 0

cdef int row_bytes(
    const binary_column_t* rows, Py_ssize_t i, const uint8_t** data, Py_ssize_t* size
) except -1
# bytes and length of row i, NULL_LENGTH for a null; ValueError where its offsets fall

cdef bint offsets_fall(const int32_t* offsets, Py_ssize_t count) noexcept nogil
# of count + 1 offsets

cdef Py_ssize_t rows_within(
    const binary_column_t* values, const binary_column_t* keys, Py_ssize_t start, Py_ssize_t most,
    int64_t room,
) noexcept nogil
# most rows from `start` whose bytes and offsets fit into `room`; keys NULL: none
