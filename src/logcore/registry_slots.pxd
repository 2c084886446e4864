# cython: language_level=3
"""A slot of the process registry: claimed by a thread, held by its robust mutex, buried by a neighbour.

Header only, no Python: what the watch thread and the Registry do with mapped slots. Invariant: `incarnation`
is written last at a claim and cleared first, so it never names an owner that the mutex does not have.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.linux cimport (
    CLOCK_BOOTTIME, EOWNERDEAD, clock_ns, futex_wake, pthread_mutex_consistent, pthread_mutex_t,
    pthread_mutex_trylock, pthread_mutex_unlock,
)

cdef enum:
    REGISTRY_SLOTS = 1024

cdef struct registry_slot_t:     # 128 bytes, aligned to 64; only the two words are written by others
    pthread_mutex_t alive        # robust, process-shared; held for life by the engine's watch thread
    uint32_t word                # futex: bumped by whoever wakes this engine
    uint32_t pid
    uint64_t start_time          # field 22 of /proc/<pid>/stat
    uint64_t incarnation         # random, 0 where the slot is free; written last at a claim
    int64_t heartbeat            # CLOCK_BOOTTIME ns
    uint32_t thread              # TID that holds `alive`
    uint32_t watch_word          # futex: bumped when somebody came or went, for the watch thread only
    uint8_t reserved[48]

cdef extern from *:
    """
    #include <limits.h>
    #include <linux/futex.h>
    #include <pthread.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* glibc keeps the futex of a mutex in its first word: owner's TID, FUTEX_WAITERS, FUTEX_OWNER_DIED */
    #define mutex_word(m) ((uint32_t *)(m))
    #define slot_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define slot_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define slot_bump(p) ((void)__atomic_fetch_add((p), 1, __ATOMIC_SEQ_CST))
    static inline uint32_t own_thread(void) { return (uint32_t)syscall(SYS_gettid); }
    """
    uint32_t* mutex_word(pthread_mutex_t* m) nogil
    uint32_t slot_load32 "slot_load"(uint32_t* p) nogil
    uint64_t slot_load64 "slot_load"(uint64_t* p) nogil
    int64_t slot_loadi64 "slot_load"(int64_t* p) nogil
    void slot_store32 "slot_store"(uint32_t* p, uint32_t v) nogil
    void slot_store64 "slot_store"(uint64_t* p, uint64_t v) nogil
    void slot_storei64 "slot_store"(int64_t* p, int64_t v) nogil
    void slot_bump(uint32_t* p) nogil
    uint32_t own_thread() nogil
    uint32_t FUTEX_TID_MASK, FUTEX_WAITERS, FUTEX_OWNER_DIED
    int INT_MAX


cdef inline bint slot_lives(registry_slot_t* slot, uint64_t incarnation) noexcept nogil:
    # A claimer has the mutex before it clears the old incarnation, and clears that before it says its TID:
    # so the incarnation is looked at last.
    cdef uint32_t word = slot_load32(mutex_word(&slot.alive))
    if word & FUTEX_OWNER_DIED or word & FUTEX_TID_MASK == 0:
        return False
    if word & FUTEX_TID_MASK != slot_load32(&slot.thread):
        return False
    return slot_load64(&slot.incarnation) == incarnation


cdef inline int claim_slot(
    registry_slot_t* slots, uint32_t pid, uint64_t start_time, uint64_t incarnation
) noexcept nogil:
    """The slot that this thread now holds, or -1: all are taken."""
    cdef int i, taken
    cdef registry_slot_t* slot
    for i in range(REGISTRY_SLOTS):
        slot = &slots[i]
        taken = pthread_mutex_trylock(&slot.alive)
        if taken == EOWNERDEAD:
            pthread_mutex_consistent(&slot.alive)
        elif taken != 0:
            continue
        slot_store64(&slot.incarnation, 0)
        slot_store32(&slot.thread, own_thread())
        slot_store32(&slot.pid, pid)
        slot_store64(&slot.start_time, start_time)
        slot_storei64(&slot.heartbeat, clock_ns(CLOCK_BOOTTIME))
        slot_store64(&slot.incarnation, incarnation)
        return i
    return -1


cdef inline void release_slot(registry_slot_t* slots, int slot) noexcept nogil:
    """By the thread that claimed it."""
    slot_store64(&slots[slot].incarnation, 0)
    pthread_mutex_unlock(&slots[slot].alive)


cdef inline int bury_slot(registry_slot_t* slots, int slot) noexcept nogil:
    """1 where its owner was dead: now it is free. 0 where it lives after all, or somebody else buries it."""
    cdef int taken = pthread_mutex_trylock(&slots[slot].alive)
    if taken != 0 and taken != EOWNERDEAD:
        return 0
    slot_store64(&slots[slot].incarnation, 0)
    if taken == EOWNERDEAD:
        pthread_mutex_consistent(&slots[slot].alive)
    pthread_mutex_unlock(&slots[slot].alive)
    return taken == EOWNERDEAD


cdef inline void ring_slot(registry_slot_t* slots, int slot) noexcept nogil:
    slot_bump(&slots[slot].word)
    futex_wake(&slots[slot].word, INT_MAX)


cdef inline void ring_slots(registry_slot_t* slots) noexcept nogil:
    """Wake every living engine, and their watch threads: somebody came or went."""
    cdef int i
    for i in range(REGISTRY_SLOTS):
        if slot_load64(&slots[i].incarnation) != 0:
            ring_slot(slots, i)
            slot_bump(&slots[i].watch_word)
            futex_wake(&slots[i].watch_word, INT_MAX)
