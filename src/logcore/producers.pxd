# cython: language_level=3
"""Idempotent producers: who holds a producer id, and what each partition has from it."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PRODUCER_WINDOW = 64          # last batches per producer and partition whose offsets a duplicate is told

cdef enum producer_verdict:
    PRODUCER_NEW = 0              # all its sequences are behind the last one: append it
    PRODUCER_DUPLICATE = 1        # all of it is in already
    PRODUCER_OVERLAP = 2          # its beginning is in, its end is not: drop the beginning and ask again
    PRODUCER_FENCED = 3           # a newer epoch of this producer has written here

cdef struct produced_batch_t:
    int64_t first_sequence
    int64_t last_sequence
    int64_t base_offset           # -1: not known (from a footer)
    int64_t last_offset

cdef struct producer_entry_t:
    uint64_t producer_id
    uint32_t epoch
    int32_t older, newer          # neighbours in the order of use, -1 at the ends
    int64_t first_sequence        # of its last batch
    int64_t last_sequence
    int64_t last_offset           # of the record with last_sequence
    int64_t last_timestamp
    produced_batch_t* window      # ring of window_size places, window_count used; next goes to window_next
    int32_t window_size, window_count, window_next

cdef class ProducerTable:
    # In memory, one per opened partition; fed with every batch of the log in order. Not locked: the caller
    # holds whatever guards its partition.
    cdef producer_entry_t* entries
    cdef int32_t* buckets         # open addressing: index of an entry + 1, 0 = free
    cdef uint32_t bucket_mask
    cdef int32_t capacity
    cdef readonly int count
    cdef int32_t oldest, newest

    # Makes room for a producer that is new, so that the note() of that batch cannot fail after it was
    # published. `offset`: where the record with first_sequence is, -1 where that is not known (any more).
    cdef int check(
        self, uint64_t producer_id, uint32_t epoch, int64_t first_sequence, int64_t last_sequence,
        int64_t* offset,
    ) except -1 nogil
    cdef int note(self, const uint8_t* batch) except -1 nogil    # any batch that check_batch() accepted
    cdef int load_footer(self, const uint8_t* footer) except -1 nogil    # one that check_footer() accepted
    cdef int write_entries(self, uint8_t* out, int most) noexcept nogil  # the most recent, oldest first
    cdef producer_entry_t* find(self, uint64_t producer_id) noexcept nogil  # or NULL; valid until note()
    cdef int64_t offset_of(self, uint64_t producer_id, int64_t sequence) noexcept nogil    # -1: not known
    cdef void clear(self) noexcept nogil

    cdef int make_room(self) except -1 nogil
    cdef producer_entry_t* touch(self, uint64_t producer_id) except NULL nogil

cdef class ProducerIdentity:
    cdef const uint32_t* mapped_epoch    # in the shared mapping of the producer's file
    cdef uint32_t forks
    cdef bint closed
    cdef readonly str producer_id
    cdef readonly str path
    cdef readonly unsigned long long id
    cdef readonly unsigned int epoch

    cpdef bint fenced(self) noexcept nogil    # somebody newer holds the id, or we do not any more: one load
