# cython: language_level=3
"""The registry of living engines of a data directory: who lives, and a word to wake each by."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.linux cimport pthread_mutex_t

cdef enum:
    REGISTRY_SLOTS = 1024
    LONGEST_WAIT_NS = 1_000_000_000         # of one wait(): whoever missed a bell looks again after it

cdef struct registry_slot_t:                # 128 bytes, aligned to 64; written by its owner but for the two words
    pthread_mutex_t alive                   # robust, process-shared; held for life by the engine's watch thread
    uint32_t word                           # futex: bumped by whoever wakes this engine
    uint32_t pid
    uint64_t start_time                     # field 22 of /proc/<pid>/stat
    uint64_t incarnation                    # random, 0 where the slot is free; written last at a claim
    int64_t heartbeat                       # CLOCK_BOOTTIME ns
    uint32_t thread                         # TID that holds `alive`
    uint32_t watch_word                     # futex: bumped when somebody came or went, for the watch thread only
    uint8_t reserved[48]

cdef class Registry:
    cdef registry_slot_t* slots             # mapped until the object is freed; NULL: read-only and nobody lived
    cdef void* mapping
    cdef size_t mapping_bytes
    cdef int lock_place                     # where the fd of `lock` stands among those that a forked child closes
    cdef int lock_fd                        # -1 once closed; of a forked parent's no more than a number
    cdef uint32_t forks
    cdef bint closed
    cdef readonly int slot                  # ours, -1 until the service claimed one
    cdef readonly bint first                # nobody else lived when we opened
    cdef readonly bint read_only
    cdef readonly unsigned long long session      # random; changes when everybody had gone; 0: nobody lives
    cdef readonly unsigned long long incarnation  # ours, fixed at opening
    cdef readonly unsigned int pid
    cdef readonly unsigned long long start_time
    cdef readonly str path                  # of the data directory

    cpdef void ring(self, int slot) noexcept nogil              # wake one engine: bump its word, FUTEX_WAKE all
    cpdef void ring_all(self) noexcept nogil
    cpdef uint32_t word(self) noexcept nogil                    # acquire load of our own word; 0 without a slot
    # until our word != seen: 0 woken, 1 timed out, 2 a signal came. At most LONGEST_WAIT_NS; without a slot it
    # sleeps at most 50 ms and says 1. Python calls sleep(), which lets go of the GIL.
    cdef int wait(self, uint32_t seen, int64_t timeout_ns) noexcept nogil
    cpdef bint lives(self, int slot, uint64_t incarnation) noexcept nogil

# what the service's watch thread does with the slots
cdef bint slot_lives(registry_slot_t* slot) noexcept nogil
cdef int claim_slot(
    registry_slot_t* slots, uint32_t pid, uint64_t start_time, uint64_t incarnation
) noexcept nogil                                                # the slot, now locked by this thread; -1: all taken
cdef void release_slot(registry_slot_t* slots, int slot) noexcept nogil      # by the thread that claimed it
cdef int bury_slot(registry_slot_t* slots, int slot) noexcept nogil          # 1: its owner was dead; now it is free
cdef void ring_slot(registry_slot_t* slots, int slot) noexcept nogil
cdef void ring_slots(registry_slot_t* slots) noexcept nogil                  # all, their watch threads too

# Grows by one in each forked child, and by nothing else: what was made under another count was inherited.
cpdef uint32_t fork_count() noexcept nogil

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <pthread.h>
    #include <stdint.h>
    /* glibc keeps the futex of a mutex in its first word: owner's TID, FUTEX_WAITERS, FUTEX_OWNER_DIED */
    #define mutex_word(m) ((uint32_t *)(m))
    #define slot_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define slot_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define slot_bump(p) ((void)__atomic_fetch_add((p), 1, __ATOMIC_SEQ_CST))
    """
    uint32_t* mutex_word(pthread_mutex_t* m) nogil
    uint32_t slot_load32 "slot_load"(uint32_t* p) nogil
    uint64_t slot_load64 "slot_load"(uint64_t* p) nogil
    int64_t slot_loadi64 "slot_load"(int64_t* p) nogil
    void slot_store32 "slot_store"(uint32_t* p, uint32_t v) nogil
    void slot_store64 "slot_store"(uint64_t* p, uint64_t v) nogil
    void slot_storei64 "slot_store"(int64_t* p, int64_t v) nogil
    void slot_bump(uint32_t* p) nogil
    uint32_t FUTEX_TID_MASK, FUTEX_WAITERS, FUTEX_OWNER_DIED
