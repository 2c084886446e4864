# cython: language_level=3
"""BatchBuilder: column buffers that become one encoded batch."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.column_buffer cimport column_buffer_t
from logcore.inputs cimport NULL_LENGTH, check_list, item_bytes
from logcore.record_headers cimport encode_headers
from logcore.single_batch cimport STAMP_NOW, encode_single, single_bytes

cdef enum:
    # What the columns beside the data can need for MAX_RECORDS_PER_BATCH records is set aside, so that no
    # column that opens late can push a batch over MAX_BATCH_BYTES.
    MAX_DATA_BYTES = (1 << 30) - (32 << 20)
    EMPTY_BYTES = 80                     # body_bytes without records: paddings and the n + 1st offsets

cdef class BatchBuilder:
    cdef readonly int record_count
    cdef readonly long long body_bytes       # an upper bound of the raw body if finished now
    cdef uint32_t attributes                 # ATTR_* of the columns that are open
    cdef int record_capacity
    cdef int record_bytes                    # what a record adds to body_bytes beside its data
    cdef uint8_t* frame                      # the finished batch ends where the values end
    cdef int64_t reserve                     # room in `frame` for all that stands before the values
    cdef column_buffer_t key
    cdef column_buffer_t value                     # data = frame + reserve
    cdef column_buffer_t header
    cdef int64_t* timestamps
    cdef int64_t* sequences
    cdef int64_t base_timestamp
    cdef int64_t max_timestamp
    cdef int64_t batch_time                  # what STAMP_NOW stands for; STAMP_NOW until somebody asks
    cdef int64_t first_sequence
    cdef int64_t next_sequence               # -1: no sequences
    cdef uint8_t* packed                     # the finished batch where it is compressed
    cdef int64_t packed_capacity
    cdef object compressor
    cdef int compressor_level

    cdef int add(
        self, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value, Py_ssize_t value_bytes,
        const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp, int64_t sequence,
    ) except -1
    # one record; NULL_LENGTH says null; headers already encoded (encode_headers); sequence -1: none.
    # RecordTooLargeError, ValueError: the builder is as it was

    cdef Py_ssize_t add_list(
        self, object values, object keys, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t budget
    ) except -1
    # records [start, stop) of a list or tuple of bytes | None (keys: the same, or None) until body_bytes
    # reaches `budget` or the batch is full of records; how many were taken, at least one. The caller has
    # checked types (check_list) and indices: where a TypeError comes from here, those before it are in

    cdef uint8_t* finish(
        self, int codec, int level, uint64_t producer_id, uint32_t producer_epoch, bint has_producer,
        uint32_t* length,
    ) except NULL
    # the encoded batch in the builder's own memory, valid until the next call: header complete but for base
    # offset, epoch, synced offset and checksum, which batch_header.seal_batch_header() fills in under the
    # append lock. The records stay: after a failed append it may be finished again, with more records or not

    cdef void reset(self) noexcept           # no records; buffers are kept for the next batch, unless huge

    cdef void add_to_rare_columns(
        self, int n, bint has_key, bint has_value, const uint8_t* headers, Py_ssize_t headers_bytes,
        int64_t timestamp, int64_t sequence,
    ) noexcept nogil
    cdef int take_sequence(self, int64_t sequence) except -1
    cdef int make_room(self, int64_t key_bytes, int64_t value_bytes, int64_t headers_bytes) except -1
    cdef int grow_records(self, int64_t wanted) except -1
    cdef int grow_values(self, int64_t needed, int64_t reserve) except -1
    cdef int open_offsets(self, column_buffer_t* column, uint32_t attribute) except -1
    cdef int open_keys(self) except -1
    cdef int open_validity(self, column_buffer_t* column, uint32_t attribute, bint valid_so_far) except -1
    cdef int open_timestamps(self) except -1
    cdef uint32_t prefix_bytes(self) noexcept nogil
    cdef void write_columns(self, uint8_t* body) noexcept nogil
    cdef void write_header(
        self, uint8_t* batch, uint32_t attributes, uint32_t raw, uint64_t producer_id, uint32_t producer_epoch
    ) noexcept nogil
    cdef uint8_t* compress(self, uint8_t* batch, uint32_t front, uint32_t* length, int level) except NULL
