# cython: language_level=3
"""Predicates on key and headers, answered from a batch's columns before a record object exists.

No expression is parsed here and no value is looked at: what cannot be said from key and headers is MAYBE, by
Kleene's logic. Invariant: YES and NO are what the same predicate says of the record itself.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcmp

from logcore.batch cimport Record, RecordBatch
from logcore.columns cimport bit_at
from logcore.format cimport load16, load32
from logcore.record_headers cimport FIXED_BYTES, header_bytes

cdef enum:
    MAX_COMPARED = 8                     # more values than this are looked up in a set


cdef class Matcher:
    """The predicate that key and headers cannot answer; the others are its subclasses."""

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        return MAYBE

    def match(self, Record record not None):
        """True or False, or None where key and headers do not tell."""
        cdef int found = self.answer(record.batch, record.index)
        return None if found == MAYBE else found == YES

    def rows(self, RecordBatch batch not None):
        """Numbers of the rows that match or may match."""
        cdef list found = []
        cdef Py_ssize_t row
        for row in range(batch.record_count):
            if self.answer(batch, row) != NO:
                found.append(row)
        return found


cdef bint one_of(tuple values, frozenset found, const uint8_t* data, Py_ssize_t size) except -1:
    """Return whether the bytes are one of the values; `found` is None where they are few."""
    cdef bytes value
    if found is not None:
        return (<const char*> data)[:size] in found
    for value in values:
        if PyBytes_GET_SIZE(value) == size and memcmp(PyBytes_AS_STRING(value), data, size) == 0:
            return True
    return False


cdef class KeyIn(Matcher):
    """The key is one of these; None among them stands for no key."""

    cdef tuple values
    cdef frozenset found
    cdef bint null

    def __init__(self, values):
        self.null = None in values
        self.values = tuple(value for value in values if value is not None)
        self.found = frozenset(self.values) if len(self.values) > MAX_COMPARED else None

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        cdef const int32_t* at = batch.columns.key_offsets
        cdef const uint8_t* validity = batch.columns.key_validity
        if at is NULL or (validity is not NULL and not bit_at(validity, row)):
            return YES if self.null else NO
        return YES if one_of(
            self.values, self.found, batch.columns.keys + at[row], at[row + 1] - at[row]
        ) else NO


cdef class KeyStarts(Matcher):
    """There is a key, and it starts with these bytes."""

    cdef bytes prefix

    def __init__(self, bytes prefix not None):
        self.prefix = prefix

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        cdef const int32_t* at = batch.columns.key_offsets
        cdef const uint8_t* validity = batch.columns.key_validity
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.prefix)
        if at is NULL or (validity is not NULL and not bit_at(validity, row)):
            return NO
        if at[row + 1] - at[row] < size:
            return NO
        return YES if memcmp(batch.columns.keys + at[row], PyBytes_AS_STRING(self.prefix), size) == 0 else NO


cdef class Header(Matcher):
    """There is a header of that name; the subclasses say with which value."""

    cdef bytes name

    def __init__(self, str name not None):
        self.name = name.encode()

    cdef bint fits(self, const uint8_t* value, Py_ssize_t size) except -1:
        """Return whether the value will do; a size of -1 stands for None."""
        return True

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        cdef const int32_t* at = batch.columns.header_offsets
        cdef const uint8_t* data
        cdef Py_ssize_t left, length, name_bytes
        cdef Py_ssize_t wanted = PyBytes_GET_SIZE(self.name)
        if at is NULL:
            return NO
        data = batch.columns.headers + at[row]
        left = at[row + 1] - at[row]
        while left > 0:
            length = header_bytes(data, left)
            if length < 0:
                return MAYBE                 # the record says what is wrong with it
            name_bytes = load16(data)
            if name_bytes == wanted and memcmp(data + 2, PyBytes_AS_STRING(self.name), wanted) == 0:
                if self.fits(data + FIXED_BYTES + name_bytes, <int32_t> load32(data + 2 + name_bytes)):
                    return YES
            data += length
            left -= length
        return NO


cdef class HeaderIn(Header):
    """A header of that name has one of these values, of which one may be None."""

    cdef tuple values
    cdef frozenset found
    cdef bint null

    def __init__(self, str name not None, values):
        Header.__init__(self, name)
        self.null = None in values
        self.values = tuple(value for value in values if value is not None)
        self.found = frozenset(self.values) if len(self.values) > MAX_COMPARED else None

    cdef bint fits(self, const uint8_t* value, Py_ssize_t size) except -1:
        return self.null if size < 0 else one_of(self.values, self.found, value, size)


cdef class HeaderStarts(Header):
    """A header of that name has a value that starts with these bytes."""

    cdef bytes prefix

    def __init__(self, str name not None, bytes prefix not None):
        Header.__init__(self, name)
        self.prefix = prefix

    cdef bint fits(self, const uint8_t* value, Py_ssize_t size) except -1:
        cdef Py_ssize_t wanted = PyBytes_GET_SIZE(self.prefix)
        return size >= wanted and memcmp(value, PyBytes_AS_STRING(self.prefix), wanted) == 0


cdef class AllOf(Matcher):
    """All of these match."""

    cdef tuple parts

    def __init__(self, parts):
        self.parts = tuple(parts)

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        cdef int least = YES, found
        cdef Matcher part
        for part in self.parts:
            found = part.answer(batch, row)
            if found < least:
                if found == NO:
                    return NO
                least = found
        return least


cdef class AnyOf(Matcher):
    """One of these matches."""

    cdef tuple parts

    def __init__(self, parts):
        self.parts = tuple(parts)

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        cdef int most = NO, found
        cdef Matcher part
        for part in self.parts:
            found = part.answer(batch, row)
            if found > most:
                if found == YES:
                    return YES
                most = found
        return most


cdef class Not(Matcher):
    """The opposite of another one."""

    cdef Matcher part

    def __init__(self, Matcher part not None):
        self.part = part

    cdef int answer(self, RecordBatch batch, Py_ssize_t row) except -1:
        return YES - self.part.answer(batch, row)
