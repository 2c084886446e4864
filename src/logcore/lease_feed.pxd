# cython: language_level=3
"""LeaseFeed: leases of one partition's records, from its delivery table and its log together."""

from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t, uint32_t, uint64_t

from logcore.batch cimport Record, RecordBatch
from logcore.deliveries cimport DeliveryTable, Lease
from logcore.partition_log cimport PartitionLog
from logcore.reader cimport PartitionReader

cdef struct claim_t:                         # a record that was leased under the lock, not made yet
    int64_t offset
    uint64_t token
    uint32_t index
    uint32_t count

cdef class LeaseFeed:
    cdef PyThread_type_lock turn             # of the threads
    cdef readonly DeliveryTable table
    cdef PartitionLog log
    cdef PartitionReader fresh               # goes on behind `ahead`
    cdef list again                          # PartitionReaders for records that were taken in before
    cdef RecordBatch last                    # what one of them read last
    cdef list ahead                          # batches read already, in order
    cdef int64_t ahead_from                  # first offset that they cover
    cdef uint32_t epoch                      # in which they were read
    cdef uint32_t rewrites                   # of the topic's segments, likewise
    cdef bytes due_header
    cdef int level
    cdef claim_t* claims
    cdef int claim_room, claimed
    cdef bint started                        # the claims are
    cdef Py_ssize_t place                    # in `ahead`, of the last record that was found there
    cdef int disk_error                      # why the last claim() stopped early, or 0
    cdef object trouble                      # what reading ahead met, or None

    cdef list take(self, int most, int64_t now, bint start)
    cdef list take_in_turn(self, int most, int64_t now, bint start)
    cdef bint has_some(self) noexcept                        # at_hand()
    cdef void take_turn(self) noexcept                       # to be released
    cdef int take_in_until(self, int64_t wanted, int64_t now) except -1
    cdef Record first_ready(self, int64_t now)
    cdef int follow_log(self) except -1
    cdef int restart(self, int64_t offset) except -1
    cdef int read_ahead(self, int most) except -1
    cdef bint claim(self, int most, int64_t now, bint start) except -1
    cdef bint take_rows(self, int most, int64_t now) noexcept
    cdef int claim_ready(self, int most, bint start, int64_t boot_now) noexcept
    cdef int make_leases(self, list made) except -1
    cdef Record find(self, int64_t offset)
    cdef Record find_anew(self, int64_t offset)
    cdef Record record_at(self, int64_t offset)
    cdef PartitionReader reader_at(self, int64_t offset)
