# cython: language_level=3
"""The topics of one opened data directory."""

from libc.stdint cimport uint32_t

from logcore.topic_log cimport TopicLog

cdef class LogDirectory:
    cdef dict topics                         # name -> TopicLog
    cdef readonly bint closed
    cdef uint32_t forks

    cdef TopicLog topic_log(self, object name)               # opened on demand by self._open_topic(name)
