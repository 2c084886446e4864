# cython: language_level=3
"""BatchBuilder: records go into column buffers and come out as one encoded batch (FORMAT.md, section 4).

No files, no locks, no offsets: whoever holds the append lock seals the header. Values are written where they
will stand in the batch, behind a reserve into which finish() packs everything else, so that the largest
column is copied once. Invariant: a call that raises leaves the records as they were, and finish() changes
none of them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from logcore.batch_header cimport seal_batch_header
from logcore.column_buffer cimport (
    KEEP_BYTES, column_buffer_t, copy_bytes, drop_huge, grow, grow_data, put_column, set_validity
)
from logcore.format cimport *
from logcore.hashing cimport xxh3
from logcore.inputs cimport NULL_LENGTH, check_list, fast_items, item_bytes
from logcore.record_headers cimport encode_headers
from logcore.single_batch cimport STAMP_NOW, wall_clock
from logcore.zstd cimport compress_bytes, make_compressor

from logcore.errors import RecordTooLargeError

cdef extern from *:
    """
    #define prefetch_bytes(item) (__builtin_prefetch(item), __builtin_prefetch((const char*) (item) + 64))
    """
    void prefetch_bytes(const void* item) noexcept nogil

cdef enum:
    FIRST_RECORDS = 64                   # capacities of a new builder
    FIRST_VALUE_BYTES = 4 << 10
    FIRST_RESERVE = 1 << 10
    KEEP_GIL_BYTES = 512 << 10           # hashing less takes under 20 us: not worth releasing the GIL
    PREFETCH_ITEMS = 12                  # how far ahead of the copying


@cython.final
@cython.auto_pickle(False)
cdef class BatchBuilder:
    """Collects records and encodes them as one batch. Not safe for two threads at once."""

    def __cinit__(self):
        self.record_bytes = 4
        self.body_bytes = EMPTY_BYTES
        self.batch_time = STAMP_NOW
        self.next_sequence = -1
        self.reserve = FIRST_RESERVE

    def __dealloc__(self):
        free(self.frame)
        free(self.key.ends)
        free(self.key.data)
        free(self.key.validity)
        free(self.value.ends)
        free(self.value.validity)
        free(self.header.ends)
        free(self.header.data)
        free(self.timestamps)
        free(self.sequences)
        free(self.packed)

    # ---- one record -------------------------------------------------------------------------------

    cdef int add(
        self, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value, Py_ssize_t value_bytes,
        const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp, int64_t sequence,
    ) except -1:
        cdef int n = self.record_count
        cdef int64_t key_size = key_bytes if key_bytes > 0 else 0
        cdef int64_t value_size = value_bytes if value_bytes > 0 else 0
        if (
            n >= self.record_capacity or value_size > self.value.capacity - self.value.used
            or key_size > self.key.capacity - self.key.used
            or headers_bytes > self.header.capacity - self.header.used
            or self.body_bytes + key_size + value_size + headers_bytes > MAX_DATA_BYTES
        ):
            self.make_room(key_size, value_size, headers_bytes)
        if sequence != self.next_sequence:
            self.take_sequence(sequence)
        if timestamp == STAMP_NOW:
            if self.batch_time == STAMP_NOW:
                self.batch_time = wall_clock()
            timestamp = self.batch_time
        if n and timestamp != self.base_timestamp and not self.attributes & ATTR_TIMESTAMPS:
            self.open_timestamps()
        if key_bytes >= 0:
            if not self.attributes & ATTR_KEYS:
                self.open_keys()
        elif self.attributes & (ATTR_KEYS | ATTR_KEY_NULLS) == ATTR_KEYS:
            self.open_validity(&self.key, ATTR_KEY_NULLS, True)
        if value_bytes < 0 and not self.attributes & ATTR_VALUE_NULLS:
            self.open_validity(&self.value, ATTR_VALUE_NULLS, True)
        if headers_bytes and not self.attributes & ATTR_HEADERS:
            self.open_offsets(&self.header, ATTR_HEADERS)

        # Nothing below fails.
        if n == 0:
            self.base_timestamp = timestamp
            self.max_timestamp = timestamp
        if sequence >= 0:
            self.next_sequence = sequence + 1
        if value_size:
            copy_bytes(self.value.data + self.value.used, value, value_size)
            self.value.used += value_size
        self.value.ends[n + 1] = <int32_t> self.value.used
        if self.attributes:
            if self.attributes & ATTR_KEYS:
                if key_size:
                    copy_bytes(self.key.data + self.key.used, key, key_size)
                    self.key.used += key_size
                self.key.ends[n + 1] = <int32_t> self.key.used
            if self.attributes != ATTR_KEYS:
                self.add_to_rare_columns(
                    n, key_bytes >= 0, value_bytes >= 0, headers, headers_bytes, timestamp, sequence
                )
        self.body_bytes += key_size + value_size + headers_bytes + self.record_bytes
        self.record_count = n + 1
        return 0

    cdef void add_to_rare_columns(
        self, int n, bint has_key, bint has_value, const uint8_t* headers, Py_ssize_t headers_bytes,
        int64_t timestamp, int64_t sequence,
    ) noexcept nogil:
        if self.attributes & ATTR_KEY_NULLS:
            set_validity(self.key.validity, n, has_key)
        if self.attributes & ATTR_VALUE_NULLS:
            set_validity(self.value.validity, n, has_value)
        if self.attributes & ATTR_HEADERS:
            if headers_bytes:            # without any `headers` may be NULL
                memcpy(self.header.data + self.header.used, headers, headers_bytes)
            self.header.used += headers_bytes
            self.header.ends[n + 1] = <int32_t> self.header.used
        if self.attributes & ATTR_TIMESTAMPS:
            self.timestamps[n] = timestamp
            self.max_timestamp = max(self.max_timestamp, timestamp)
        if self.attributes & ATTR_SEQUENCES:
            self.sequences[n] = sequence

    cdef int take_sequence(self, int64_t sequence) except -1:
        """A sequence that does not simply follow: the first, one behind a gap, or a wrong one."""
        cdef int i
        if self.record_count == 0 and sequence >= 0:
            self.first_sequence = sequence
            return 0
        if sequence < 0 or self.next_sequence < 0:
            raise ValueError("either all records of a batch have a sequence or none")
        if sequence < self.next_sequence:
            raise ValueError(f"sequence {sequence} does not rise: the last one was {self.next_sequence - 1}")
        if not self.attributes & ATTR_SEQUENCES:
            if self.sequences is NULL:
                grow(<void**> &self.sequences, self.record_capacity * sizeof(int64_t))
            for i in range(self.record_count):
                self.sequences[i] = self.first_sequence + i
            self.attributes |= ATTR_SEQUENCES
            self.record_bytes += 8
            self.body_bytes += 8 * <int64_t> self.record_count
        return 0

    # ---- room and columns ---------------------------------------------------------------------------

    cdef int make_room(self, int64_t key_bytes, int64_t value_bytes, int64_t headers_bytes) except -1:
        cdef int64_t size = key_bytes + value_bytes + headers_bytes
        if size > MAX_DATA_BYTES - self.body_bytes:
            raise RecordTooLargeError(
                f"a record of {size} bytes does not fit: a batch holds at most {<int64_t> MAX_DATA_BYTES} "
                f"bytes and has {self.body_bytes}",
                size=size, limit=MAX_DATA_BYTES,
            )
        if self.record_count >= MAX_RECORDS_PER_BATCH:
            raise RecordTooLargeError(
                f"a batch holds at most {<int64_t> MAX_RECORDS_PER_BATCH} records",
                size=self.record_count + 1, limit=MAX_RECORDS_PER_BATCH,
            )
        if self.record_count >= self.record_capacity:
            self.grow_records(<int64_t> self.record_count + 1)
        if value_bytes > self.value.capacity - self.value.used:
            self.grow_values(self.value.used + value_bytes, self.reserve)
        grow_data(&self.key, key_bytes)
        grow_data(&self.header, headers_bytes)
        return 0

    cdef int grow_records(self, int64_t wanted) except -1:
        """Make every column that exists longer, also those not open: they all have record_capacity."""
        cdef int64_t doubled = max(2 * <int64_t> self.record_capacity, FIRST_RECORDS)
        cdef int64_t capacity = min(max(wanted, doubled), MAX_RECORDS_PER_BATCH)
        cdef size_t offsets_size = (capacity + 1) * sizeof(int32_t)
        cdef size_t numbers_size = capacity * sizeof(int64_t)
        cdef size_t bits_size = (capacity + 7) >> 3
        cdef bint first = self.value.ends is NULL
        grow(<void**> &self.value.ends, offsets_size)
        if first:
            self.value.ends[0] = 0
        if self.key.ends is not NULL:
            grow(<void**> &self.key.ends, offsets_size)
        if self.header.ends is not NULL:
            grow(<void**> &self.header.ends, offsets_size)
        if self.key.validity is not NULL:
            grow(<void**> &self.key.validity, bits_size)
        if self.value.validity is not NULL:
            grow(<void**> &self.value.validity, bits_size)
        if self.timestamps is not NULL:
            grow(<void**> &self.timestamps, numbers_size)
        if self.sequences is not NULL:
            grow(<void**> &self.sequences, numbers_size)
        self.record_capacity = <int> capacity
        return 0

    cdef int grow_values(self, int64_t needed, int64_t reserve) except -1:
        """Make room for `needed` bytes of values behind `reserve` bytes; the values move with the reserve."""
        cdef int64_t capacity = self.value.capacity
        cdef uint8_t* moved
        if needed > capacity or self.frame is NULL:
            capacity = max(needed, 2 * capacity, FIRST_VALUE_BYTES)
        if reserve == self.reserve:
            grow(<void**> &self.frame, reserve + capacity + 8)       # 8: the padding behind the values
        else:
            moved = <uint8_t*> malloc(reserve + capacity + 8)
            if moved is NULL:
                raise MemoryError()
            if self.value.used:
                memcpy(moved + reserve, self.value.data, self.value.used)
            free(self.frame)
            self.frame = moved
            self.reserve = reserve
        self.value.data = self.frame + self.reserve
        self.value.capacity = capacity
        return 0

    cdef int open_offsets(self, column_buffer_t* column, uint32_t attribute) except -1:
        """Begin a column of bytes: all records so far have none."""
        if column.ends is NULL:
            grow(<void**> &column.ends, (<size_t> self.record_capacity + 1) * sizeof(int32_t))
        memset(column.ends, 0, (<size_t> self.record_count + 1) * sizeof(int32_t))
        column.used = 0
        self.attributes |= attribute
        self.record_bytes += 4
        self.body_bytes += 4 * <int64_t> self.record_count
        return 0

    cdef int open_keys(self) except -1:
        """Begin the column of keys; a bitmap too where records before had none."""
        self.open_offsets(&self.key, ATTR_KEYS)
        if self.record_count:
            self.open_validity(&self.key, ATTR_KEY_NULLS, False)
        return 0

    cdef int open_validity(self, column_buffer_t* column, uint32_t attribute, bint valid_so_far) except -1:
        """Begin a validity bitmap: all records so far are valid, or all are null."""
        cdef int n = self.record_count
        if column.validity is NULL:
            grow(<void**> &column.validity, (<size_t> self.record_capacity + 7) >> 3)
        memset(column.validity, 0xFF if valid_so_far else 0, (n + 7) >> 3)
        if n & 7:
            column.validity[n >> 3] &= <uint8_t> ((1 << (n & 7)) - 1)
        self.attributes |= attribute
        self.record_bytes += 1
        self.body_bytes += n
        return 0

    cdef int open_timestamps(self) except -1:
        cdef int i
        if self.timestamps is NULL:
            grow(<void**> &self.timestamps, self.record_capacity * sizeof(int64_t))
        for i in range(self.record_count):
            self.timestamps[i] = self.base_timestamp
        self.attributes |= ATTR_TIMESTAMPS
        self.record_bytes += 8
        self.body_bytes += 8 * <int64_t> self.record_count
        return 0

    # ---- many records -------------------------------------------------------------------------------

    cdef Py_ssize_t add_list(
        self, object values, object keys, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t budget
    ) except -1:
        cdef PyObject** value_items = fast_items(values)
        cdef PyObject** key_items = NULL if keys is None else fast_items(keys)
        cdef const uint8_t* key = NULL
        cdef const uint8_t* value = NULL
        cdef Py_ssize_t key_bytes = NULL_LENGTH, value_bytes = 0
        cdef Py_ssize_t i
        for i in range(start, stop):
            if i + PREFETCH_ITEMS < stop:        # the objects are scattered: waiting for them takes most time
                prefetch_bytes(value_items[i + PREFETCH_ITEMS])
                if key_items is not NULL:
                    prefetch_bytes(key_items[i + PREFETCH_ITEMS])
            item_bytes(value_items[i], &value, &value_bytes)
            if key_items is not NULL:
                item_bytes(key_items[i], &key, &key_bytes)
            self.add(key, key_bytes, value, value_bytes, NULL, 0, STAMP_NOW, -1)
            if self.body_bytes >= budget or self.record_count == MAX_RECORDS_PER_BATCH:
                return i + 1 - start
        return stop - start

    # ---- the batch --------------------------------------------------------------------------------

    cdef uint8_t* finish(
        self, int codec, int level, uint64_t producer_id, uint32_t producer_epoch, bint has_producer,
        uint32_t* length,
    ) except NULL:
        cdef uint32_t attributes = self.attributes
        cdef uint32_t front, prefix, raw
        cdef uint8_t* batch
        if self.record_count == 0:
            raise ValueError("a batch needs a record")
        if has_producer != (self.next_sequence >= 0):
            raise ValueError("a producer id and sequences belong together")
        if attributes & ATTR_TIMESTAMPS:
            attributes |= ATTR_BLOCK_MAX_TIMESTAMP
        if has_producer:
            attributes |= ATTR_BLOCK_PRODUCER
        front = BATCH_HEADER_BYTES + blocks_bytes(attributes)
        prefix = front + self.prefix_bytes()
        if self.frame is NULL or prefix > self.reserve:
            self.grow_values(self.value.used, max(self.reserve, <int64_t> align8(prefix + prefix // 4)))
        batch = self.value.data - prefix
        raw = prefix - front + <uint32_t> align8(self.value.used)
        self.write_columns(batch + front)
        self.write_header(batch, attributes, raw, producer_id, producer_epoch)
        length[0] = front + raw
        if codec == CODEC_ZSTD:
            batch = self.compress(batch, front, length, level)
        elif codec != CODEC_NONE:
            raise ValueError(f"unknown codec {codec}")
        store32(batch + BH_TOTAL_LENGTH, length[0])
        store64(batch + BH_BODY_CHECKSUM, hash_body(batch + front, length[0] - front))
        return batch

    cdef uint32_t prefix_bytes(self) noexcept nogil:
        """Bytes of all columns before the values' bytes."""
        cdef uint64_t n = self.record_count
        cdef uint64_t offsets = align8(4 * (n + 1)), bits = align8((n + 7) >> 3)
        cdef uint64_t size = offsets
        if self.attributes & ATTR_TIMESTAMPS:
            size += 8 * n
        if self.attributes & ATTR_SEQUENCES:
            size += 8 * n
        if self.attributes & ATTR_KEY_NULLS:
            size += bits
        if self.attributes & ATTR_VALUE_NULLS:
            size += bits
        if self.attributes & ATTR_KEYS:
            size += offsets + align8(self.key.used)
        if self.attributes & ATTR_HEADERS:
            size += offsets + align8(self.header.used)
        return <uint32_t> size

    cdef void write_columns(self, uint8_t* body) noexcept nogil:
        """Pack the columns before the values, and the padding behind those."""
        cdef int64_t n = self.record_count
        if self.attributes & ATTR_TIMESTAMPS:
            body = put_column(body, self.timestamps, 8 * n)
        if self.attributes & ATTR_SEQUENCES:
            body = put_column(body, self.sequences, 8 * n)
        if self.attributes & ATTR_KEY_NULLS:
            body = put_column(body, self.key.validity, (n + 7) >> 3)
        if self.attributes & ATTR_VALUE_NULLS:
            body = put_column(body, self.value.validity, (n + 7) >> 3)
        if self.attributes & ATTR_KEYS:
            body = put_column(body, self.key.ends, 4 * (n + 1))
            body = put_column(body, self.key.data, self.key.used)
        if self.attributes & ATTR_HEADERS:
            body = put_column(body, self.header.ends, 4 * (n + 1))
            body = put_column(body, self.header.data, self.header.used)
        put_column(body, self.value.ends, 4 * (n + 1))
        memset(self.value.data + self.value.used, 0, align8(self.value.used) - self.value.used)

    cdef void write_header(
        self, uint8_t* batch, uint32_t attributes, uint32_t raw, uint64_t producer_id, uint32_t producer_epoch
    ) noexcept nogil:
        cdef uint8_t* block
        memset(batch, 0, BATCH_HEADER_BYTES)
        store32(batch, BATCH_MAGIC)
        store32(batch + BH_RECORD_COUNT, self.record_count)
        store32(batch + BH_ATTRIBUTES, attributes)
        store32(batch + BH_RAW_BODY_BYTES, raw)
        storei64(batch + BH_BASE_TIMESTAMP, self.base_timestamp)
        if attributes & ATTR_BLOCK_MAX_TIMESTAMP:
            storei64(batch + block_position(attributes, ATTR_BLOCK_MAX_TIMESTAMP), self.max_timestamp)
        if attributes & ATTR_BLOCK_PRODUCER:
            block = batch + block_position(attributes, ATTR_BLOCK_PRODUCER)
            store64(block + PB_PRODUCER_ID, producer_id)
            store32(block + PB_PRODUCER_EPOCH, producer_epoch)
            store32(block + PB_RESERVED, 0)
            storei64(block + PB_FIRST_SEQUENCE, self.first_sequence)
            storei64(block + PB_LAST_SEQUENCE, self.next_sequence - 1)

    cdef uint8_t* compress(self, uint8_t* batch, uint32_t front, uint32_t* length, int level) except NULL:
        """Make `packed` the batch with a zstd body; the raw batch itself where that would not be smaller."""
        cdef bytes frame
        cdef uint32_t stored
        if self.compressor is None or self.compressor_level != level:
            self.compressor = make_compressor(level)
            self.compressor_level = level
        frame = compress_bytes(self.compressor, batch + front, length[0] - front)
        stored = 8 + <uint32_t> align8(PyBytes_GET_SIZE(frame))
        if stored >= length[0] - front:
            return batch
        if front + stored > self.packed_capacity:
            grow(<void**> &self.packed, front + stored)
            self.packed_capacity = front + stored
        memcpy(self.packed, batch, front)
        store32(self.packed + BH_ATTRIBUTES, load32(batch + BH_ATTRIBUTES) | CODEC_ZSTD)
        store32(self.packed + front, <uint32_t> PyBytes_GET_SIZE(frame))
        store32(self.packed + front + 4, 0)
        put_column(self.packed + front + 8, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        length[0] = front + stored
        return self.packed

    cdef void reset(self) noexcept:
        self.record_count = 0
        self.attributes = 0
        self.record_bytes = 4
        self.body_bytes = EMPTY_BYTES
        self.batch_time = STAMP_NOW
        self.next_sequence = -1
        self.key.used = 0
        self.value.used = 0
        self.header.used = 0
        if self.value.capacity + self.reserve > KEEP_BYTES:
            free(self.frame)
            self.frame = NULL
            self.value.data = NULL
            self.value.capacity = 0
            self.reserve = FIRST_RESERVE
        drop_huge(&self.key)
        drop_huge(&self.header)
        if self.packed_capacity > KEEP_BYTES:
            free(self.packed)
            self.packed = NULL
            self.packed_capacity = 0

    # ---- the Python face: tests and tools -----------------------------------------------------------

    def __len__(self):
        return self.record_count

    def add_record(self, key, value, headers=None, timestamp=None, long long sequence=-1):
        """Add one record; `timestamp` in ns since 1970, None for the batch's own time; sequence -1 for none.

        Raises TypeError for what is no bytes, RecordTooLargeError, ValueError; the records stay as they were.
        """
        cdef const uint8_t* key_at = NULL
        cdef const uint8_t* value_at = NULL
        cdef Py_ssize_t key_bytes = 0, value_bytes = 0
        cdef bytes encoded = encode_headers(headers)
        cdef int64_t stamp = STAMP_NOW if timestamp is None else timestamp
        item_bytes(<PyObject*> key, &key_at, &key_bytes)
        item_bytes(<PyObject*> value, &value_at, &value_bytes)
        self.add(
            key_at, key_bytes, value_at, value_bytes,
            <const uint8_t*> PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded), stamp, sequence,
        )

    def add_records(self, values, keys=None, Py_ssize_t start=0, Py_ssize_t budget=MAX_DATA_BYTES):
        """Add values (and keys) of lists from index `start` until body_bytes reaches `budget`; how many."""
        check_list(values, keys)
        if not 0 <= start <= len(values):
            raise IndexError(f"{start} is outside of {len(values)} values")
        return self.add_list(values, keys, start, len(values), budget)

    def encode(
        self, *, str codec="none", int level=3, long long base_offset=0, unsigned int epoch=0,
        long long synced_offset=0, unsigned long long salt=0, unsigned long long position=0,
        producer_id=None, unsigned int producer_epoch=0,
    ):
        """The batch as it would stand at `position` of a segment file with `salt`; the records stay."""
        cdef uint32_t length
        cdef uint8_t* batch
        if codec not in ("none", "zstd"):
            raise ValueError(f"codec is 'none' or 'zstd', not {codec!r}")
        batch = self.finish(
            CODEC_ZSTD if codec == "zstd" else CODEC_NONE, level,
            0 if producer_id is None else producer_id, producer_epoch, producer_id is not None, &length,
        )
        seal_batch_header(batch, base_offset, epoch, synced_offset, salt, position)
        return PyBytes_FromStringAndSize(<const char*> batch, length)

    def clear(self):
        """Forget the records; the buffers are kept for the next batch."""
        self.reset()


# ---- parts -----------------------------------------------------------------------------------------

cdef uint64_t hash_body(const uint8_t* body, uint32_t size) noexcept:
    cdef uint64_t checksum
    if size < KEEP_GIL_BYTES:
        return xxh3(body, size)
    with nogil:
        checksum = xxh3(body, size)
    return checksum
