# cython: language_level=3
"""What a producer has buffered for one topic."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from logcore.builder cimport BatchBuilder
from logcore.topic_log cimport TopicLog

cdef struct progress_t:
    int64_t appended                         # our last sequence in the log, -1 for none
    int64_t taken                            # the last one that was sent; what is not above it is a duplicate
    bint asked                               # both are as the log says; False again after a failure

cdef class TopicBuffer:                      # what is buffered for one topic
    cdef TopicLog log
    cdef readonly str name
    cdef int partitions
    cdef int sticky                          # where records without a key go now; -1: nowhere
    cdef int64_t budget                      # a batch that has grown to this is written
    cdef int64_t max_record_bytes
    cdef bint gone                           # the topic was deleted, and what was buffered dropped
    cdef list builders                       # BatchBuilder, None where nothing was sent to the partition yet
    cdef PyObject** builder_at               # the same, borrowed; NULL for None
    cdef progress_t* progress                # by partition, of an idempotent producer

    cdef int attach(self, TopicLog log, int64_t batch_bytes) except -1
    cdef BatchBuilder builder(self, int partition)
    cdef int keyless(self) noexcept
    # the partition of records without a key, until its batch is written
    cdef int ask_log(self, int partition, unsigned long long producer_id) except -1
