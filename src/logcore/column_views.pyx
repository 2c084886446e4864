# cython: language_level=3
"""Turns columns into numpy arrays without a copy where the column exists.

numpy is imported at the first use and called through Python, so that nothing here is compiled against its
headers and a program that reads records only never loads it. Invariant: a view is read-only and keeps the
exporter of its memory alive.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef object frombuffer = None
cdef object empty = None
cdef tuple types = None                  # numpy dtypes in the order of column_type


cdef int load_numpy() except -1:
    global frombuffer, empty, types
    import numpy
    types = tuple(numpy.dtype(code) for code in ("u1", "<i4", "<u4", "<i8"))
    empty = numpy.empty
    frombuffer = numpy.frombuffer
    return 0


cdef object view_array(object exporter, const uint8_t* body, const void* column, int type, Py_ssize_t count):
    if frombuffer is None:
        load_numpy()
    if count == 0:
        return empty(0, types[type])
    return frombuffer(exporter, types[type], count, <const uint8_t*> column - body)


cdef object new_array(int type, Py_ssize_t count, Py_buffer* buffer):
    if frombuffer is None:
        load_numpy()
    made = empty(count, types[type])
    PyObject_GetBuffer(made, buffer, PyBUF_WRITABLE)
    return made


cdef object offsets_array(int64_t first, const uint32_t* deltas, Py_ssize_t count):
    cdef Py_buffer buffer
    cdef object made = new_array(COLUMN_I64, count, &buffer)
    cdef int64_t* items = <int64_t*> buffer.buf
    cdef Py_ssize_t i
    for i in range(count):
        items[i] = first + (i if deltas is NULL else <int64_t> deltas[i])
    PyBuffer_Release(&buffer)
    return made


cdef object filled_array(int64_t value, Py_ssize_t count):
    cdef Py_buffer buffer
    cdef object made = new_array(COLUMN_I64, count, &buffer)
    cdef int64_t* items = <int64_t*> buffer.buf
    cdef Py_ssize_t i
    for i in range(count):
        items[i] = value
    PyBuffer_Release(&buffer)
    return made


cdef object lengths_array(const int32_t* offsets, Py_ssize_t count):
    cdef Py_buffer buffer
    cdef object made = new_array(COLUMN_I32, count, &buffer)
    cdef int32_t* items = <int32_t*> buffer.buf
    cdef Py_ssize_t i
    if offsets is NULL:
        for i in range(count):
            items[i] = 0
    else:
        for i in range(count):
            items[i] = offsets[i + 1] - offsets[i]
    PyBuffer_Release(&buffer)
    return made
