# cython: language_level=3
"""Encodes a batch of one record straight into its place, with no builder and no GIL.

Invariant: the bytes are those that a BatchBuilder with this one record would give.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from logcore.batch_header cimport seal_batch_header
from logcore.column_buffer cimport put_column
from logcore.format cimport *
from logcore.hashing cimport xxh3
from logcore.inputs cimport item_bytes
from logcore.record_headers cimport encode_headers

from logcore.errors import RecordTooLargeError


cdef int64_t wall_clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t> now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef uint32_t single_bytes(
    bint has_key, Py_ssize_t key_bytes, Py_ssize_t value_bytes, Py_ssize_t headers_bytes
) noexcept nogil:
    cdef uint64_t size = BATCH_HEADER_BYTES + 8 + align8(max(value_bytes, 0))
    if key_bytes > MAX_BATCH_BYTES or value_bytes > MAX_BATCH_BYTES or headers_bytes > MAX_BATCH_BYTES:
        return 0
    if has_key:
        size += 8 + align8(max(key_bytes, 0))
    if value_bytes < 0:
        size += 8
    if headers_bytes:
        size += 8 + align8(headers_bytes)
    return <uint32_t> size if size <= MAX_BATCH_BYTES else 0


cdef inline uint8_t* put_single(uint8_t* at, const uint8_t* data, int64_t size) noexcept nogil:
    store32(at, 0)
    store32(at + 4, <uint32_t> size)
    return put_column(at + 8, data, size) if size else at + 8


cdef void encode_single(
    uint8_t* out, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value, Py_ssize_t value_bytes,
    const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp,
) noexcept nogil:
    cdef uint32_t attributes = 0
    cdef uint8_t* body = out + BATCH_HEADER_BYTES
    cdef uint8_t* at = body
    cdef uint32_t raw
    if value_bytes < 0:
        attributes |= ATTR_VALUE_NULLS
        store64(at, 0)
        at += 8
    if key_bytes >= 0:
        attributes |= ATTR_KEYS
        at = put_single(at, key, key_bytes)
    if headers_bytes:
        attributes |= ATTR_HEADERS
        at = put_single(at, headers, headers_bytes)
    at = put_single(at, value, max(value_bytes, 0))
    raw = <uint32_t> (at - body)
    store32(out, BATCH_MAGIC)
    store32(out + BH_TOTAL_LENGTH, BATCH_HEADER_BYTES + raw)
    storei64(out + BH_BASE_OFFSET, 0)
    store32(out + BH_RECORD_COUNT, 1)
    store32(out + BH_ATTRIBUTES, attributes)
    store32(out + BH_EPOCH, 0)
    store32(out + BH_RAW_BODY_BYTES, raw)
    storei64(out + BH_BASE_TIMESTAMP, wall_clock() if timestamp == STAMP_NOW else timestamp)
    storei64(out + BH_SYNCED_OFFSET, 0)
    store64(out + BH_BODY_CHECKSUM, xxh3(body, raw))


def encode_one(
    key, value, headers=None, timestamp=None, unsigned long long salt=0, unsigned long long position=0
):
    """A batch of one record by the way of single appends, sealed at offset 0; for tests."""
    cdef const uint8_t* key_at = NULL
    cdef const uint8_t* value_at = NULL
    cdef Py_ssize_t key_bytes = 0, value_bytes = 0
    cdef bytes encoded = encode_headers(headers), batch
    cdef uint32_t length
    cdef uint8_t* out
    item_bytes(<PyObject*> key, &key_at, &key_bytes)
    item_bytes(<PyObject*> value, &value_at, &value_bytes)
    length = single_bytes(key_bytes >= 0, key_bytes, value_bytes, PyBytes_GET_SIZE(encoded))
    if length == 0:
        raise RecordTooLargeError("the record is beyond the limit of a batch", limit=MAX_BATCH_BYTES)
    batch = PyBytes_FromStringAndSize(NULL, length)
    out = <uint8_t*> PyBytes_AS_STRING(batch)
    encode_single(
        out, key_at, key_bytes, value_at, value_bytes, <const uint8_t*> PyBytes_AS_STRING(encoded),
        PyBytes_GET_SIZE(encoded), STAMP_NOW if timestamp is None else timestamp,
    )
    seal_batch_header(out, 0, 0, 0, salt, position)
    return batch
