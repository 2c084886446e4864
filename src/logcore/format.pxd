# cython: language_level=3
"""Every byte offset and limit of the on-disk format, and bounded little-endian readers.

Header only: no state, no I/O. docs/FORMAT.md is the same in prose, and the pure-Python oracle in
tests/oracle.py is written from that document alone. Invariant: no other module names an offset.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #if !defined(__linux__)
    #error "pylog's native core needs Linux"
    #endif
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "pylog's native core needs a little-endian machine"
    #endif
    #define PYLOG_MAX_OFFSET ((int64_t)1 << 62)
    """
    const int64_t MAX_OFFSET "PYLOG_MAX_OFFSET"        # two of them can be added

cdef enum:
    FORMAT_VERSION = 1

    # ---- limits -------------------------------------------------------------------------------
    MAX_RECORDS_PER_BATCH = 1 << 20
    MAX_HEADERS_PER_RECORD = 1024
    MAX_BATCH_BYTES = 1 << 30            # total_length of one batch
    MIN_SEGMENT_BYTES = 16 << 10
    MAX_SEGMENT_BYTES = 1 << 30          # file positions in a segment fit u32
    MAX_PARTITIONS = 100_000
    MAX_EPOCH = 0x7FFFFFFF               # of a partition: one more still fits u32
    MAX_PRODUCERS_PER_PARTITION = 4096   # entries of the producer table in a footer, and at most an eighth of
    # the segment: most_producers()
    ALIGNMENT = 8

    # ---- segment header: 128 bytes, at 0 and again at 4096 --------------------------------------
    SEGMENT_HEADER_BYTES = 128
    SEGMENT_HEADER_COPY = 4096           # file position of the second copy
    SEGMENT_DATA_START = 4096 + 128      # file position of the first batch
    SH_MAGIC = 0                         # 8 bytes b"pylogseg"
    SH_VERSION = 8                       # u16
    SH_HEADER_BYTES = 10                 # u16, 128
    SH_FEATURES = 12                     # u32, unknown bits refuse to open
    SH_SALT = 16                         # u64, random
    SH_BASE_OFFSET = 24                  # i64
    SH_EPOCH = 32                        # u32, partition epoch
    SH_PARTITION = 36                    # u32
    SH_TOPIC_UUID = 40                   # 16 bytes
    SH_SEGMENT_BYTES = 56                # u64, most bytes the file may ever hold
    SH_CREATED = 64                      # i64, ns since 1970
    SH_BASE_BYTE_POS = 72                # u64, the partition's byte_pos at SEGMENT_DATA_START
    SH_SYNCED_OFFSET = 80                # i64, durable mark known at creation
    SH_RANGE_END = 88                    # i64, -1; a merged segment states [base_offset, range_end)
    SH_CHECKSUM = 120                    # u64, header_checksum of bytes 0..120, salt 0, position 0

    # ---- batch header: 64 bytes, then header blocks, then the body ------------------------------
    BATCH_HEADER_BYTES = 64
    BH_MAGIC = 0                         # u32
    BH_TOTAL_LENGTH = 4                  # u32, header + blocks + body + padding, multiple of 8
    BH_BASE_OFFSET = 8                   # i64
    BH_RECORD_COUNT = 16                 # u32, 0 only in a mark
    BH_ATTRIBUTES = 20                   # u32, ATTR_*
    BH_EPOCH = 24                        # u32, partition epoch
    BH_RAW_BODY_BYTES = 28               # u32, body bytes once decompressed, without padding
    BH_BASE_TIMESTAMP = 32               # i64, ns since 1970: the first record's
    BH_SYNCED_OFFSET = 40                # i64, durable mark known when written
    BH_BODY_CHECKSUM = 48                # u64, XXH3-64 of the body as stored, padding included
    BH_CHECKSUM = 56                     # u64, header_checksum of 0..56 and the blocks, salt, position

    BATCH_MAGIC = 0x01424C50             # b"PLB\x01" read as little-endian u32
    FOOTER_MAGIC = 0x01464C50            # b"PLF\x01"

    # ---- attributes: bits 0-2 codec, 3-15 columns, 16-31 header blocks ---------------------------
    ATTR_CODEC_MASK = 0x7
    CODEC_NONE = 0
    CODEC_ZSTD = 1
    ATTR_KEYS = 1 << 3                   # key column present; else every key is null
    ATTR_KEY_NULLS = 1 << 4              # validity bitmap of keys present
    ATTR_VALUE_NULLS = 1 << 5            # validity bitmap of values present
    ATTR_HEADERS = 1 << 6                # record headers column present
    ATTR_TIMESTAMPS = 1 << 7             # timestamp column present; else all equal base_timestamp
    ATTR_OFFSET_DELTAS = 1 << 8          # offset deltas present; else dense
    ATTR_SEQUENCES = 1 << 9              # sequence column present; else dense from first_sequence
    ATTR_COLUMNS_KNOWN = (1 << 10) - 1
    ATTR_BLOCK_MAX_TIMESTAMP = 1 << 16   # i64; required where ATTR_TIMESTAMPS is set
    ATTR_BLOCK_PRODUCER = 1 << 17        # see PB_*
    ATTR_BLOCK_TRANSACTION = 1 << 18     # u64 high, u64 low: transaction id
    ATTR_BLOCK_OFFSET_SPAN = 1 << 19     # i64: next_offset - base_offset, after compaction
    ATTR_MARK = 1 << 31                  # a header-only batch that only states synced_offset
    ATTR_BLOCKS_KNOWN = (1 << 16) | (1 << 17) | (1 << 18) | (1 << 19)

    BLOCK_MAX_TIMESTAMP_BYTES = 8
    BLOCK_PRODUCER_BYTES = 32
    BLOCK_TRANSACTION_BYTES = 16
    BLOCK_OFFSET_SPAN_BYTES = 8
    PB_PRODUCER_ID = 0                   # u64
    PB_PRODUCER_EPOCH = 8                # u32
    PB_RESERVED = 12                     # u32, 0
    PB_FIRST_SEQUENCE = 16               # i64
    PB_LAST_SEQUENCE = 24                # i64

    # ---- footer of a sealed segment: 128 bytes fixed, header copy, producer table, checksum ------
    FOOTER_FIXED_BYTES = 128
    FT_MAGIC = 0                         # u32
    FT_TOTAL_LENGTH = 4                  # u32
    FT_END_OFFSET = 8                    # i64, next offset after this segment
    FT_END_POSITION = 16                 # u64, the footer's own file position
    FT_BATCH_COUNT = 24                  # u64, 0 where not counted (a cut)
    FT_MAX_TIMESTAMP = 32                # i64, running maximum, INT64_MIN where empty
    FT_SYNCED_OFFSET = 40                # i64, durable mark known at the seal
    FT_FLAGS = 48                        # u32, FOOTER_CUT
    FT_NEXT_EPOCH = 52                   # u32, epoch of the following segment
    FT_SEALED = 56                       # i64, ns since 1970
    FT_PRODUCER_COUNT = 64               # u32
    FT_BODY_CHECKSUM = 72                # u64, XXH3-64 of header copy and producer table
    FT_CHECKSUM = 120                    # u64, header_checksum of 0..120, salt, position
    FOOTER_HEADER_COPY = 128             # 128 bytes: the segment header
    FOOTER_PRODUCERS = 256               # producer_count entries
    FOOTER_CUT = 1                       # what stood here was dropped by recovery
    PRODUCER_ENTRY_BYTES = 64
    PE_PRODUCER_ID = 0                   # u64
    PE_PRODUCER_EPOCH = 8                # u32
    PE_RESERVED = 12                     # u32
    PE_FIRST_SEQUENCE = 16               # i64, of the last batch
    PE_LAST_SEQUENCE = 24                # i64
    PE_LAST_OFFSET = 32                  # i64, offset of the record with the last sequence
    PE_LAST_TIMESTAMP = 40               # i64
    # 48..64 reserved, 0

    # ---- index file: 64-byte header, then entries -----------------------------------------------
    INDEX_HEADER_BYTES = 64
    IX_MAGIC = 0                         # 8 bytes b"pylogidx"
    IX_VERSION = 8                       # u32
    IX_ENTRY_COUNT = 12                  # u32
    IX_SALT = 16                         # u64, the segment's
    IX_BODY_CHECKSUM = 24                # u64, XXH3-64 of the entries
    IX_END_OFFSET = 32                   # i64, only in .keys: the keys below that offset are in it
    IX_CHECKSUM = 56                     # u64, header_checksum of 0..56, salt, 0
    INDEX_ENTRY_BYTES = 16
    IE_RELATIVE_OFFSET = 0               # u32, batch base_offset - segment base_offset
    IE_POSITION = 4                      # u32, file position of the batch
    IE_MAX_TIMESTAMP = 8                 # i64, running maximum before this batch
    INDEX_INTERVAL_BYTES = 4096          # an entry at most every so many bytes


