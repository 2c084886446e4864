# cython: language_level=3
"""All records of one key in one partition, and appends that hold only while nobody wrote to a key."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch
from logcore.partition_log cimport Guard, PartitionLog
from logcore.reader cimport PartitionReader
from logcore.segment cimport Segment
from logcore.segment_keys cimport SegmentKeys, keyed_records_t

cdef class IndexedSegment:
    cdef object file                         # SegmentFile
    cdef int64_t end_offset                  # base offset of the next segment: what is behind was cut
    cdef SegmentKeys keys                    # None where not looked at yet
    cdef Segment segment                     # mapped; None likewise

    cdef void let_go(self)

cdef class KeyIndex:
    cdef PartitionLog log
    cdef object lock                         # threads share an index
    cdef bint closed                         # nothing is looked up any more
    cdef list sealed                         # IndexedSegment, in log order; None: list the files anew
    cdef PartitionReader reader              # has read the active segment as far as `active` knows it
    cdef SegmentKeys active
    cdef Segment active_segment
    cdef uint32_t rewrites, epoch            # of the partition, when the files were listed
    cdef uint64_t end                        # byte_pos up to which all keys are known

    cdef int let_go(self) except -1
    cdef int check_open(self) except -1
    cdef int look_up_to(self, uint64_t* end, uint32_t* epoch) except -1
    cdef int follow(self) except -1
    cdef int begin(self) except -1
    cdef int take(self, RecordBatch batch) except -1
    cdef int seal_active(self, Segment before) except -1
    cdef SegmentKeys read_keys(self, IndexedSegment found)
    cdef int open_sealed(self, IndexedSegment found) except -1
    cdef int gather(
        self, Segment segment, SegmentKeys keys, keyed_records_t* found, bytes key, list out
    ) except -1
    cdef RecordBatch batch_at(self, Segment segment, uint64_t position, int64_t offset)

cdef class KeyGuard(Guard):
    cdef KeyIndex index
    cdef dict expected                       # key -> offset of its last record, -1: none
    cdef uint64_t checked_to                 # byte_pos up to which that holds
    cdef uint32_t epoch

cdef KeyGuard guard_of(KeyIndex index, bytes key, object guard)      # what a caller gave as `guard`
