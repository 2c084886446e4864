# cython: language_level=3
"""Predicates on key and headers, answered from a batch's columns."""

from logcore.batch cimport RecordBatch

cdef enum:
    NO = 0
    MAYBE = 1                                # the columns do not tell: ask the record
    YES = 2

cdef class Matcher:
    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1
