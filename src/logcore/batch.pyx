# cython: language_level=3, nonecheck=True
"""Record and RecordBatch: a validated, read-only view of one encoded batch (FORMAT.md, section 4).

No reading of files, no building, no caching of records: bytes become Python objects only when asked for.
Invariant: a RecordBatch exists only after every column was found to lie inside the body and every offset
inside its column, and it keeps its `owner`, and so its bytes, alive.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from cpython.object cimport PyObject_GenericGetAttr
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch_header cimport check_batch, check_body, next_offset_of
from logcore.column_views cimport (
    COLUMN_I32, COLUMN_I64, COLUMN_U8, filled_array, lengths_array, offsets_array, view_array
)
from logcore.columns cimport (
    bit_at, check_columns, check_deltas, check_sequences, check_timestamps, place_columns
)
from logcore.format cimport *
from logcore.record_headers cimport decode_headers
from logcore.zstd cimport decompress_body

import sys

from logcore.errors import CorruptionError

globals().update(RecordId=RecordId, RecordIds=RecordIds)      # cimport alone gives Python no name

cdef enum:
    KEEP_GIL_BYTES = 512 << 10           # hashing less takes under 20 us: not worth releasing the GIL
    REPR_BYTES = 40


cdef str VALUE = sys.intern("value")


cdef str shown(bytes data):
    """repr() of at most REPR_BYTES of a key or value."""
    if data is None or len(data) <= REPR_BYTES:
        return repr(data)
    return f"{data[:REPR_BYTES]!r}... ({len(data)} bytes)"


@cython.final
@cython.no_gc
@cython.freelist(1000)
cdef class Record:
    """One record, immutable. It is a view: reading an attribute makes the Python object, and holding the
    record holds the bytes of its batch. Equal to a record of the same place and content.
    """

    def __init__(self):
        raise TypeError("records come from consumers and read(), not from a constructor")

    def __getattribute__(self, name):
        # nearly all that is ever asked for: without the search through types and descriptors
        if name is VALUE:
            return self.batch.value_at(self.index)
        return PyObject_GenericGetAttr(self, name)

    @property
    def topic(self):
        """Name of the topic."""
        return self.batch.topic

    @property
    def partition(self):
        """Number of the partition."""
        return self.batch.partition

    @property
    def offset(self):
        """Position in the partition, counted in records."""
        return self.batch.offset_at(self.index)

    @property
    def timestamp(self):
        """Nanoseconds since 1970-01-01 UTC."""
        return self.batch.timestamp_at(self.index)

    @property
    def key(self):
        """Key, or None."""
        return self.batch.key_at(self.index)

    @property
    def value(self):
        """Value, or None (a tombstone where the topic is compacted)."""
        return self.batch.value_at(self.index)

    @property
    def headers(self):
        """List of (name, value or None) in the order in which they were given; a new list each time.

        Raises CorruptionError where the encoded headers are not what the format says.
        """
        return self.batch.headers_of(self.index)

    @property
    def sequence(self):
        """The idempotent producer's sequence of the record, or None without one."""
        cdef int64_t sequence = self.batch.sequence_at(self.index)
        return None if sequence < 0 else sequence

    @property
    def epoch(self):
        """Epoch of the partition in which the record was written; it rises when a power cut took records."""
        return self.batch.epoch

    def __eq__(self, other):
        if not isinstance(other, Record):
            return NotImplemented
        cdef Record a = self
        cdef Record b = other
        return (
            a.topic == b.topic and a.partition == b.partition and a.offset == b.offset
            and a.timestamp == b.timestamp and a.key == b.key and a.value == b.value
            and a.headers == b.headers
        )

    def __hash__(self):
        return hash((self.topic, self.partition, self.offset))

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("a Record is a view and cannot be pickled: pass on its key, value and headers")

    def __repr__(self):
        return (
            f"Record(topic={self.topic!r}, partition={self.partition}, offset={self.offset}, "
            f"timestamp={self.timestamp}, key={shown(self.key)}, value={shown(self.value)})"
        )