cdef inline uint16_t load16(const uint8_t* p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v

cdef inline uint32_t load32(const uint8_t* p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v

cdef inline uint64_t load64(const uint8_t* p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return v

cdef inline int64_t loadi64(const uint8_t* p) noexcept nogil:
    cdef int64_t v
    memcpy(&v, p, 8)
    return v

cdef inline void store16(uint8_t* p, uint16_t v) noexcept nogil:
    memcpy(p, &v, 2)

cdef inline void store32(uint8_t* p, uint32_t v) noexcept nogil:
    memcpy(p, &v, 4)

cdef inline void store64(uint8_t* p, uint64_t v) noexcept nogil:
    memcpy(p, &v, 8)

cdef inline void storei64(uint8_t* p, int64_t v) noexcept nogil:
    memcpy(p, &v, 8)

cdef inline uint64_t align8(uint64_t n) noexcept nogil:
    return (n + 7) & ~(<uint64_t> 7)

cdef inline uint32_t blocks_bytes(uint32_t attributes) noexcept nogil:
    """Bytes of header blocks between the 64-byte header and the body."""
    cdef uint32_t n = 0
    if attributes & ATTR_BLOCK_MAX_TIMESTAMP:
        n += BLOCK_MAX_TIMESTAMP_BYTES
    if attributes & ATTR_BLOCK_PRODUCER:
        n += BLOCK_PRODUCER_BYTES
    if attributes & ATTR_BLOCK_TRANSACTION:
        n += BLOCK_TRANSACTION_BYTES
    if attributes & ATTR_BLOCK_OFFSET_SPAN:
        n += BLOCK_OFFSET_SPAN_BYTES
    return n

cdef inline uint32_t block_position(uint32_t attributes, uint32_t block) noexcept nogil:
    """Byte position inside the batch of a header block that is present."""
    return BATCH_HEADER_BYTES + blocks_bytes(attributes & ATTR_BLOCKS_KNOWN & (block - 1))


cdef inline uint32_t most_producers(uint64_t segment_bytes) noexcept nogil:
    """Entries of the producer table for which a segment keeps room behind its batches."""
    return min(<uint64_t> MAX_PRODUCERS_PER_PARTITION, segment_bytes // (8 * PRODUCER_ENTRY_BYTES))


cdef inline uint64_t largest_batch(uint64_t segment_bytes) noexcept nogil:
    """Bytes of a batch that fits an empty segment, whatever its footer will hold."""
    return (
        segment_bytes - SEGMENT_DATA_START - 2 * FOOTER_PRODUCERS
        - most_producers(segment_bytes) * <uint64_t> PRODUCER_ENTRY_BYTES
    )
