# cython: language_level=3
"""Reading one partition from an offset on, through mapped segments."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch
from logcore.partition_log cimport PartitionLog
from logcore.segment cimport Segment

cdef class PartitionReader:
    cdef PartitionLog log
    cdef object owner                        # the TopicLog: open as long as we are
    cdef Segment segment                     # None until located
    cdef int64_t segment_end                 # where the next one begins; -1: not known
    cdef uint64_t position                   # in it, of the next batch
    cdef int64_t next_offset                 # the next record to hand out
    cdef uint32_t epoch                      # of the partition when we last looked
    cdef uint32_t rewrites                   # of the topic's segments, likewise
    cdef RecordBatch batch                   # partly handed out
    cdef int index                           # of the next record in it
    cdef bint busy                           # a call is inside: `segment` stays
    cdef bint mapped                         # listed among those that have a segment mapped
    cdef object __weakref__
    cdef readonly bint synced_only           # isolation "synced"
    cdef readonly int64_t rejected           # records that poll_matching() passed over

    cdef void limit(self, uint64_t* end, int64_t* next_offset) noexcept nogil
    cdef bint stays_within(self, int64_t offset) except -1
    cdef int check_still_there(self) except -1
    cdef int locate(self, uint64_t end) except -1
    cdef int cross(self, int64_t end_offset, unsigned int named_epoch) except -1
    cdef Segment open_segment(self, object file, int64_t behind)
    cdef bint nothing_is_lost(self) except -1
    cdef RecordBatch fetch(self)             # the next batch, whole, or None
    cdef RecordBatch fetch_next(self)        # the same, for whoever is busy
    cdef RecordBatch current(self, bint something)   # the batch at the position, or None; see poll()
    cdef int settle(self, RecordBatch batch) except -1   # stand at `index` of the batch
    cdef int note_cut(self) except -1
    cdef int raise_damage(self, uint64_t limit) except -1
    cdef uint64_t readable(self, uint64_t end) except 0
    cdef bint gap_is_fine(self, const uint8_t* p) except -1
