# cython: language_level=3
"""DeliveryTable: the per-record state of a queue in one partition, mapped and shared by all processes."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from logcore.batch cimport Record
from logcore.delivery_file cimport DeliveryFile
from logcore.delivery_slots cimport delivery_slot_t

cdef class DeliveryTable(DeliveryFile):
    cdef readonly unsigned long long reclaimed
    cdef readonly bint dead_seen      # dead processes have leases: see reclaim()

    # under the lock:
    cdef bint join(self) noexcept nogil                      # before leasing; False: bury the dead first
    cdef bint reclaim(self, int64_t now, bint bury) noexcept nogil
    cdef void end_overdue(self, int64_t now, bint bury) noexcept nogil
    cdef void end_leases_of(self, int owner) noexcept nogil
    cdef void cut(self, int64_t first, uint32_t epoch) noexcept nogil
    cdef void drop_below(self, int64_t start) noexcept nogil
    cdef uint64_t lease_slot(self, uint32_t index, bint start, int64_t now) noexcept nogil    # its new token
    cdef delivery_slot_t* held(self, Lease lease) noexcept   # NULL: the lease is lost
    cdef bint finish_lease(self, Lease lease) noexcept       # of a lease that is held; True: ring
    cdef bint give_back(self, Lease lease, int64_t due, bint counted) noexcept

    # takes it by itself:
    cdef bint follow_log(self) except -1                     # cuts and deleted records
    cdef bint finish_held(self, Lease lease) except -1       # ack(); False: the lease is lost

cdef class Lease:
    cdef readonly DeliveryTable table
    cdef readonly Record record
    cdef readonly unsigned long long token
    cdef readonly int delivery_count
    cdef readonly bint started
    cdef readonly int level
    cdef int64_t offset
    cdef uint32_t index
