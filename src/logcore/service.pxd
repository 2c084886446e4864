# cython: language_level=3
"""The two native threads of an engine."""

from libc.stdint cimport int64_t, uint32_t

from logcore.processes cimport Registry
from logcore.sync cimport topic_sync_t

cdef struct service_t                       # all that the threads touch; malloc'ed, no Python objects

cdef class Service:
    cdef service_t* state
    cdef readonly Registry registry

    cdef int add_topic(self, topic_sync_t* topic) except -1          # from now on its interval duty is served
    cdef int remove_topic(self, topic_sync_t* topic) except -1       # returns when no thread touches it any more
    cdef void nudge(self) noexcept nogil                             # a clean partition became dirty: look at due times
