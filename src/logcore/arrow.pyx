# cython: language_level=3
"""Exports record batches through the Arrow C data interface: keys and values without a copy.

Reads nothing from Arrow; binary_columns.pyx does. Each struct array has the children offset (int64),
timestamp (timestamp[ns, UTC]), key and value (binary). Invariant: every part of an exported array holds its
batch, and so the mapped bytes, until the consumer releases that part, on whatever thread and in any order.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from logcore.batch cimport RecordBatch

from logcore.errors import UnsupportedError

cdef enum:
    CHILDREN = 4
    MOST_BUFFERS = 3

cdef struct array_part_t:                    # what one exported ArrowArray owns
    PyObject* batch
    const void* buffers[MOST_BUFFERS]
    void* made[2]                            # buffers that were made for the export
    ArrowArray* children[CHILDREN]

cdef struct schema_part_t:
    ArrowSchema* children[CHILDREN]

cdef struct stream_part_t:
    PyObject* batches                        # iterator
    PyObject* failure                        # bytes: the last error

cdef const char** CHILD_FORMATS = ["l", "tsn:UTC", "z", "z"]
cdef const char** CHILD_NAMES = ["offset", "timestamp", "key", "value"]


# ---- schema -----------------------------------------------------------------------------------------

cdef void release_schema(ArrowSchema* schema) noexcept nogil:
    cdef schema_part_t* part = <schema_part_t*> schema.private_data
    cdef int i
    for i in range(<int> schema.n_children):
        if part.children[i] is not NULL:
            if part.children[i].release is not NULL:
                part.children[i].release(part.children[i])
            free(part.children[i])
    free(part)
    schema.release = NULL


cdef int fill_schema(ArrowSchema* schema, const char* format, const char* name, int64_t flags) noexcept nogil:
    """A schema without children; 0, or -1 without memory."""
    memset(schema, 0, sizeof(ArrowSchema))
    schema.format = format
    schema.name = name
    schema.flags = flags
    schema.private_data = calloc(1, sizeof(schema_part_t))
    if schema.private_data is NULL:
        return -1
    schema.release = release_schema
    return 0


cdef int fill_batch_schema(ArrowSchema* schema) noexcept nogil:
    """The schema of every exported batch; 0, or -1 without memory."""
    cdef schema_part_t* part
    cdef int i
    if fill_schema(schema, "+s", "", 0) < 0:
        return -1
    part = <schema_part_t*> schema.private_data
    schema.children = part.children
    schema.n_children = CHILDREN
    for i in range(CHILDREN):
        part.children[i] = <ArrowSchema*> calloc(1, sizeof(ArrowSchema))
        if part.children[i] is NULL or fill_schema(
            part.children[i], CHILD_FORMATS[i], CHILD_NAMES[i], ARROW_FLAG_NULLABLE if i >= 2 else 0
        ) < 0:
            release_schema(schema)
            return -1
    return 0


# ---- arrays -----------------------------------------------------------------------------------------

cdef void release_array(ArrowArray* array) noexcept with gil:
    cdef array_part_t* part = <array_part_t*> array.private_data
    cdef int i
    for i in range(<int> array.n_children):
        if part.children[i] is not NULL:
            if part.children[i].release is not NULL:
                part.children[i].release(part.children[i])
            free(part.children[i])
    free(part.made[0])
    free(part.made[1])
    Py_XDECREF(part.batch)
    free(part)
    array.release = NULL


cdef array_part_t* fill_array(ArrowArray* array, RecordBatch batch, int buffers) except NULL:
    """An array of the batch's length that holds the batch; its buffers are all NULL."""
    cdef array_part_t* part = <array_part_t*> calloc(1, sizeof(array_part_t))
    if part is NULL:
        raise MemoryError()
    memset(array, 0, sizeof(ArrowArray))
    Py_INCREF(batch)
    part.batch = <PyObject*> batch
    array.length = batch.record_count
    array.n_buffers = buffers
    array.buffers = part.buffers
    array.private_data = part
    array.release = release_array
    return part


