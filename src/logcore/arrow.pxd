# cython: language_level=3
"""The structs of the Arrow C data and stream interfaces, as arrow.apache.org documents them."""

from libc.stdint cimport int64_t

cdef enum:
    ARROW_FLAG_NULLABLE = 2

cdef struct ArrowSchema:
    const char* format
    const char* name
    const char* metadata
    int64_t flags
    int64_t n_children
    ArrowSchema** children
    ArrowSchema* dictionary
    void (*release)(ArrowSchema* schema) noexcept nogil
    void* private_data

cdef struct ArrowArray:
    int64_t length
    int64_t null_count                       # -1: not counted
    int64_t offset
    int64_t n_buffers
    int64_t n_children
    const void** buffers
    ArrowArray** children
    ArrowArray* dictionary
    void (*release)(ArrowArray* array) noexcept nogil
    void* private_data

cdef struct ArrowArrayStream:
    int (*get_schema)(ArrowArrayStream* stream, ArrowSchema* out) noexcept nogil
    int (*get_next)(ArrowArrayStream* stream, ArrowArray* out) noexcept nogil
    const char* (*get_last_error)(ArrowArrayStream* stream) noexcept nogil
    void (*release)(ArrowArrayStream* stream) noexcept nogil
    void* private_data

cdef object binary_schema()
# capsule of a schema that says "nullable binary", to ask others for it

cdef object export_one(object batch)
# (schema capsule, array capsule) of a RecordBatch
