# cython: language_level=3
"""TopicLeases: the leases of one topic's records, taken from its partitions without a Python frame."""

from libc.stdint cimport int64_t, uint32_t

from logcore.deliveries cimport Lease
from logcore.lease_feed cimport LeaseFeed

cdef enum:
    MOST_LEASES = 1 << 20

cdef class TopicLeases:
    cdef list feeds                          # LeaseFeed of each partition; None: not opened yet
    cdef int levels, band                    # how many, and how many partitions each has
    cdef uint32_t turn                       # with which partition of a band to begin
    cdef object clock                        # None: the machine's own
    cdef public bint _expects_flush          # a sync of the tables is due
    cdef unsigned long long leased, acked
    cdef public unsigned long long _nacked, _released, _lost

    cdef list take(self, int most, bint start)               # None: ask _lease()
    cdef list take_level(self, int level, int most, int64_t now, bint start)
    cdef int note_leased(self, Py_ssize_t count) except -1
    cdef int finish(self, object lease) except -1            # ack()