@cython.final
@cython.no_gc
cdef class RecordBatch:
    """The records of one batch as columns: a sequence of Record, and numpy arrays without a copy.

    Arrays that say "view" share the batch's memory, are read-only and keep it alive. `memoryview(batch)` is
    the raw body. `next_offset` is the offset behind the last one that the batch covers.
    """

    def __init__(self):
        raise TypeError("a RecordBatch comes from batches(), read or parse_batch(), not from a constructor")

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if self.columns.body is NULL:
            raise BufferError("an empty RecordBatch has no bytes")
        PyBuffer_FillInfo(buffer, self, <void*> self.columns.body, self.columns.body_bytes, 1, flags)

    # ---- for the native core ------------------------------------------------------------------

    cdef int64_t offset_at(self, Py_ssize_t i) noexcept nogil:
        return self.base_offset + (i if self.columns.deltas is NULL else <int64_t> self.columns.deltas[i])

    cdef int64_t timestamp_at(self, Py_ssize_t i) noexcept nogil:
        return self.base_timestamp if self.columns.timestamps is NULL else self.columns.timestamps[i]

    cdef int64_t sequence_at(self, Py_ssize_t i) noexcept nogil:
        if not self.has_producer:
            return -1
        return self.sequence_first + i if self.columns.sequences is NULL else self.columns.sequences[i]

    cdef bytes key_at(self, Py_ssize_t i):
        cdef const int32_t* at = self.columns.key_offsets
        cdef const uint8_t* validity = self.columns.key_validity
        if at is NULL or (validity is not NULL and not bit_at(validity, i)):
            return None
        return PyBytes_FromStringAndSize(<const char*> self.columns.keys + at[i], at[i + 1] - at[i])

    cdef bytes value_at(self, Py_ssize_t i):
        cdef const int32_t* at = self.columns.value_offsets
        cdef const uint8_t* validity = self.columns.value_validity
        if validity is not NULL and not bit_at(validity, i):
            return None
        return PyBytes_FromStringAndSize(<const char*> self.columns.values + at[i], at[i + 1] - at[i])

    cdef list headers_of(self, Py_ssize_t i):
        cdef const int32_t* at = self.columns.header_offsets
        if at is NULL:
            return []
        try:
            return decode_headers(self.columns.headers + at[i], at[i + 1] - at[i])
        except ValueError as error:
            raise CorruptionError(
                f"{self.topic}-{self.partition}: headers of offset {self.offset_at(i)}: {error}",
                first_offset=self.offset_at(i), next_offset=self.offset_at(i) + 1,
            ) from None

    cdef int first_at_or_after(self, int64_t offset) noexcept nogil:
        cdef int low = 0, high = self.record_count, middle
        if offset <= self.base_offset:
            return 0
        if self.columns.deltas is NULL:
            return <int> min(offset - self.base_offset, <int64_t> self.record_count)
        while low < high:
            middle = (low + high) // 2
            if self.base_offset + <int64_t> self.columns.deltas[middle] < offset:
                low = middle + 1
            else:
                high = middle
        return low

    cdef list records(self, int start, int stop):
        cdef list made
        cdef Record record
        cdef int i
        start = max(start, 0)
        stop = min(stop, self.record_count)
        made = PyList_New(max(stop - start, 0))
        for i in range(start, stop):
            record = Record.__new__(Record)
            record.batch = self
            record.index = i
            Py_INCREF(record)
            PyList_SET_ITEM(made, i - start, record)
        return made

    cdef object array_of(self, const void* column, int type, Py_ssize_t count):
        return view_array(self, self.columns.body, column, type, count)

    # ---- a sequence of records ------------------------------------------------------------------

    def __len__(self):
        return self.record_count

    def __iter__(self):
        return iter(self.records(0, self.record_count))

    def __getitem__(self, index):
        cdef Py_ssize_t i
        if isinstance(index, slice):
            start, stop, step = index.indices(self.record_count)
            if step == 1:
                return self.records(start, stop)
            return self.records(0, self.record_count)[index]
        i = index
        if i < 0:
            i += self.record_count
        if i < 0 or i >= self.record_count:
            raise IndexError(f"{index} is outside of {self.record_count} records")
        return self.records(<int> i, <int> i + 1)[0]

    def keys(self):
        """List of the keys, bytes or None."""
        cdef list made = PyList_New(self.record_count)
        cdef object key
        cdef Py_ssize_t i
        for i in range(self.record_count):
            key = self.key_at(i)
            Py_INCREF(key)
            PyList_SET_ITEM(made, i, key)
        return made

    def values(self):
        """List of the values, bytes or None."""
        cdef list made = PyList_New(self.record_count)
        cdef object value
        cdef Py_ssize_t i
        for i in range(self.record_count):
            value = self.value_at(i)
            Py_INCREF(value)
            PyList_SET_ITEM(made, i, value)
        return made

    def __repr__(self):
        return (
            f"<RecordBatch {self.topic}-{self.partition} offsets [{self.base_offset}, {self.next_offset}) "
            f"records={self.record_count} codec={self.codec}>"
        )

    def __reduce__(self):
        raise TypeError("a RecordBatch is a view and cannot be pickled: use to_arrow()")

    # ---- facts of the header ----------------------------------------------------------------------

    @property
    def codec(self):
        """ "none" or "zstd": how the body is stored."""
        return "zstd" if self.attributes & ATTR_CODEC_MASK else "none"

    @property
    def producer_id(self):
        """Id of the idempotent producer that wrote the batch, or None."""
        return self.producer if self.has_producer else None

    @property
    def producer_epoch(self):
        """Epoch of that producer, or None."""
        return self.producer_generation if self.has_producer else None

    @property
    def first_sequence(self):
        """The producer's sequence of the first record, or None."""
        return self.sequence_first if self.has_producer else None

    @property
    def last_sequence(self):
        """The producer's sequence of the last record, or None."""
        return self.sequence_last if self.has_producer else None

    # ---- columns as numpy arrays ----------------------------------------------------------------

    @property
    def offsets(self):
        """int64 array of the records' offsets."""
        return offsets_array(self.base_offset, self.columns.deltas, self.record_count)

    @property
    def timestamps(self):
        """int64 array, nanoseconds since 1970; a view where they differ."""
        if self.columns.timestamps is NULL:
            return filled_array(self.base_timestamp, self.record_count)
        return self.array_of(self.columns.timestamps, COLUMN_I64, self.record_count)

    @property
    def key_lengths(self):
        """int32 array of the keys' lengths; 0 for a null key."""
        return lengths_array(self.columns.key_offsets, self.record_count)

    @property
    def value_lengths(self):
        """int32 array of the values' lengths; 0 for a null value."""
        return lengths_array(self.columns.value_offsets, self.record_count)

    @property
    def key_offsets(self):
        """View of int32[n + 1]: key i is key_data[a[i]:a[i + 1]]; None where every key is null."""
        if self.columns.key_offsets is NULL:
            return None
        return self.array_of(self.columns.key_offsets, COLUMN_I32, self.record_count + 1)

    @property
    def key_data(self):
        """View of the keys' bytes, one behind the other, as uint8; None where every key is null."""
        if self.columns.key_offsets is NULL:
            return None
        return self.array_of(self.columns.keys, COLUMN_U8, self.columns.key_offsets[self.record_count])

    @property
    def value_offsets(self):
        """View of int32[n + 1]: value i is value_data[a[i]:a[i + 1]]."""
        return self.array_of(self.columns.value_offsets, COLUMN_I32, self.record_count + 1)

    @property
    def value_data(self):
        """View of the values' bytes, one behind the other, as uint8."""
        return self.array_of(self.columns.values, COLUMN_U8, self.columns.value_offsets[self.record_count])

    # ---- Arrow ------------------------------------------------------------------------------------

    def to_arrow(self):
        """pyarrow.RecordBatch of offset, timestamp, key and value; keys and values share the batch's memory.

        Raises UnsupportedError where pyarrow is not installed.
        """
        from logcore import arrow
        return arrow.to_pyarrow(self)

    def __arrow_c_array__(self, requested_schema=None):
        """Export as a struct array through the Arrow C data interface."""
        from logcore import arrow
        return arrow.export_array(self)

    def __arrow_c_stream__(self, requested_schema=None):
        """Export as a stream of one record batch through the Arrow C data interface."""
        from logcore import arrow
        return arrow.export_stream([self])


