# cython: language_level=3
"""A walk through the batches of a sealed segment."""

from logcore.batch cimport RecordBatch
from logcore.partition_log cimport PartitionLog
from logcore.scan cimport SegmentScan

cdef class Walk:
    cdef PartitionLog log
    cdef SegmentScan scan
    cdef RecordBatch batch                   # None: a mark
    cdef object path

    cdef bint next(self) except -1           # go to the next batch, False at the footer
