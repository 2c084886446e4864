# cython: language_level=3
"""RecordId and RecordIds: what appends return."""

from libc.stdint cimport int32_t, int64_t

cdef struct id_run_t:                        # the records of one batch
    int64_t base_offset
    int64_t count
    int64_t first                            # how many records earlier runs have
    int32_t partition

cdef class RecordId:
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly long long offset           # -1: a duplicate from beyond the idempotence window
    cdef readonly bint duplicate             # an idempotent append that was in already

cdef RecordId new_record_id(str topic, int partition, int64_t offset)

cdef class RecordIds:
    cdef readonly str topic
    cdef Py_ssize_t length
    cdef id_run_t* runs_at
    cdef Py_ssize_t run_count
    cdef Py_ssize_t run_capacity
    cdef int32_t* partition_of               # NULL: runs follow each other in the order of the values
    cdef Py_ssize_t value_count              # entries of partition_of
    cdef int64_t* offset_of                  # made at the first look where partition_of says so

    cdef int add_run(self, int partition, int64_t base_offset, int64_t count) except -1
    # one appended batch; batches of a partition come in the order of their offsets
    cdef void scatter(self, int32_t* partition_of, Py_ssize_t value_count) noexcept
    # values went to several partitions: takes over the malloc'ed array of each value's partition
    cdef int look(self) except -1
    cdef int resolve(self) except -1
    cdef void hand_out(self, int64_t* offsets, int64_t* left, Py_ssize_t* current) noexcept nogil
    cdef RecordId id_at(self, Py_ssize_t i)
    cdef list slice_of(self, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t step, Py_ssize_t count)

cdef RecordIds new_record_ids(str topic)
