# cython: language_level=3
"""Takes columns of bytes as numpy and Arrow have them, and hands their rows to a BatchBuilder.

Values and keys may come in chunks of different lengths. Invariant: a column from buffers is checked against
their sizes when it is taken; one from Arrow states no sizes, so its offsets are only checked to rise.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
)
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from logcore.arrow cimport ArrowArray, ArrowArrayStream, ArrowSchema, binary_schema
from logcore.builder cimport BatchBuilder
from logcore.column_input cimport add_columns
from logcore.inputs cimport NULL_LENGTH, binary_column_t, offsets_fall, row_bytes


@cython.final
@cython.auto_pickle(False)
cdef class BinaryColumn:
    """Rows of bytes, and what keeps them alive."""

    def __dealloc__(self):
        if self.array.release is not NULL:
            self.array.release(&self.array)
        PyBuffer_Release(&self.offsets_buffer)       # nothing where none was taken
        PyBuffer_Release(&self.data_buffer)
        free(self.made_offsets)


# ---- from Arrow ---------------------------------------------------------------------------------------

cdef BinaryColumn column_of_array(ArrowSchema* schema, ArrowArray* array, str what):
    """Take over `array`, one chunk of a column of the given type."""
    cdef BinaryColumn column = BinaryColumn.__new__(BinaryColumn)
    cdef bytes format = schema.format
    if format not in (b"z", b"Z"):
        raise TypeError(
            f"{what}: an Arrow column of binary is needed, not one of format {format!r}"
        )
    column.array = array[0]
    array.release = NULL
    if array.length < 0 or array.offset < 0 or array.n_buffers != 3:
        raise ValueError(f"{what}: the Arrow array is no valid column of binary")
    column.length = array.length
    if array.length == 0:
        return column
    if array.buffers[1] is NULL:
        raise ValueError(f"{what}: the Arrow array has no offsets")
    column.rows.data = <const uint8_t*> array.buffers[2]
    column.rows.first_bit = array.offset
    if has_null(array):
        column.rows.validity = <const uint8_t*> array.buffers[0]
    if format == b"z":
        column.rows.offsets = <const int32_t*> array.buffers[1] + array.offset
    else:
        take_long_offsets(column, <const int64_t*> array.buffers[1] + array.offset, what)
    return column


cdef bint has_null(ArrowArray* array) noexcept nogil:
    cdef const uint8_t* validity = <const uint8_t*> array.buffers[0]
    cdef int64_t bit
    if validity is NULL or array.null_count == 0:
        return False
    for bit in range(array.offset, array.offset + array.length):
        if not validity[bit >> 3] >> (bit & 7) & 1:
            return True
    return False


cdef int take_long_offsets(BinaryColumn column, const int64_t* offsets, str what) except -1:
    """Make int32 offsets of int64 ones; the data then begins where the first row does."""
    cdef Py_ssize_t i
    if offsets[0] < 0 or long_offsets_fall(offsets, column.length):
        raise ValueError(f"{what}: the offsets fall")
    if offsets[column.length] - offsets[0] > INT32_MAX:
        raise ValueError(f"{what}: a column of 2 GiB or more is appended in pieces: slice it")
    column.made_offsets = <int32_t*> malloc((column.length + 1) * sizeof(int32_t))
    if column.made_offsets is NULL:
        raise MemoryError()
    for i in range(column.length + 1):
        column.made_offsets[i] = <int32_t> (offsets[i] - offsets[0])
    column.rows.offsets = column.made_offsets
    column.rows.data += offsets[0]
    return 0


cdef bint long_offsets_fall(const int64_t* offsets, Py_ssize_t count) noexcept nogil:
    cdef bint bad = False
    cdef Py_ssize_t i
    for i in range(count):
        bad |= offsets[i + 1] < offsets[i]
    return bad


cdef list chunks_of_stream(object column, str what):
    cdef object capsule = column.__arrow_c_stream__(binary_schema())
    cdef ArrowArrayStream* stream = <ArrowArrayStream*> PyCapsule_GetPointer(capsule, "arrow_array_stream")
    cdef ArrowSchema schema
    cdef ArrowArray array
    cdef list chunks = []
    memset(&schema, 0, sizeof(schema))
    if stream.get_schema(stream, &schema) != 0:
        raise stream_failure(stream, what)
    try:
        while True:
            memset(&array, 0, sizeof(array))
            if stream.get_next(stream, &array) != 0:
                raise stream_failure(stream, what)
            if array.release is NULL:
                return chunks
            try:
                chunks.append(column_of_array(&schema, &array, what))
            finally:
                if array.release is not NULL:
                    array.release(&array)
    finally:
        if schema.release is not NULL:
            schema.release(&schema)


cdef object stream_failure(ArrowArrayStream* stream, str what):
    cdef const char* said = stream.get_last_error(stream)
    text = "no reason given" if said is NULL else (<bytes> said).decode("utf-8", "replace")
    return ValueError(f"{what}: the Arrow stream failed: {text}")


cdef BinaryColumn column_of_arrow(object column, str what):
    cdef object schema, array
    schema, array = column.__arrow_c_array__(binary_schema())
    return column_of_array(
        <ArrowSchema*> PyCapsule_GetPointer(schema, "arrow_schema"),
        <ArrowArray*> PyCapsule_GetPointer(array, "arrow_array"), what,
    )


# ---- from buffers -------------------------------------------------------------------------------------

cdef BinaryColumn column_of_pair(object offsets, object data, str what):
    """(offsets, bytes): row i is bytes[offsets[i]:offsets[i + 1]]."""
    cdef BinaryColumn column = BinaryColumn.__new__(BinaryColumn)
    cdef Py_ssize_t last
    get_buffer(offsets, &column.offsets_buffer, what)
    get_buffer(data, &column.data_buffer, what)
    if (
        column.offsets_buffer.ndim != 1 or column.offsets_buffer.format is NULL
        or bytes(column.offsets_buffer.format) not in (b"i", b"l", b"q")
        or column.offsets_buffer.shape[0] == 0
    ):
        raise TypeError(f"{what}: the offsets are int32 or int64, one more than there are rows")
    if column.data_buffer.ndim != 1 or column.data_buffer.itemsize != 1:
        raise TypeError(f"{what}: the bytes are an array of uint8")
    column.length = column.offsets_buffer.shape[0] - 1
    column.rows.data = <const uint8_t*> column.data_buffer.buf
    if column.offsets_buffer.itemsize == sizeof(int64_t):
        last = (<const int64_t*> column.offsets_buffer.buf)[column.length]
    else:
        last = (<const int32_t*> column.offsets_buffer.buf)[column.length]
    if last > column.data_buffer.len:
        raise ValueError(f"{what}: the offsets end at {last} of {column.data_buffer.len} bytes")
    if column.offsets_buffer.itemsize == sizeof(int64_t):
        take_long_offsets(column, <const int64_t*> column.offsets_buffer.buf, what)
    else:
        column.rows.offsets = <const int32_t*> column.offsets_buffer.buf
        if offsets_fall(column.rows.offsets, column.length):
            raise ValueError(f"{what}: the offsets fall")
    return column


cdef BinaryColumn column_of_rows(object rows, str what):
    """A 2-D array of bytes: each row is a value."""
    cdef BinaryColumn column = BinaryColumn.__new__(BinaryColumn)
    cdef Py_ssize_t i, width
    get_buffer(rows, &column.data_buffer, what)
    if column.data_buffer.ndim != 2 or column.data_buffer.itemsize != 1:
        raise TypeError(f"{what}: an array is 2-D and of uint8, a record a row")
    if column.data_buffer.len > INT32_MAX:
        raise ValueError(f"{what}: a column of 2 GiB or more is appended in pieces: slice it")
    column.length = column.data_buffer.shape[0]
    width = column.data_buffer.shape[1]
    column.made_offsets = <int32_t*> malloc((column.length + 1) * sizeof(int32_t))
    if column.made_offsets is NULL:
        raise MemoryError()
    for i in range(column.length + 1):
        column.made_offsets[i] = <int32_t> (i * width)
    column.rows.offsets = column.made_offsets
    column.rows.data = <const uint8_t*> column.data_buffer.buf
    return column


cdef int get_buffer(object array, Py_buffer* buffer, str what) except -1:
    if not PyObject_CheckBuffer(array):
        raise TypeError(f"{what}: an array is needed, not {type(array).__name__}")
    try:
        PyObject_GetBuffer(array, buffer, PyBUF_C_CONTIGUOUS | PyBUF_ND | PyBUF_FORMAT)
    except (BufferError, ValueError) as error:
        raise TypeError(f"{what}: the array is not contiguous: {error}") from None
    return 0


# ---- the columns of the records -------------------------------------------------------------------------

cdef bint is_columns(object values) except -1:
    if isinstance(values, (list, bytes, str)):
        return False
    if isinstance(values, tuple):
        return len(values) == 2 and not isinstance(values[0], bytes) and PyObject_CheckBuffer(values[0])
    return hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__") or (
        PyObject_CheckBuffer(values) and getattr(values, "ndim", 1) == 2
    )


cdef list chunks_of(object column, str what):
    if not is_columns(column):
        raise TypeError(
            f"{what}: an Arrow column of binary, a pair (offsets, bytes) or a 2-D array of bytes is needed, "
            f"not {type(column).__name__}"
        )
    if isinstance(column, tuple):
        return [column_of_pair(column[0], column[1], what)]
    if not hasattr(column, "__arrow_c_array__") and not hasattr(column, "__arrow_c_stream__"):
        return [column_of_rows(column, what)]
    try:
        if hasattr(column, "__arrow_c_array__"):
            return [column_of_arrow(column, what)]
        return chunks_of_stream(column, what)
    except (TypeError, ValueError, MemoryError):
        raise
    except Exception as error:           # what the exporter raises when it cannot give binary
        raise TypeError(f"{what}: the Arrow column cannot be had as binary: {error}") from error


cdef Py_ssize_t rows_of(list chunks) except -1:
    cdef Py_ssize_t count = 0
    cdef BinaryColumn chunk
    for chunk in chunks:
        count += chunk.length
    return count


cdef RecordColumns record_columns(object values, object keys):
    cdef RecordColumns columns = RecordColumns.__new__(RecordColumns)
    columns.values = chunks_of(values, "values")
    columns.count = rows_of(columns.values)
    if keys is not None:
        columns.keys = chunks_of(keys, "keys")
        if rows_of(columns.keys) != columns.count:
            raise ValueError(f"{columns.count} values and {rows_of(columns.keys)} keys: one key a value")
    return columns


cdef void skip_rows(
    binary_column_t* out, const binary_column_t* rows, Py_ssize_t count
) noexcept nogil:
    out.offsets = rows.offsets + count
    out.data = rows.data
    out.validity = rows.validity
    out.first_bit = rows.first_bit + count


cdef int64_t largest_of(const int32_t* values, const int32_t* keys, Py_ssize_t count) noexcept nogil:
    """Most bytes of a record; the offsets do not fall."""
    cdef int32_t most = 0
    cdef Py_ssize_t i
    if keys is NULL:
        for i in range(count):
            most = max(most, values[i + 1] - values[i])
        return most
    if values[count] - values[0] > INT32_MAX - (keys[count] - keys[0]):
        return largest_of(values, NULL, count) + largest_of(keys, NULL, count)
    for i in range(count):
        most = max(most, values[i + 1] - values[i] + keys[i + 1] - keys[i])
    return most


@cython.final
@cython.auto_pickle(False)
cdef class RecordColumns:
    """Values and keys of the same records, a column each."""

    def __len__(self):
        return self.count

    cdef int seek(self, Py_ssize_t i) except -1:
        """Make the current chunks those of record i, which is there."""
        if i < self.value_start or i < self.key_start:
            self.value_chunk = self.key_chunk = 0
            self.value_start = self.key_start = 0
        while i >= self.value_start + (<BinaryColumn> self.values[self.value_chunk]).length:
            self.value_start += (<BinaryColumn> self.values[self.value_chunk]).length
            self.value_chunk += 1
        if self.keys is not None:
            while i >= self.key_start + (<BinaryColumn> self.keys[self.key_chunk]).length:
                self.key_start += (<BinaryColumn> self.keys[self.key_chunk]).length
                self.key_chunk += 1
        return 0

    cdef Py_ssize_t stretch(self, Py_ssize_t i, binary_column_t* values, binary_column_t* keys) except -1:
        """Columns whose rows 0, 1, ... are the records from i on; how many there are before a chunk ends."""
        cdef BinaryColumn column
        cdef Py_ssize_t count
        self.seek(i)
        column = <BinaryColumn> self.values[self.value_chunk]
        skip_rows(values, &column.rows, i - self.value_start)
        count = self.value_start + column.length - i
        if self.keys is not None:
            column = <BinaryColumn> self.keys[self.key_chunk]
            skip_rows(keys, &column.rows, i - self.key_start)
            count = min(count, self.key_start + column.length - i)
        return count

    cdef Py_ssize_t add(self, BatchBuilder builder, Py_ssize_t start, Py_ssize_t budget) except -1:
        cdef binary_column_t values, keys
        cdef Py_ssize_t at = start, count, taken
        while at < self.count:
            count = self.stretch(at, &values, &keys)
            taken = add_columns(builder, &values, NULL if self.keys is None else &keys, 0, count, budget)
            at += taken
            if taken < count or builder.body_bytes >= budget:
                break
        return at - start

    cdef int record(
        self, Py_ssize_t i, const uint8_t** key, Py_ssize_t* key_bytes, const uint8_t** value,
        Py_ssize_t* value_bytes,
    ) except -1:
        cdef BinaryColumn column
        self.seek(i)
        column = <BinaryColumn> self.values[self.value_chunk]
        row_bytes(&column.rows, i - self.value_start, value, value_bytes)
        if self.keys is None:
            key_bytes[0] = NULL_LENGTH
            return 0
        column = <BinaryColumn> self.keys[self.key_chunk]
        row_bytes(&column.rows, i - self.key_start, key, key_bytes)
        return 0

    cdef int64_t largest(self) except -1:
        cdef binary_column_t values, keys
        cdef const int32_t* key_offsets
        cdef Py_ssize_t at = 0, count
        cdef int64_t most = 0
        while at < self.count:
            count = self.stretch(at, &values, &keys)
            if offsets_fall(values.offsets, count):
                raise ValueError("the offsets of a column fall")
            key_offsets = NULL
            if self.keys is not None:
                key_offsets = keys.offsets
            if key_offsets is not NULL and offsets_fall(key_offsets, count):
                raise ValueError("the offsets of a column fall")
            most = max(most, largest_of(values.offsets, key_offsets, count))
            at += count
        return most


def add_to_builder(
    BatchBuilder builder not None, values, keys=None, Py_ssize_t start=0, Py_ssize_t budget=1 << 29
):
    """Add rows of columns from `start` until body_bytes reaches `budget`; return how many. For tests."""
    cdef RecordColumns columns = record_columns(values, keys)
    if not 0 <= start <= columns.count:
        raise IndexError(f"{start} is outside of {columns.count} rows")
    columns.largest()
    return columns.add(builder, start, budget)