# ---- validation -----------------------------------------------------------------------------------

cdef RecordBatch view_batch(
    object owner, const uint8_t* batch, str topic, int partition, bint verify, uint64_t max_body_bytes
):
    cdef RecordBatch view = RecordBatch.__new__(RecordBatch)
    cdef uint32_t blocks, stored
    view.topic = topic
    view.partition = partition
    read_header(view, batch)
    read_blocks(view, batch)
    blocks = blocks_bytes(view.attributes)
    stored = view.stored_bytes - BATCH_HEADER_BYTES - blocks
    if view.columns.body_bytes > max_body_bytes:
        raise ValueError(f"a body of {view.columns.body_bytes} bytes is beyond the limit of {max_body_bytes}")
    if verify and not body_matches(batch, stored):
        raise ValueError("the body does not match its checksum")
    if view.attributes & ATTR_CODEC_MASK == CODEC_ZSTD:
        view.owner = decompress_body(batch + BATCH_HEADER_BYTES + blocks, stored, view.columns.body_bytes)
        view.columns.body = <const uint8_t*> PyBytes_AS_STRING(view.owner)
    else:
        if view.columns.body_bytes != stored:
            raise ValueError("the body has another size than the header declares")
        view.owner = owner
        view.columns.body = batch + BATCH_HEADER_BYTES + blocks
    place_columns(&view.columns)
    if verify:
        check_columns(&view.columns)
        check_timestamps(&view.columns, view.base_timestamp, view.max_timestamp)
        check_deltas(&view.columns, view.next_offset - view.base_offset)
        check_sequences(&view.columns, view.sequence_first, view.sequence_last)
    return view


