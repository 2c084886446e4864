# cython: language_level=3
"""One segment file: its name, header and footer as written, and a mapped view of it to read by."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    NAME_BYTES = 64                    # room for "<partition>/<base>-<epoch>.index" and its NUL
    FIRST_ALLOCATION = 16 << 10        # bytes that a new segment file gets; steps double from there
    LARGEST_STEP = 16 << 20
    FOOTER_ROOM = 256                  # what an append leaves free behind itself, besides the producer table

cdef void segment_name(char* out, int partition, int64_t base_offset, uint32_t named_epoch) noexcept nogil
# "<partition>/<base>.log", relative to the topic's directory

cdef void fill_segment_header(
    uint8_t* out, uint64_t salt, int64_t base_offset, uint32_t epoch, uint32_t partition, const uint8_t* uuid,
    uint64_t segment_bytes, int64_t created, uint64_t base_byte_pos, int64_t synced_offset,
) noexcept nogil

cdef uint32_t fill_footer(
    uint8_t* out, const uint8_t* segment_header, int64_t end_offset, uint64_t position, uint64_t batches,
    int64_t max_timestamp, int64_t synced_offset, uint32_t flags, uint32_t next_epoch, int64_t sealed,
    uint32_t producer_count,
) noexcept nogil
# the producer entries already stand at out + FOOTER_PRODUCERS; returns the footer's length

cdef uint64_t find_next_valid(
    const uint8_t* map, uint64_t position, uint64_t limit, uint64_t salt
) noexcept nogil
# the first place from `position` on where a batch or a footer stands, else `limit`

cdef struct index_entry_t:
    uint32_t relative_offset
    uint32_t position
    int64_t max_timestamp              # running maximum of the segment before this batch

cdef class Segment:
    cdef const uint8_t* map            # PROT_READ, segment_bytes of address space
    cdef uint64_t map_bytes
    cdef uint64_t file_limit           # bytes of the file when last looked at: nothing behind is touched
    cdef object inode
    cdef bint replaced                 # another file has its name, or none: it does not grow any more for us
    cdef uint64_t salt
    cdef uint64_t base_byte_pos
    cdef readonly str path
    cdef readonly long long base_offset
    cdef readonly unsigned int epoch
    cdef readonly unsigned int named_epoch
    cdef readonly int partition
    cdef readonly bytes topic_uuid
    cdef readonly long long range_end  # up to it offsets may be missing: merged or repaired
    cdef uint64_t verified_to          # bodies before this position were checked through this mapping
    cdef index_entry_t* index
    cdef uint32_t index_count, index_capacity
    cdef uint64_t indexed_to           # file position up to which the index knows all
    cdef int64_t indexed_max_timestamp
    cdef bint index_complete           # indexed up to the footer

    cdef bint reaches(self, uint64_t position) except -1      # the file holds [0, position)
    cdef int index_up_to(self, uint64_t limit, int64_t offset) except -1
    cdef int index_published(self, uint64_t end) except -1
    cdef int index_batch(self, const uint8_t* p, uint64_t position) except -1
    cdef uint64_t position_of(self, int64_t offset, uint64_t limit) except 0
    cdef uint64_t position_of_time(self, int64_t timestamp, uint64_t limit) except 0
    cdef int add_index_entry(self, int64_t base_offset, uint64_t position) except -1
