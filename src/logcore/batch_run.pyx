# cython: language_level=3
"""BatchRun: records of several small batches that compaction writes as one large batch.

Offsets, order, timestamps and bytes stay; offsets that are not dense are said one by one. Only batches that
name neither producer nor transaction come here. Invariant: what was added is copied, so its batch may go.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from logcore.batch cimport RecordBatch
from logcore.builder cimport BatchBuilder
from logcore.columns cimport bit_at, columns_t
from logcore.format cimport *
from logcore.inputs cimport NULL_LENGTH


cdef class BatchRun:
    """The records that are gathered; empty again after encode()."""

    def __cinit__(self):
        self.builder = BatchBuilder.__new__(BatchBuilder)

    def __dealloc__(self):
        free(self.offsets)

    cdef bint takes(self, RecordBatch batch, int n, int64_t most_bytes) noexcept nogil:
        """Whether `n` more records of a batch fit the one that is gathered."""
        if self.count == 0:
            return True
        return (
            self.count + n <= MAX_RECORDS_PER_BATCH
            and self.bytes + <int64_t> batch.columns.body_bytes <= most_bytes
            and batch.next_offset - self.base_offset < <int64_t> 1 << 31
        )

    cdef int add(self, RecordBatch batch, const uint8_t* source, const uint32_t* kept, int n) except -1:
        """Take `n` records of a batch, those at the indices `kept`, or all where that is NULL."""
        cdef const columns_t* columns = &batch.columns
        cdef int64_t* offsets
        cdef const uint8_t* key
        cdef const uint8_t* headers
        cdef int64_t key_bytes, value_bytes, headers_bytes
        cdef int i, k
        if self.count == 0:
            self.base_offset = batch.base_offset
            self.synced_offset = loadi64(source + BH_SYNCED_OFFSET)
            self.batches = 0
            self.bytes = 0
            self.compressed = False
        if self.count + n > self.capacity:
            offsets = <int64_t*> realloc(self.offsets, (2 * self.count + n) * sizeof(int64_t))
            if offsets is NULL:
                raise MemoryError()
            self.offsets, self.capacity = offsets, 2 * self.count + n
        for k in range(n):
            i = k if kept is NULL else kept[k]
            key, key_bytes, headers, headers_bytes = NULL, NULL_LENGTH, NULL, 0
            if columns.key_offsets is not NULL and (
                columns.key_validity is NULL or bit_at(columns.key_validity, i)
            ):
                key = columns.keys + columns.key_offsets[i]
                key_bytes = columns.key_offsets[i + 1] - columns.key_offsets[i]
            value_bytes = columns.value_offsets[i + 1] - columns.value_offsets[i]
            if columns.value_validity is not NULL and not bit_at(columns.value_validity, i):
                value_bytes = NULL_LENGTH
            if columns.header_offsets is not NULL:
                headers = columns.headers + columns.header_offsets[i]
                headers_bytes = columns.header_offsets[i + 1] - columns.header_offsets[i]
            self.builder.add(
                key, key_bytes, columns.values + columns.value_offsets[i], value_bytes, headers,
                headers_bytes, batch.timestamp_at(i), -1
            )
            self.offsets[self.count + k] = batch.offset_at(i)
        self.count += n
        self.bytes += batch.columns.body_bytes
        self.next_offset = batch.next_offset
        self.compressed |= batch.attributes & <uint32_t> ATTR_CODEC_MASK != 0
        self.batches += 1
        return 0

    cdef uint64_t room(self) noexcept nogil:
        """The most bytes that encode() writes."""
        cdef uint64_t deltas = align8(4 * <uint64_t> self.count)
        return 2 * BATCH_HEADER_BYTES + <uint64_t> self.builder.body_bytes + deltas + 64

    cdef uint32_t encode(self, uint8_t* place, uint32_t* front) except 0:
        """Write the batch, not sealed and not compressed; its bytes, and where in it the body begins."""
        cdef uint32_t length, attributes, whole, stamps, deltas
        cdef const uint8_t* batch = self.builder.finish(CODEC_NONE, 0, 0, 0, False, &length)
        cdef int i
        attributes = load32(batch + BH_ATTRIBUTES)
        front[0] = whole = BATCH_HEADER_BYTES + blocks_bytes(attributes)
        if self.next_offset - self.base_offset == self.count:
            memcpy(place, batch, length)
        else:
            stamps = 8 * <uint32_t> self.count if attributes & ATTR_TIMESTAMPS else 0
            deltas = <uint32_t> align8(4 * <uint64_t> self.count)
            memcpy(place, batch, whole)
            attributes |= ATTR_OFFSET_DELTAS | ATTR_BLOCK_OFFSET_SPAN
            front[0] = BATCH_HEADER_BYTES + blocks_bytes(attributes)
            store32(place + BH_ATTRIBUTES, attributes)
            storei64(
                place + block_position(attributes, ATTR_BLOCK_OFFSET_SPAN),
                self.next_offset - self.base_offset
            )
            memcpy(place + front[0], batch + whole, stamps)
            memset(place + front[0] + stamps, 0, deltas)
            for i in range(self.count):
                store32(
                    place + front[0] + stamps + 4 * <size_t> i,
                    <uint32_t> (self.offsets[i] - self.base_offset)
                )
            memcpy(place + front[0] + stamps + deltas, batch + whole + stamps, length - whole - stamps)
            length += front[0] - whole + deltas
        store32(place + BH_RAW_BODY_BYTES, length - front[0])
        storei64(place + BH_BASE_OFFSET, self.base_offset)
        storei64(place + BH_SYNCED_OFFSET, self.synced_offset)
        self.builder.reset()
        self.count = 0
        return length
