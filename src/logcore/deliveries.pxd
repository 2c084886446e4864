# cython: language_level=3
"""DeliveryTable: the per-record state of a queue in one partition, mapped and shared by all processes."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport Record
from logcore.delivery_slots cimport delivery_mark_t, delivery_slot_t, delivery_table_t
from logcore.partition_log cimport PartitionLog
from logcore.processes cimport Registry
from logcore.topic_log cimport TopicLog

cdef class DeliveryTable:
    cdef delivery_table_t table
    cdef uint32_t mapped_pages        # of slots; as many as `pages` exist
    cdef uint32_t forks
    cdef int fd
    cdef int users                    # calls without the GIL: the last one closes what close() could not
    cdef bint closed
    cdef bint private                 # read-only: a copy of our own
    cdef int64_t floor_offset         # where to begin again if the table is damaged
    cdef uint32_t floor_epoch
    cdef int64_t visibility_ns, processing_ns
    cdef readonly Registry registry
    cdef readonly TopicLog topic
    cdef PartitionLog log
    cdef readonly str path
    cdef readonly int partition
    cdef readonly str began           # "new", "kept", "rebooted" or "damaged": what was there at opening
    cdef readonly unsigned long long reclaimed
    cdef readonly bint dead_seen      # dead processes have leases: see reclaim()

    cdef int lock(self) except -1     # everything below is under it
    cdef int unlock(self) except -1
    cdef int mend(self) except -1     # the holder died: make the table whole
    cdef int take_mark(self, const delivery_mark_t* mark) except -1
    cdef void undo_move(self) noexcept nogil
    cdef int reset(self, int64_t offset, uint32_t epoch) except -1
    cdef int remap(self) except -1
    cdef int grow(self, uint32_t wanted) noexcept           # 0 or an errno
    cdef void write_mark(self, int kind) noexcept nogil        # LIVE or DURABLE
    cdef bint join(self) noexcept nogil                      # before leasing; False: bury the dead first
    cdef bint reclaim(self, int64_t now, bint bury) noexcept nogil
    cdef void end_overdue(self, int64_t now, bint bury) noexcept nogil
    cdef void end_leases_of(self, int owner) noexcept nogil
    cdef void end_lease(self, uint32_t index) noexcept nogil
    cdef void cut(self, int64_t first, uint32_t epoch) noexcept nogil
    cdef void drop_below(self, int64_t start) noexcept nogil
    cdef int enter(self) except -1
    cdef int leave(self) except -1
    cdef bint follow_log(self) except -1                     # cuts and deleted records; takes the lock itself
    cdef uint64_t lease_slot(self, uint32_t index, bint start, int64_t now) noexcept nogil    # its new token
    cdef delivery_slot_t* held(self, Lease lease) noexcept   # NULL: the lease is lost
    cdef bint finish_lease(self, Lease lease) noexcept       # of a lease that is held; True: ring
    cdef bint give_back(self, Lease lease, int64_t due, bint counted) noexcept

cdef class Lease:
    cdef readonly DeliveryTable table
    cdef readonly Record record
    cdef readonly unsigned long long token
    cdef readonly int delivery_count
    cdef readonly bint started
    cdef readonly int level
    cdef int64_t offset
    cdef uint32_t index
