# cython: language_level=3
"""HeaderFields: the headers of certain names, read from a record in one pass, and packed in one.

Only what is asked for becomes an object. No meaning is given to any name here. Invariant: what it returns is
what `record.headers` has under those names, the last of each where there are several.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcmp, memcpy

from logcore.batch cimport Record, RecordBatch
from logcore.format cimport load16, load32
from logcore.record_headers cimport (
    FIXED_BYTES, PackedHeaders, check_limits, count_headers, header_bytes, packed_headers, put_front,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    MOST_FIELDS = 8
    MOST_DIGITS = 18                     # so that each number fits into int64
    REPR_BYTES = 40


cdef struct fields_t:
    const uint8_t* values[MOST_FIELDS]
    Py_ssize_t sizes[MOST_FIELDS]        # -1: no such header, or a null one


cdef class HeaderFields:
    """Reads and writes the headers of some names: values of `texts` as str, of `numbers` (decimal) as int."""

    cdef tuple names                     # as they stand in a record, the texts first
    cdef list seen                       # of each text the one that was read last: they mostly repeat

    def __init__(self, texts, numbers=()):
        self.names = tuple([name.encode() for name in (*texts, *numbers)])
        self.seen = [""] * len(texts)
        if len(self.names) > MOST_FIELDS:
            raise ValueError(f"{len(self.names)} names, beyond the limit of {MOST_FIELDS}")

    def of(self, Record record not None) -> tuple:
        """What a record has under each name, texts first; None where there is no such header or a null one,
        or a number is empty.

        Raises:
            ValueError: a text is no UTF-8, or a number no decimal one of at most 18 digits.
            CorruptionError: the encoded headers are not what the format says.
        """
        cdef fields_t fields
        cdef Py_ssize_t i, count = len(self.names)
        cdef object value
        cdef tuple found
        self.find(record.batch, record.index, &fields)
        found = PyTuple_New(count)
        for i in range(count):
            value = None
            if fields.sizes[i] >= 0:
                if i < len(self.seen):
                    value = self.text(i, fields.values[i], fields.sizes[i])
                else:
                    value = number(fields.values[i], fields.sizes[i])
            Py_INCREF(value)
            PyTuple_SET_ITEM(found, i, value)
        return found

    def pack_each(self, rows: object, PackedHeaders more=None) -> list:
        """The headers of which of() would say the values of a row, and `more` behind them, for each row.

        A None is left out. As pack(), which says what is refused.
        """
        return [self.packed(row, more) for row in rows]

    def pack(self, tuple values not None, PackedHeaders more=None) -> PackedHeaders:
        """The headers of which of() would say these values, and `more` behind them; a None is left out.

        Args:
            values: A str for each of the texts, then an int for each of the numbers.

        Raises:
            ValueError: not as many values as names, or more headers than a record may have.
            OverflowError: a number below 0 or of more than 18 digits.
            TypeError: neither str nor int in its place. RecordTooLargeError.
        """
        return self.packed(values, more)

    cdef PackedHeaders packed(self, tuple values, PackedHeaders more):
        cdef Py_ssize_t sizes[MOST_FIELDS]
        cdef bytes behind = b"" if more is None else more.data
        cdef Py_ssize_t i, count = 0, size = PyBytes_GET_SIZE(behind)
        cdef bytes name
        cdef uint8_t* at
        if len(values) != len(self.names):
            raise ValueError(f"{len(values)} values for {len(self.names)} names")
        for i in range(len(values)):
            sizes[i] = -1
            if values[i] is None:
                continue
            if i < len(self.seen):
                PyUnicode_AsUTF8AndSize(values[i], &sizes[i])
            else:
                sizes[i] = digits_of(values[i])
            size += FIXED_BYTES + PyBytes_GET_SIZE(<bytes> self.names[i]) + sizes[i]
            count += 1
        check_limits(count + count_headers(<const uint8_t*> PyBytes_AS_STRING(behind), len(behind)), size)
        packed = PyBytes_FromStringAndSize(NULL, size)
        at = <uint8_t*> PyBytes_AS_STRING(packed)
        for i in range(len(values)):
            if sizes[i] < 0:
                continue
            name = <bytes> self.names[i]
            at = put_front(at, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), <int32_t> sizes[i])
            if i < len(self.seen):
                memcpy(at, PyUnicode_AsUTF8AndSize(values[i], NULL), sizes[i])
            else:
                put_digits(at, values[i], sizes[i])
            at += sizes[i]
        memcpy(at, PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind))
        return packed_headers(packed)

    cdef int find(self, RecordBatch batch, Py_ssize_t row, fields_t* fields) except -1:
        cdef const int32_t* at = batch.columns.header_offsets
        cdef const uint8_t* data
        cdef Py_ssize_t left, length, name_bytes, i
        for i in range(len(self.names)):
            fields.sizes[i] = -1
        if at is NULL:
            return 0
        data = batch.columns.headers + at[row]
        left = at[row + 1] - at[row]
        while left > 0:
            length = header_bytes(data, left)
            if length < 0:
                batch.headers_of(row)    # raises: it says what is wrong, and where
                return 0
            name_bytes = load16(data)
            for i in range(len(self.names)):
                if name_bytes == PyBytes_GET_SIZE(<bytes> self.names[i]) and memcmp(
                    data + 2, PyBytes_AS_STRING(<bytes> self.names[i]), name_bytes
                ) == 0:
                    fields.values[i] = data + FIXED_BYTES + name_bytes
                    fields.sizes[i] = <int32_t> load32(data + 2 + name_bytes)
                    break
            data += length
            left -= length
        return 0

    cdef str text(self, Py_ssize_t i, const uint8_t* data, Py_ssize_t size):
        cdef Py_ssize_t seen_bytes = 0
        cdef str seen = <str> self.seen[i]
        cdef const char* seen_data = PyUnicode_AsUTF8AndSize(seen, &seen_bytes)
        if seen_bytes != size or memcmp(seen_data, data, size) != 0:
            seen = PyUnicode_DecodeUTF8(<char*> data, size, NULL)
            self.seen[i] = seen
        return seen


cdef object number(const uint8_t* digits, Py_ssize_t size):
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if size == 0:
        return None
    if size <= MOST_DIGITS:
        for i in range(size):
            if not c'0' <= digits[i] <= c'9':
                break
            value = 10 * value + digits[i] - c'0'
        else:
            return value
    shown = (<const char*> digits)[:min(size, <Py_ssize_t> REPR_BYTES)]
    raise ValueError(f"{shown!r} is no decimal number of at most {<int> MOST_DIGITS} digits")


cdef int digits_of(object number) except -1:
    """How many decimal digits it has."""
    cdef int64_t value, left
    cdef int digits = 1
    if not isinstance(number, int):
        raise TypeError(f"a number is an int, not {type(number).__name__}")
    left = value = number
    while left >= 10:
        left //= 10
        digits += 1
    if value < 0 or digits > MOST_DIGITS:
        raise OverflowError(f"{value} has no decimal form of at most {<int> MOST_DIGITS} digits")
    return digits


cdef void put_digits(uint8_t* at, int64_t value, Py_ssize_t digits) noexcept:
    while digits:
        digits -= 1
        at[digits] = <uint8_t> (c'0' + value % 10)
        value //= 10