cdef void* made_buffer(array_part_t* part, int which, size_t size) except NULL:
    """A zeroed buffer that belongs to the part."""
    part.made[which] = calloc(max(size, 8), 1)
    if part.made[which] is NULL:
        raise MemoryError()
    return part.made[which]


cdef int fill_offsets(ArrowArray* array, RecordBatch batch) except -1:
    cdef array_part_t* part = fill_array(array, batch, 2)
    cdef int64_t* offsets = <int64_t*> made_buffer(part, 0, batch.record_count * sizeof(int64_t))
    cdef Py_ssize_t i
    for i in range(batch.record_count):
        offsets[i] = batch.offset_at(i)
    part.buffers[1] = offsets
    return 0


cdef int fill_timestamps(ArrowArray* array, RecordBatch batch) except -1:
    cdef array_part_t* part = fill_array(array, batch, 2)
    cdef int64_t* made
    cdef Py_ssize_t i
    part.buffers[1] = batch.columns.timestamps
    if part.buffers[1] is NULL:
        made = <int64_t*> made_buffer(part, 0, batch.record_count * sizeof(int64_t))
        for i in range(batch.record_count):
            made[i] = batch.base_timestamp
        part.buffers[1] = made
    return 0


cdef int fill_bytes(
    ArrowArray* array, RecordBatch batch, const uint8_t* validity, const int32_t* offsets, const uint8_t* data
) except -1:
    """Keys or values; where there is no column all are null."""
    cdef array_part_t* part = fill_array(array, batch, 3)
    part.buffers[0] = validity
    part.buffers[1] = offsets
    part.buffers[2] = data
    array.null_count = 0 if validity is NULL else -1
    if offsets is NULL:
        part.buffers[0] = made_buffer(part, 0, (batch.record_count + 7) >> 3)
        part.buffers[1] = made_buffer(part, 1, (batch.record_count + 1) * sizeof(int32_t))
        part.buffers[2] = part.buffers[1]
        array.null_count = batch.record_count
    return 0


cdef int fill_batch(ArrowArray* array, RecordBatch batch) except -1:
    cdef array_part_t* part = fill_array(array, batch, 1)
    cdef int i
    try:
        for i in range(CHILDREN):
            part.children[i] = <ArrowArray*> calloc(1, sizeof(ArrowArray))
            if part.children[i] is NULL:
                raise MemoryError()
        array.children = part.children
        array.n_children = CHILDREN
        fill_offsets(part.children[0], batch)
        fill_timestamps(part.children[1], batch)
        fill_bytes(
            part.children[2], batch, batch.columns.key_validity, batch.columns.key_offsets, batch.columns.keys
        )
        fill_bytes(
            part.children[3], batch, batch.columns.value_validity, batch.columns.value_offsets,
            batch.columns.values,
        )
    except BaseException:
        array.n_children = CHILDREN
        release_array(array)
        raise
    return 0


# ---- capsules ---------------------------------------------------------------------------------------

cdef void drop_schema(object capsule) noexcept:
    cdef ArrowSchema* schema = <ArrowSchema*> PyCapsule_GetPointer(capsule, "arrow_schema")
    if schema.release is not NULL:
        schema.release(schema)
    free(schema)


cdef void drop_array(object capsule) noexcept:
    cdef ArrowArray* array = <ArrowArray*> PyCapsule_GetPointer(capsule, "arrow_array")
    if array.release is not NULL:
        array.release(array)
    free(array)


cdef void drop_stream(object capsule) noexcept:
    cdef ArrowArrayStream* stream = <ArrowArrayStream*> PyCapsule_GetPointer(capsule, "arrow_array_stream")
    if stream.release is not NULL:
        stream.release(stream)
    free(stream)


