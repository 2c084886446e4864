# cython: language_level=3
"""What a transaction is made of."""

from libc.stdint cimport uint64_t

from logcore.deliveries cimport DeliveryTable
from logcore.offsets cimport OffsetTable
from logcore.partition_log cimport Guard, PartitionLog

cdef class AppendPart:                       # one batch for one partition
    cdef PartitionLog log
    cdef bytearray batch
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly int records
    cdef readonly long long base_offset      # once it is committed
    cdef readonly unsigned int epoch         # the same; in a newer one a cut may have taken it
    cdef uint64_t start                      # byte_pos at which it goes
    cdef uint64_t position                   # the same in the active segment
    cdef Guard guard                         # None: appended whatever is there

    cdef bint holds(self) except -1          # the append lock is held; False: look outside once more
    cdef int make_room(self) except? -1      # 0, NEEDS_ROLL, or an errno; the append lock is held
    cdef int seal(self) except -1
    cdef int apply(self) noexcept            # 0 or an errno; the append lock is released

cdef class OffsetPart:                       # one committed offset
    cdef readonly OffsetTable table
    cdef readonly str group
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly long long offset
    cdef readonly unsigned int epoch
    cdef readonly unsigned int generation
    cdef readonly bytes metadata
    cdef uint64_t version                    # of what was committed before

cdef class DeliveryPart:                     # records of a queue that are finished
    cdef readonly DeliveryTable table
    cdef readonly str queue
    cdef list leases
    cdef bint woken                          # once it is applied: somebody may wait for what it let go on

    cdef int check(self) except -1           # under the table's lock; LeaseLostError where a lease is lost
    cdef int apply(self) except -1
