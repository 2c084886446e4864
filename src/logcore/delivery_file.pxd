# cython: language_level=3
"""DeliveryFile: the mapped file of a delivery table, its lock, its size, and what stands in it."""

from libc.stdint cimport int64_t, uint32_t

from logcore.delivery_slots cimport delivery_mark_t, delivery_table_t
from logcore.partition_log cimport PartitionLog
from logcore.processes cimport Registry
from logcore.topic_log cimport TopicLog

cdef class DeliveryFile:
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

    cdef int lock(self) except -1     # everything below is under it
    cdef int unlock(self) except -1
    cdef int mend(self) except -1     # the holder died: make the table whole
    cdef int take_mark(self, const delivery_mark_t* mark) except -1
    cdef void undo_move(self) noexcept nogil
    cdef int reset(self, int64_t offset, uint32_t epoch) except -1
    cdef int remap(self) except -1
    cdef int grow(self, uint32_t wanted) noexcept           # 0 or an errno
    cdef void write_mark(self, int kind) noexcept nogil        # LIVE or DURABLE
    cdef void end_lease(self, uint32_t index) noexcept nogil
    cdef int enter(self) except -1
    cdef int leave(self) except -1