cdef bint body_matches(const uint8_t* batch, uint32_t stored) noexcept:
    cdef bint matches
    if stored < KEEP_GIL_BYTES:
        return check_body(batch)
    with nogil:
        matches = check_body(batch)
    return matches


cdef int read_header(RecordBatch view, const uint8_t* batch) except -1:
    cdef uint32_t attributes = load32(batch + BH_ATTRIBUTES)
    cdef uint32_t unknown = attributes & ~(<uint32_t> (ATTR_COLUMNS_KNOWN | ATTR_BLOCKS_KNOWN))
    cdef uint32_t count = load32(batch + BH_RECORD_COUNT)
    if attributes >> 31 or count == 0:
        raise ValueError("a mark holds no records")
    if unknown or attributes & ATTR_CODEC_MASK > CODEC_ZSTD:
        raise ValueError(f"unknown attributes 0x{attributes:x}: written by a newer version?")
    if attributes & ATTR_KEY_NULLS and not attributes & ATTR_KEYS:
        raise ValueError("key validity without a key column")
    if ((attributes & ATTR_TIMESTAMPS) != 0) != ((attributes & ATTR_BLOCK_MAX_TIMESTAMP) != 0):
        raise ValueError("a timestamp column and a max timestamp belong together")
    if attributes & ATTR_SEQUENCES and not attributes & ATTR_BLOCK_PRODUCER:
        raise ValueError("a sequence column without a producer")
    view.attributes = attributes
    view.record_count = <int> count
    view.columns.attributes = attributes
    view.columns.record_count = count
    view.stored_bytes = load32(batch + BH_TOTAL_LENGTH)
    view.columns.body_bytes = load32(batch + BH_RAW_BODY_BYTES)
    view.epoch = load32(batch + BH_EPOCH)
    view.base_offset = loadi64(batch + BH_BASE_OFFSET)
    view.base_timestamp = loadi64(batch + BH_BASE_TIMESTAMP)
    if view.columns.body_bytes & 7 or view.columns.body_bytes > MAX_BATCH_BYTES:
        raise ValueError("the declared size of the body is no multiple of 8 or beyond the limit")
    return 0


cdef int read_blocks(RecordBatch view, const uint8_t* batch) except -1:
    cdef int64_t span = view.record_count
    cdef const uint8_t* block
    view.max_timestamp = view.base_timestamp
    if view.attributes & ATTR_BLOCK_MAX_TIMESTAMP:
        view.max_timestamp = loadi64(batch + block_position(view.attributes, ATTR_BLOCK_MAX_TIMESTAMP))
    if view.attributes & ATTR_BLOCK_PRODUCER:
        block = batch + block_position(view.attributes, ATTR_BLOCK_PRODUCER)
        view.has_producer = True
        view.producer = load64(block + PB_PRODUCER_ID)
        view.producer_generation = load32(block + PB_PRODUCER_EPOCH)
        view.sequence_first = loadi64(block + PB_FIRST_SEQUENCE)
        view.sequence_last = loadi64(block + PB_LAST_SEQUENCE)
        if view.sequence_first < 0 or view.sequence_last < view.sequence_first:
            raise ValueError("the producer's sequences are not in order")
        if not view.attributes & ATTR_SEQUENCES:
            if view.sequence_last - view.sequence_first != view.record_count - 1:
                raise ValueError("the producer's sequences do not fit the number of records")
    if view.attributes & ATTR_BLOCK_OFFSET_SPAN:
        span = loadi64(batch + block_position(view.attributes, ATTR_BLOCK_OFFSET_SPAN))
    if span < view.record_count or view.base_offset < 0 or view.base_offset > INT64_MAX - span:
        raise ValueError("the batch's offsets are out of range")
    view.next_offset = view.base_offset + span
    return 0


def parse_batch(
    bytes data not None, salt, position, str topic not None="", int partition=0, bint verify=True,
    max_body_bytes=MAX_BATCH_BYTES,
):
    """View the batch at the start of `data`, which stood at `position` of a segment file with `salt`.

    For tests and tools. Raises CorruptionError where header, checksum or columns are not valid.
    """
    cdef const uint8_t* batch = <const uint8_t*> PyBytes_AS_STRING(data)
    if not check_batch(batch, PyBytes_GET_SIZE(data), salt, position):
        raise CorruptionError(f"no valid batch header at {position}", position=position)
    try:
        return view_batch(data, batch, topic, partition, verify, max_body_bytes)
    except ValueError as error:
        raise CorruptionError(
            f"batch at {position}: {error}",
            position=position, first_offset=loadi64(batch + BH_BASE_OFFSET),
            next_offset=next_offset_of(batch),
        ) from None
