# cython: language_level=3
"""The registry of living engines of a data directory: who lives, and a word to wake each by."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef enum:
    REGISTRY_SLOTS = 1024

cdef struct registry_slot_t:                # 128 bytes, aligned to 64
    pthread_mutex_t alive                   # robust, process-shared; held for life by the engine's service thread
    uint32_t word                           # futex: bumped by whoever wakes this engine
    uint32_t pid
    uint64_t start_time                     # field 22 of /proc/<pid>/stat
    uint64_t incarnation                    # random, 0 where the slot is free
    int64_t heartbeat                       # CLOCK_BOOTTIME ns
    uint8_t reserved[48]

cdef class Registry:
    cdef registry_slot_t* slots             # mapped; NULL once closed
    cdef void* mapping
    cdef size_t mapping_bytes
    cdef int lock_fd
    cdef readonly int slot                  # ours, -1 until claimed
    cdef readonly unsigned long long session      # random; changes when everybody had gone
    cdef readonly unsigned long long incarnation  # ours
    cdef readonly bint first                # nobody else lived when we opened
    cdef readonly str path

    cdef void ring(self, int slot) noexcept nogil               # wake one engine: bump its word, FUTEX_WAKE all
    cdef void ring_all(self) noexcept nogil
    cdef uint32_t word(self) noexcept nogil                     # acquire load of our own word
    cdef int wait(self, uint32_t seen, int64_t timeout_ns) noexcept nogil   # until our word != seen; 0 woken, 1 timed out
    cdef bint lives(self, int slot, uint64_t incarnation) noexcept nogil
