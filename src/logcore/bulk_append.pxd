# cython: language_level=3
"""One append_many on its way."""

from libc.stdint cimport uint8_t

from logcore.binary_columns cimport RecordColumns
from logcore.builder cimport BatchBuilder
from logcore.record_ids cimport RecordIds
from logcore.topic_log cimport TopicLog

cdef class BulkAppend:
    cdef TopicLog topic
    cdef object values, keys                 # lists or tuples; None where `columns` has them
    cdef RecordColumns columns
    cdef list timestamps, headers            # ns, encoded: one for each record, or None
    cdef RecordIds ids                       # of what is in so far
    cdef Py_ssize_t count, appended
    cdef dict touched                        # partition -> its epoch before our first batch

    cdef int check_sizes(self) except -1
    cdef int record(
        self, Py_ssize_t i, const uint8_t** key, Py_ssize_t* key_bytes, const uint8_t** value,
        Py_ssize_t* value_bytes,
    ) except -1
    cdef int flush(self, BatchBuilder builder, int partition) except -1
    cdef int run_in_order(self, int where) except -1
    cdef int run_scattered(self, int where) except -1
