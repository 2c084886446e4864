# cython: language_level=3
"""Checks and completes the headers of batches and footers: the two things that stand in a segment.

Header only. Invariant: nothing behind a header is believed before check_batch() accepted it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from logcore.format cimport *
from logcore.hashing cimport header_checksum, xxh3

cdef enum what_stands_here:
    STANDS_BATCH = 1
    STANDS_FOOTER = 2
    STANDS_NOTHING = 0       # zeros, or too little room for anything
    STANDS_BROKEN = -1       # bytes that are no valid batch and no valid footer


cdef inline void seal_batch_header(
    uint8_t* batch, int64_t base_offset, uint32_t epoch, int64_t synced_offset, uint64_t salt,
    uint64_t position
) noexcept nogil:
    """Fill in what only the holder of the append lock knows, and the header's checksum last."""
    cdef uint32_t blocks = blocks_bytes(load32(batch + BH_ATTRIBUTES))
    storei64(batch + BH_BASE_OFFSET, base_offset)
    store32(batch + BH_EPOCH, epoch)
    storei64(batch + BH_SYNCED_OFFSET, synced_offset)
    store64(batch + BH_CHECKSUM, batch_checksum(batch, blocks, salt, position))


cdef inline uint64_t batch_checksum(
    const uint8_t* batch, uint32_t blocks, uint64_t salt, uint64_t position
) noexcept nogil:
    cdef uint8_t joined[56 + 64]
    if blocks == 0:
        return header_checksum(batch, BH_CHECKSUM, salt, position)
    memcpy(joined, batch, BH_CHECKSUM)
    memcpy(joined + BH_CHECKSUM, batch + BATCH_HEADER_BYTES, blocks)
    return header_checksum(joined, BH_CHECKSUM + blocks, salt, position)


cdef inline bint check_batch(
    const uint8_t* batch, uint64_t available, uint64_t salt, uint64_t position
) noexcept nogil:
    """True where a whole batch with a valid header stands in `available` bytes; the body is not looked at."""
    cdef uint64_t total
    cdef uint32_t attributes, blocks, count
    if available < BATCH_HEADER_BYTES or load32(batch) != <uint32_t> BATCH_MAGIC:
        return False
    total = load32(batch + BH_TOTAL_LENGTH)
    attributes = load32(batch + BH_ATTRIBUTES)
    count = load32(batch + BH_RECORD_COUNT)
    blocks = blocks_bytes(attributes)
    if total < BATCH_HEADER_BYTES + blocks or total > available or total > MAX_BATCH_BYTES or total & 7:
        return False
    if count > MAX_RECORDS_PER_BATCH or (count == 0) != ((attributes >> 31) != 0):
        return False
    if batch_checksum(batch, blocks, salt, position) != load64(batch + BH_CHECKSUM):
        return False
    return offsets_are_possible(batch, attributes, count)


cdef inline bint offsets_are_possible(
    const uint8_t* batch, uint32_t attributes, uint32_t count
) noexcept nogil:
    """True where no sum of offsets overflows and no more is called synced than was written before."""
    cdef int64_t base = loadi64(batch + BH_BASE_OFFSET)
    cdef int64_t span = count
    if attributes & ATTR_BLOCK_OFFSET_SPAN:
        span = loadi64(batch + block_position(attributes, ATTR_BLOCK_OFFSET_SPAN))
    if not 0 <= base <= MAX_OFFSET or not <int64_t> count <= span <= MAX_OFFSET - base:
        return False
    return 0 <= loadi64(batch + BH_SYNCED_OFFSET) <= base


cdef inline bint check_body(const uint8_t* batch) noexcept nogil:
    """True where the body of a batch that check_batch() accepted matches its checksum."""
    cdef uint32_t skip = BATCH_HEADER_BYTES + blocks_bytes(load32(batch + BH_ATTRIBUTES))
    return xxh3(batch + skip, load32(batch + BH_TOTAL_LENGTH) - skip) == load64(batch + BH_BODY_CHECKSUM)


cdef inline bint check_footer(
    const uint8_t* footer, uint64_t available, uint64_t salt, uint64_t position
) noexcept nogil:
    """True where a whole, valid footer stands here."""
    cdef uint64_t total
    if available < FOOTER_PRODUCERS or load32(footer) != <uint32_t> FOOTER_MAGIC:
        return False
    total = load32(footer + FT_TOTAL_LENGTH)
    if total > available or load64(footer + FT_END_POSITION) != position:
        return False
    if load32(footer + FT_PRODUCER_COUNT) > MAX_PRODUCERS_PER_PARTITION:
        return False
    if total != FOOTER_PRODUCERS + <uint64_t> load32(footer + FT_PRODUCER_COUNT) * PRODUCER_ENTRY_BYTES:
        return False
    if header_checksum(footer, FT_CHECKSUM, salt, position) != load64(footer + FT_CHECKSUM):
        return False
    if not 0 <= loadi64(footer + FT_SYNCED_OFFSET) <= loadi64(footer + FT_END_OFFSET) <= MAX_OFFSET:
        return False
    if load32(footer + FT_NEXT_EPOCH) > MAX_EPOCH:
        return False
    return xxh3(footer + FOOTER_FIXED_BYTES, total - FOOTER_FIXED_BYTES) == load64(footer + FT_BODY_CHECKSUM)


cdef inline int what_stands(
    const uint8_t* p, uint64_t available, uint64_t salt, uint64_t position
) noexcept nogil:
    """Tell a batch, a footer, nothing and a break apart (FORMAT.md, section 8)."""
    if available < 8:
        return STANDS_NOTHING
    if check_batch(p, available, salt, position):
        return STANDS_BATCH
    if check_footer(p, available, salt, position):
        return STANDS_FOOTER
    if load64(p) == 0:
        return STANDS_NOTHING
    return STANDS_BROKEN


cdef inline int64_t next_offset_of(const uint8_t* batch) noexcept nogil:
    """Offset behind the last one that the batch covers."""
    cdef uint32_t attributes = load32(batch + BH_ATTRIBUTES)
    cdef int64_t base = loadi64(batch + BH_BASE_OFFSET)
    if attributes & ATTR_BLOCK_OFFSET_SPAN:
        return base + loadi64(batch + block_position(attributes, ATTR_BLOCK_OFFSET_SPAN))
    return base + load32(batch + BH_RECORD_COUNT)


cdef inline int64_t max_timestamp_of(const uint8_t* batch) noexcept nogil:
    cdef uint32_t attributes = load32(batch + BH_ATTRIBUTES)
    if attributes & ATTR_BLOCK_MAX_TIMESTAMP:
        return loadi64(batch + block_position(attributes, ATTR_BLOCK_MAX_TIMESTAMP))
    return loadi64(batch + BH_BASE_TIMESTAMP)
