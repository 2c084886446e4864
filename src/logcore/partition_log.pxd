# cython: language_level=3
"""The ordered segments of one partition: append, sync, and what recovery makes of them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.control cimport ControlFile, partition_slot_t
from logcore.service cimport Service
from logcore.sync cimport topic_sync_t

cdef extern from *:
    """
    #define PYLOG_NOBODY ((unsigned long) -1)       /* no thread has this identity */
    """
    const unsigned long NOBODY "PYLOG_NOBODY"

cdef enum:
    NEEDS_ROLL = -1              # of make_room() and write(), beside errnos

cdef class PartitionLog

cdef class Guard:
    """A condition of an append: what can be is looked at outside the lock, the rest under it."""

    cdef int look(self) except -1                            # raises where the condition does not hold
    cdef bint holds(self, PartitionLog log) except -1        # the lock is held; False: look() once more

cdef class PartitionLog:
    cdef object __weakref__
    cdef ControlFile control
    cdef partition_slot_t* slot              # in the control file; our own memory if read-only without one
    cdef partition_slot_t* private_slot
    cdef topic_sync_t* sync
    cdef Service service                     # None where nobody serves sync duty
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly str directory              # of the partition
    cdef readonly bytes uuid
    cdef readonly bint read_only
    cdef uint64_t segment_bytes
    cdef uint64_t max_unsynced_bytes         # 0: no cap
    cdef int64_t lock_timeout_ns
    # the writer: guarded by the append lock
    cdef int fd                              # of the active segment, -1 where not open
    cdef uint8_t* map                        # of the active segment, read-write, segment_bytes
    cdef uint64_t map_bytes
    cdef uint32_t rolls_seen
    cdef uint32_t pwrite_from                # of a batch: smaller ones go by the map
    # the thread that closes us, which alone may append from now on; 0: all may, NOBODY: it has closed us
    cdef unsigned long closed_by
    # what recovery found, for engine.recovery_reports(): a RecoveryReport's fields, or None
    cdef public object report
    cdef object unsaved_index                # (path, named epoch, footer position) of a segment just sealed
    cdef readonly unsigned long long appended_batches, appended_records, appended_bytes
    cdef readonly unsigned long long read_batches, read_records, read_bytes

    cdef int append(
        self, uint8_t* batch, uint32_t length, bint synced, int64_t* base_offset, uint64_t* end, Guard guard
    ) except -1
    cdef int append_locked(
        self, uint8_t* batch, uint32_t length, bint synced, int64_t* base_offset, uint64_t* end, Guard guard
    ) except -1
    cdef int take_lock(self) except -1
    cdef int check_state(self) except -1
    cdef bint guard_holds(self, Guard guard) except -1
    cdef int hold_back(self) except -1
    cdef int open_writer(self) except -1
    cdef void close_writer(self) noexcept nogil
    cdef int end_appends(self) except -1
    cdef int drop_writer(self) except -1
    cdef int make_room(self, uint32_t length) noexcept nogil
    cdef int allocate(self, uint64_t bytes_needed) noexcept nogil
    cdef void make_pages(self, uint64_t block) noexcept nogil
    cdef void make_written(self, uint64_t tail, uint64_t stop) noexcept nogil
    cdef int write(
        self, uint8_t* batch, uint32_t length, bint synced, int64_t* base_offset, uint64_t* end
    ) noexcept nogil
    cdef int sync_to(self, uint64_t end) except -1
    cdef int sync_appended(self, uint32_t epoch, uint64_t end) except -1    # of a batch of that epoch
    cdef int ensure_ready(self) except -1    # recovered, whoever has to do it
    cdef void published(self, uint64_t* end, int64_t* next_offset) noexcept nogil
    cdef void synced(self, uint64_t* end, int64_t* next_offset) noexcept nogil

cdef enum:
    MOST_WRITERS = 256                       # active segments that a process keeps open for appends

cdef int keep_writers(int most) except -1    # `most` of them at most, but for those in use
