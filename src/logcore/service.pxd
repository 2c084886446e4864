# cython: language_level=3
"""The two native threads of an engine."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from logcore.linux cimport pthread_mutex_t
from logcore.processes cimport Registry
from logcore.registry_slots cimport registry_slot_t
from logcore.sync cimport topic_sync_t

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_cond_t:
        pass
    ctypedef unsigned long pthread_t

cdef struct service_t:                      # all that the threads touch; malloc'ed, no Python objects
    # ---- the sync thread
    pthread_t sync_thread
    pthread_mutex_t topics_lock             # private, held for moments only; guards the next five
    pthread_cond_t topic_left               # the sync thread is through with `serving`
    topic_sync_t** topics
    int32_t topic_count, topic_room
    topic_sync_t* serving                   # being synced just now, without topics_lock
    uint32_t topics_moved                   # a topic left: one may have been passed over
    uint32_t sync_word                      # futex, private: sync_state
    int64_t sleeps_until                    # CLOCK_BOOTTIME; of the sleep that SYNC_ASLEEP means
    uint32_t somebody_went                  # it may have left something unsynced that nobody was told of
    # ---- the watch thread
    pthread_t watch_thread
    registry_slot_t* slots
    uint32_t pid
    uint64_t start_time
    uint64_t incarnation
    int32_t slot                            # claimed, or -1 where all were taken; valid once `started`
    uint32_t started                        # futex
    uint32_t stop
    uint32_t last_word                      # our registry word when it was last looked at
    int32_t event_fd                        # of asyncio, -1 until it is asked for
    uint32_t async_waiters
    uint64_t deaths_seen
    uint32_t polls                          # no futex_waitv here: look every 50 ms

cdef class Service:
    cdef service_t* state
    cdef readonly Registry registry
    cdef uint32_t forks
    cdef bint running

    cdef int add_topic(self, topic_sync_t* topic) except -1      # from now on its interval duty is served
    cdef int remove_topic(self, topic_sync_t* topic) except -1   # returns when no thread touches it any more
    cdef void nudge(self) noexcept nogil                         # there is something to sync at once
    cdef void wake_within(self, int64_t interval_ns) noexcept nogil   # something is due that much from now