cdef object binary_schema():
    cdef ArrowSchema* schema = <ArrowSchema*> calloc(1, sizeof(ArrowSchema))
    if schema is NULL or fill_schema(schema, "z", "", ARROW_FLAG_NULLABLE) < 0:
        free(schema)
        raise MemoryError()
    return PyCapsule_New(schema, "arrow_schema", drop_schema)


cdef object batch_schema():
    cdef ArrowSchema* schema = <ArrowSchema*> calloc(1, sizeof(ArrowSchema))
    if schema is NULL or fill_batch_schema(schema) < 0:
        free(schema)
        raise MemoryError()
    return PyCapsule_New(schema, "arrow_schema", drop_schema)


cdef object export_one(object batch):
    cdef object schema = batch_schema()
    cdef ArrowArray* array = <ArrowArray*> calloc(1, sizeof(ArrowArray))
    if array is NULL:
        raise MemoryError()
    try:
        fill_batch(array, batch)
    except BaseException:
        free(array)
        raise
    return schema, PyCapsule_New(array, "arrow_array", drop_array)


# ---- streams ----------------------------------------------------------------------------------------

cdef int stream_schema(ArrowArrayStream* stream, ArrowSchema* out) noexcept nogil:
    return ENOMEM if fill_batch_schema(out) < 0 else 0


cdef int stream_next(ArrowArrayStream* stream, ArrowArray* out) noexcept with gil:
    cdef stream_part_t* part = <stream_part_t*> stream.private_data
    memset(out, 0, sizeof(ArrowArray))       # release NULL: the end of the stream
    try:
        batch = next(<object> part.batches, None)
        if batch is None:
            return 0
        if not isinstance(batch, RecordBatch):
            raise TypeError(f"a stream of RecordBatch gave a {type(batch).__name__}")
        fill_batch(out, <RecordBatch> batch)
    except BaseException as error:
        keep_failure(part, error)
        return EIO
    return 0


cdef void keep_failure(stream_part_t* part, object error) noexcept:
    said = f"{type(error).__name__}: {error}".encode("utf-8", "replace")
    Py_INCREF(said)
    Py_XDECREF(part.failure)
    part.failure = <PyObject*> said


cdef const char* stream_error(ArrowArrayStream* stream) noexcept with gil:
    cdef stream_part_t* part = <stream_part_t*> stream.private_data
    if part.failure is NULL:
        return NULL
    return PyBytes_AS_STRING(<bytes> part.failure)


cdef void release_stream(ArrowArrayStream* stream) noexcept with gil:
    cdef stream_part_t* part = <stream_part_t*> stream.private_data
    Py_XDECREF(part.batches)
    Py_XDECREF(part.failure)
    free(part)
    stream.release = NULL


def export_array(RecordBatch batch not None):
    """(schema capsule, array capsule) of one RecordBatch."""
    return export_one(batch)


def export_stream(batches):
    """Capsule of a stream of the given RecordBatches (any iterable); they are taken as the stream is read.

    An exception of the iterable ends the stream with its text.
    """
    cdef object iterator = iter(batches)
    cdef ArrowArrayStream* stream = <ArrowArrayStream*> calloc(1, sizeof(ArrowArrayStream))
    cdef stream_part_t* part = <stream_part_t*> calloc(1, sizeof(stream_part_t))
    if stream is NULL or part is NULL:
        free(stream)
        free(part)
        raise MemoryError()
    Py_INCREF(iterator)
    part.batches = <PyObject*> iterator
    stream.private_data = part
    stream.get_schema = stream_schema
    stream.get_next = stream_next
    stream.get_last_error = stream_error
    stream.release = release_stream
    return PyCapsule_New(stream, "arrow_array_stream", drop_stream)


def to_pyarrow(RecordBatch batch not None):
    """pyarrow.RecordBatch that shares keys and values with `batch`; UnsupportedError without pyarrow."""
    try:
        import pyarrow
    except ImportError:
        raise UnsupportedError(
            "to_arrow() needs the package pyarrow: pip install 'pylog-engine[arrow]'"
        ) from None
    return pyarrow.record_batch(batch)
