# cython: language_level=3
"""Moves whole columns of Arrow's Binary layout into a BatchBuilder with one copy of their bytes.

Invariant: offsets are checked before anything is copied by them.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from logcore.builder cimport MAX_DATA_BYTES, BatchBuilder
from logcore.column_buffer cimport append_rows, grow_data
from logcore.format cimport ATTR_KEYS, MAX_RECORDS_PER_BATCH
from logcore.inputs cimport NULL_LENGTH, binary_column_t, offsets_fall, row_bytes, rows_within
from logcore.single_batch cimport STAMP_NOW


cdef Py_ssize_t add_columns(
    BatchBuilder builder, const binary_column_t* values, const binary_column_t* keys, Py_ssize_t start,
    Py_ssize_t stop, Py_ssize_t budget,
) except -1:
    cdef Py_ssize_t count, taken = 0
    cdef uint32_t wanted = ATTR_KEYS if keys is not NULL else 0
    if builder.record_count == 0 and start < stop:
        taken = add_rows(builder, values, keys, start, start + 1, budget)      # the first opens the columns
        if builder.body_bytes >= budget:
            return taken
    if (
        values.validity is not NULL or (keys is not NULL and keys.validity is not NULL)
        or builder.attributes != wanted or builder.next_sequence >= 0
        or builder.batch_time != builder.base_timestamp
    ):
        return taken + add_rows(builder, values, keys, start + taken, stop, budget)
    start += taken
    count = rows_within(
        values, keys, start, min(stop - start, MAX_RECORDS_PER_BATCH - builder.record_count),
        min(budget, MAX_DATA_BYTES) - builder.body_bytes,
    )
    if count == 0:
        return taken if taken or start == stop else add_rows(builder, values, keys, start, start + 1, budget)
    if builder.record_count + count > builder.record_capacity:
        builder.grow_records(builder.record_count + count)
    copy_rows(builder, values, keys, start, count)
    return taken + count


cdef Py_ssize_t add_rows(
    BatchBuilder builder, const binary_column_t* values, const binary_column_t* keys, Py_ssize_t start,
    Py_ssize_t stop, Py_ssize_t budget,
) except -1:
    """The slow way of add_columns(): any columns, any nulls."""
    cdef const uint8_t* key = NULL
    cdef const uint8_t* value = NULL
    cdef Py_ssize_t key_bytes = NULL_LENGTH, value_bytes = 0
    cdef Py_ssize_t i
    for i in range(start, stop):
        row_bytes(values, i, &value, &value_bytes)
        if keys is not NULL:
            row_bytes(keys, i, &key, &key_bytes)
        builder.add(key, key_bytes, value, value_bytes, NULL, 0, STAMP_NOW, -1)
        if builder.body_bytes >= budget or builder.record_count == MAX_RECORDS_PER_BATCH:
            return i + 1 - start
    return stop - start


cdef int copy_rows(
    BatchBuilder builder, const binary_column_t* values, const binary_column_t* keys, Py_ssize_t start,
    Py_ssize_t count,
) except -1:
    cdef int64_t value_size = <int64_t> values.offsets[start + count] - values.offsets[start]
    cdef int64_t key_size = 0
    cdef int n = builder.record_count
    if offsets_fall(values.offsets + start, count):
        raise ValueError("the offsets of a column fall")
    if keys is not NULL and offsets_fall(keys.offsets + start, count):
        raise ValueError("the offsets of a column fall")
    if value_size > builder.value.capacity - builder.value.used:
        builder.grow_values(builder.value.used + value_size, builder.reserve)
    if keys is not NULL:
        key_size = <int64_t> keys.offsets[start + count] - keys.offsets[start]
        grow_data(&builder.key, key_size)
        append_rows(&builder.key, n, keys, start, count)
    append_rows(&builder.value, n, values, start, count)
    builder.record_count += <int> count
    builder.body_bytes += value_size + key_size + count * builder.record_bytes
    return 0
