# cython: language_level=3
"""Columns of Arrow's Binary layout as the records of a batch."""

from logcore.builder cimport BatchBuilder
from logcore.inputs cimport binary_column_t

cdef Py_ssize_t add_columns(
    BatchBuilder builder, const binary_column_t* values, const binary_column_t* keys, Py_ssize_t start,
    Py_ssize_t stop, Py_ssize_t budget,
) except -1
# rows [start, stop) until body_bytes reaches `budget`; how many were taken, at least one. keys NULL: no keys.
# ValueError where offsets fall: rows before the bad one may be in
