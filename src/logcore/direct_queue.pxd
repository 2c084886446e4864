# cython: language_level=3
"""DirectQueue and Delivery: what a queue does where nothing stands between its caller and the log."""

from libc.stdint cimport uint32_t

from logcore.log_directory cimport LogDirectory
from logcore.matching cimport Matcher
from logcore.topic_leases cimport TopicLeases

cdef class DirectQueue:
    cdef LogDirectory directory          # None: each put goes through _put()
    cdef TopicLeases leases              # of `source`; None: it is not a native one
    cdef readonly object source
    cdef readonly str topic
    cdef Matcher expires
    cdef readonly int _most              # attempts
    cdef bint plain                      # no filter, no serde, no breaker: a lease is a delivery
    cdef public bint closed
    cdef list dropped                    # (lease, permit) of deliveries that nobody ended

    cdef bint is_direct(self, object timeout) except -1
    cdef list admit(self, list leases, object permit, bint start)

cdef class Delivery:
    cdef DirectQueue queue
    cdef object lease
    cdef object permit                   # the circuit breaker's, or None
    cdef object decoded                  # the value, where `is_decoded`
    cdef object __weakref__
    cdef readonly bint over              # whether it was ended
    cdef bint is_decoded
    cdef uint32_t forks

    cdef int end(self, object act, tuple arguments) except -1
