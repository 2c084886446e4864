# cython: language_level=3
"""A topic's control file: what the living processes share about its partitions, in mapped memory."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.linux cimport pthread_mutex_t
from logcore.processes cimport REGISTRY_SLOTS, Registry

cdef extern from *:
    """
    #include <stdint.h>
    /* not named as in <stdatomic.h>, which Cython includes: its store is a full barrier */
    #define control_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define control_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define control_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
    #define control_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define control_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
    #define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define program_order() __atomic_signal_fence(__ATOMIC_SEQ_CST)
    static inline int atomic_replace(uint32_t *p, uint32_t from, uint32_t to) {
        return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    bint atomic_replace(uint32_t* p, uint32_t before, uint32_t after) nogil    # True where it was `before`
    uint64_t atomic_or "control_or"(uint64_t* p, uint64_t v) nogil
    uint32_t atomic_add "control_add"(uint32_t* p, uint32_t v) nogil
    uint32_t atomic_load32 "control_load"(uint32_t* p) nogil
    uint64_t atomic_load64 "control_load"(uint64_t* p) nogil
    int64_t atomic_loadi64 "control_load"(int64_t* p) nogil
    void atomic_store32 "control_store"(uint32_t* p, uint32_t v) nogil
    void atomic_store64 "control_store"(uint64_t* p, uint64_t v) nogil
    void atomic_storei64 "control_store"(int64_t* p, int64_t v) nogil
    uint64_t atomic_exchange64 "control_exchange"(uint64_t* p, uint64_t v) nogil
    uint32_t atomic_exchange32 "control_exchange"(uint32_t* p, uint32_t v) nogil
    void full_fence() nogil
    # Keeps the compiler from moving stores across. That is all it takes to be in order for who comes after a
    # kill: the kernel ends a process between two instructions, with every store before done and none behind.
    void program_order() nogil

cdef enum partition_state:
    PARTITION_UNRECOVERED = 0     # nobody of this session has looked yet: recover before use
    PARTITION_READY = 1
    PARTITION_POISONED = 2        # a sync failed: DurabilityError until engine.recover()
    PARTITION_DELETED = 3

cdef struct partition_slot_t:     # 256 bytes, four cache lines; who may write is in brackets
    # line 0: the append section
    pthread_mutex_t append_lock             # robust, process-shared
    uint32_t state                          # partition_state [append lock, atomic_replace; poison: sync lock]
    uint32_t holder                         # registry slot + 1 of the append lock's holder [append lock]
    uint64_t writing_end                    # staged: byte_pos behind the batch being written [append lock]
    int64_t writing_next_offset             # staged: offset behind it; belongs to writing_end [append lock]
    # line 1: what readers poll
    uint64_t end                            # published cumulative byte_pos: what publishes [append lock]
    int64_t next_offset                     # log_end_offset at `end`, may lag it by one append [append lock]
    int64_t active_base_offset              # names the active segment [append lock]
    uint64_t active_base_byte_pos           # byte_pos at its SEGMENT_DATA_START [append lock]
    uint64_t active_allocated               # bytes of its file that are allocated [append lock]
    uint32_t active_epoch                   # epoch of the partition [append lock]
    uint32_t active_named_epoch             # 0: <base>.log, else <base>-<epoch>.log [append lock]
    int64_t max_timestamp                   # running maximum [append lock]
    int64_t log_start_offset                # first offset that may be read [append lock]
    # line 2: the sync section
    pthread_mutex_t sync_lock               # robust, process-shared
    int64_t synced_offset                   # everything below is on disk [sync lock]
    uint64_t synced_end                     # the same as byte_pos [sync lock]
    uint32_t sync_round                     # futex word: bumped when a sync ends [sync lock]
    uint32_t sync_waiters                   # callers that wait for one
    # line 3
    int64_t first_unsynced_at               # CLOCK_BOOTTIME ns of the oldest unsynced append, 0 if none
    int64_t sealed_base_offset              # a sealed segment not yet synced, or -1 [append lock]
    uint64_t sealed_end                     # byte_pos of its end
    uint32_t sealed_named_epoch
    uint32_t sync_writers                   # how many the next sync may expect [sync lock]
    uint64_t active_salt                    # [append lock]
    uint32_t rolls                          # odd while the segment names change, then even [append lock]
    uint32_t same_boot                      # when made: the segments were last written under this very boot
    uint32_t recovered                      # recoveries in this session, or before on this boot
    uint32_t producers                      # of the last footer, and batches of producers since [append lock]
    uint32_t sync_arrivals                  # callers that ever came for a sync; wraps
    uint32_t sync_answered                  # how many of them had come when the last sync began [sync lock]

cdef struct control_header_t:
    uint8_t magic[8]                        # b"pylogctl"
    uint32_t version
    uint32_t partitions                     # grows; the file may have room for more
    uint64_t session                        # the registry's; any other and the file is void
    uint64_t segment_bytes
    uint32_t deleted                        # the topic is gone: appends and polls raise
    uint32_t config_generation              # bumped after topic.json changed: open the topic anew
    uint32_t waiting                        # somebody may be set in `waiters`
    uint32_t rewrites                       # bumped when a segment was replaced: readers drop what they map
    uint8_t uuid[16]
    uint64_t waiters[16]                    # bitmap of registry slots that sleep on this topic
    uint8_t boot_id[16]                     # of the boot whose page cache the slots describe
    uint64_t device                         # of this very file: a copy is void
    uint64_t inode
    uint64_t reserved[36]                   # pads the header to 512 bytes

cdef class ControlFile:
    cdef control_header_t* header
    cdef partition_slot_t* slots
    cdef uint64_t* dirty                    # a bit per partition with unsynced bytes
    cdef size_t mapping_bytes
    cdef Registry registry
    cdef readonly str path
    cdef readonly str directory
    cdef readonly int partitions
    cdef readonly bint read_only
    cdef readonly bint private              # read-only, no control file of this session: our own memory
    cdef int seen_fd                        # read-only: the file that stood there: its inode stays taken
    cdef object seen                        # its (device, inode); None where there was none

    # the append lock: 0 taken, EOWNERDEAD taken from a dead owner (call lock_mended() before unlock()), else
    # an errno
    cdef int try_lock(self, int partition) noexcept nogil
    cdef int lock(self, int partition, int64_t timeout_ns) noexcept nogil
    cdef void lock_mended(self, int partition) noexcept nogil
    cdef void unlock(self, int partition) noexcept nogil
    cpdef int close(self) except -1
    cdef int look(self) except -1
    cdef bint replaced(self) except -1
    cdef bint map_current(self, bytes uuid) except -1
    cdef int map_private(self) except -1
    cdef void adopt(self, void* mapping) noexcept
    cdef int make_new(self, bytes uuid, bint clean) except -1
    cdef void* older                         # the mapped file of the session before, while ours is made
    cdef int older_partitions
    cdef bint belongs(self, control_header_t* header, object stat, bytes uuid) except -1
    cdef void* mapped(self, int fd, size_t size) except NULL
    cdef int reserve(self, int partitions) except -1
    cdef int grow(self, int fd, control_header_t* header) except -1
    cdef void let_go_of_older(self) noexcept
    cdef void mark_waiting(self) noexcept nogil              # before sleeping: then check the ends again
    cdef void ring(self) noexcept nogil                      # after publishing: wakes whoever marked itself
    cdef void ends(self, int partition, uint64_t* end, int64_t* next_offset) noexcept nogil

cdef bytes boot_id()
