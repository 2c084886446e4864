# cython: language_level=3
"""The last offset of each key, in bounded memory."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch

cdef struct key_hash_t:
    uint64_t low
    uint64_t high

cdef struct key_entry_t:
    key_hash_t hash
    int64_t next_offset                      # behind the key's last record; 0: a free entry

cdef class KeyMap:
    cdef key_entry_t* entries
    cdef uint64_t capacity
    cdef readonly unsigned long long count   # keys
    cdef readonly unsigned long long most    # keys that it takes

    cdef int put(self, RecordBatch batch, int start) except -1
    # the records from index `start` on, in order; the index behind those taken: less than all when it is full
    cdef int survivors(
        self, RecordBatch batch, int64_t covered, int64_t tombstones_below, uint32_t* kept
    ) except -1
    # indices of the records that stay, into `kept`; how many
