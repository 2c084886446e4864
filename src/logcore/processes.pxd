# cython: language_level=3
"""The registry of living engines of a data directory: who lives, and a word to wake each by."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from logcore.linux cimport pthread_mutex_t
from logcore.registry_slots cimport REGISTRY_SLOTS, registry_slot_t

cdef enum:
    LONGEST_WAIT_NS = 1_000_000_000         # of one wait(): whoever missed a bell looks again after it

cdef class Registry:
    cdef registry_slot_t* slots             # mapped as long as the object lives; NULL: nobody lived
    cdef void* mapping
    cdef size_t mapping_bytes
    cdef int lock_fd                        # -1 once closed; in a forked child no more than a number
    cdef int lock_place                     # where it stands among those that a forked child closes
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

    cpdef void ring(self, int slot) noexcept nogil      # wake one engine: bump its word, FUTEX_WAKE all
    cpdef void ring_all(self) noexcept nogil
    cpdef uint32_t word(self) noexcept nogil            # acquire load of our own word; 0 without a slot
    # Until our word != seen: 0 woken, 1 timed out, 2 a signal came. At most LONGEST_WAIT_NS; without a slot
    # it sleeps at most 50 ms and says 1. Python calls sleep(), which lets go of the GIL.
    cdef int wait(self, uint32_t seen, int64_t timeout_ns) noexcept nogil
    cpdef bint lives(self, int slot, uint64_t incarnation) noexcept nogil

# Grows by one in each forked child, and by nothing else: what was made under another count was inherited.
cpdef uint32_t fork_count() noexcept nogil
