# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The ceilings of writing and reading: the least that any log must do, and nothing more.

A row is key length, value length (u32 each), XXH3 of key and value (u64), key, value. No locks, no
batches, no recovery, no offsets for anybody else: what a log costs beyond this is what pylog is measured by.
Files are allocated before the clock starts, so writers pay the first touch of a page and no more.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

import numpy
from xxhash import _xxhash

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    int RTLD_NOW

cdef extern from "fcntl.h" nogil:
    int open(const char* path, int flags, int mode)
    int posix_fallocate(int fd, int64_t offset, int64_t size)
    int O_RDWR
    int O_CREAT

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef extern from "sys/mman.h" nogil:
    void* mmap(void* address, size_t size, int protection, int flags, int fd, int64_t offset)
    int munmap(void* address, size_t size)
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    void* MAP_FAILED

cdef extern from "Python.h":
    ctypedef struct Py_buffer:
        void* buf
        Py_ssize_t len
    int PyObject_GetBuffer(object source, Py_buffer* view, int flags) except -1
    void PyBuffer_Release(Py_buffer* view)
    int PyBUF_SIMPLE

ctypedef uint64_t (*hash_function)(const void* data, size_t size) noexcept nogil

cdef enum:
    ROW_HEADER = 16


cdef hash_function find_xxh3() except NULL:
    """Take XXH3 at C speed from the extension module of the xxhash package."""
    cdef bytes path = _xxhash.__file__.encode()
    cdef void* handle = dlopen(path, RTLD_NOW)
    cdef void* found = NULL
    if handle is not NULL:
        found = dlsym(handle, b"XXH3_64bits_dispatch")
        if found is NULL:
            found = dlsym(handle, b"XXH3_64bits")
    if found is NULL:
        raise ImportError("this build of xxhash exports no XXH3_64bits: the ceilings cannot be measured")
    return <hash_function> found


cdef hash_function xxh3 = find_xxh3()


cdef inline uint32_t hash_key(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """FNV-1a over 4-byte steps: as cheap a key hash as chooses a partition decently."""
    cdef uint32_t h = 2166136261
    cdef uint32_t word
    while size >= 4:
        memcpy(&word, data, 4)
        h = (h ^ word) * 16777619
        data += 4
        size -= 4
    while size > 0:
        h = (h ^ data[0]) * 16777619
        data += 1
        size -= 1
    return h ^ (h >> 15)


cdef class FreshFile:
    """A new file of `size` bytes, allocated and mapped for writing; `tail` is the next free byte."""
    cdef uint8_t* base
    cdef size_t size
    cdef size_t tail
    cdef int fd

    def __cinit__(self, str path, size_t size):
        cdef bytes encoded = path.encode()
        cdef void* mapped
        self.fd = open(encoded, O_RDWR | O_CREAT, 0o600)
        if self.fd < 0 or posix_fallocate(self.fd, 0, size):
            raise OSError(f"cannot allocate {size} bytes at {path}")
        mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if mapped == MAP_FAILED:
            raise MemoryError(f"cannot map {path}")
        self.base = <uint8_t*> mapped
        self.size = size

    cdef int put_row(self, bytes key, bytes value) except -1:
        """Copy one row to the tail, with its checksum."""
        cdef size_t key_size = PyBytes_GET_SIZE(key)
        cdef size_t value_size = PyBytes_GET_SIZE(value)
        cdef uint8_t* row = self.base + self.tail
        cdef uint64_t checksum
        if self.tail + ROW_HEADER + key_size + value_size > self.size:
            raise MemoryError("the probe's file is full")
        (<uint32_t*> row)[0] = <uint32_t> key_size
        (<uint32_t*> row)[1] = <uint32_t> value_size
        memcpy(row + ROW_HEADER, PyBytes_AS_STRING(key), key_size)
        memcpy(row + ROW_HEADER + key_size, PyBytes_AS_STRING(value), value_size)
        checksum = xxh3(row + ROW_HEADER, key_size + value_size)
        memcpy(row + 8, &checksum, 8)
        self.tail += ROW_HEADER + key_size + value_size
        return 0

    def close(self):
        """Unmap and close; the file stays."""
        if self.base is not NULL:
            munmap(self.base, self.size)
            close(self.fd)
            self.base = NULL

    def __dealloc__(self):
        if self.base is not NULL:
            munmap(self.base, self.size)
            close(self.fd)


cdef class RowWriter:
    """Rows into one fresh file per partition, chosen by the key's hash."""
    cdef FreshFile f0, f1, f2, f3
    cdef uint32_t mask

    def __cinit__(self, list paths, size_t size):
        if len(paths) not in (1, 2, 4):
            raise ValueError("one, two or four partitions")
        self.mask = <uint32_t> len(paths) - 1
        files = [FreshFile(path, size) for path in paths]
        self.f0, self.f1, self.f2, self.f3 = (files * 4)[:4]

    cdef inline FreshFile choose(self, bytes key):
        cdef uint32_t at = hash_key(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) & self.mask
        if at == 0:
            return self.f0
        if at == 1:
            return self.f1
        return self.f2 if at == 2 else self.f3

    def send(self, str topic, bytes value not None, *, bytes key not None):
        """Hash the key, checksum and copy one record; called as Producer.send is."""
        self.choose(key).put_row(key, value)

    def append_many(self, str topic, list values not None, *, list keys not None):
        """The same for a whole list."""
        cdef Py_ssize_t i, n = PyList_GET_SIZE(values)
        cdef bytes key
        if PyList_GET_SIZE(keys) != n:
            raise ValueError("as many keys as values")
        for i in range(n):
            key = <bytes> PyList_GET_ITEM(keys, i)
            self.choose(key).put_row(key, <bytes> PyList_GET_ITEM(values, i))

    def tails(self):
        """Bytes written to each file."""
        return [self.f0.tail, self.f1.tail, self.f2.tail, self.f3.tail][: self.mask + 1]

    def close(self):
        """Unmap and close all files."""
        for file in (self.f0, self.f1, self.f2, self.f3):
            file.close()


cdef class ColumnWriter:
    """One packed copy of given columns, and one checksum over them."""
    cdef FreshFile file

    def __cinit__(self, str path, size_t size):
        self.file = FreshFile(path, size)

    def append_many(self, str topic, tuple columns not None, *, tuple keys not None):
        """Copy key offsets, key bytes, value offsets and value bytes to the tail."""
        cdef size_t start = self.file.tail
        cdef uint64_t checksum
        self.file.tail += 8
        for column in (*keys, *columns):
            self.copy(column)
        checksum = xxh3(self.file.base + start + 8, self.file.tail - start - 8)
        memcpy(self.file.base + start, &checksum, 8)

    cdef int copy(self, object column) except -1:
        cdef Py_buffer view
        PyObject_GetBuffer(column, &view, PyBUF_SIMPLE)
        try:
            if self.file.tail + view.len > self.file.size:
                raise MemoryError("the probe's file is full")
            memcpy(self.file.base + self.file.tail, view.buf, view.len)
            self.file.tail += view.len
        finally:
            PyBuffer_Release(&view)
        return 0

    def close(self):
        """Unmap and close."""
        self.file.close()


@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class Row:
    """The least of a record: its value, and where its key stands."""
    cdef readonly bytes value
    cdef readonly int64_t offset
    cdef RowReader owner
    cdef const uint8_t* key_start
    cdef uint32_t key_size

    @property
    def key(self):
        """The key, made when asked for."""
        return PyBytes_FromStringAndSize(<const char*> self.key_start, self.key_size)


cdef class RowReader:
    """Reads the rows of one file, verifying each."""
    cdef uint8_t* base
    cdef size_t size, end, position
    cdef int64_t offset
    cdef int fd

    def __cinit__(self, str path, size_t size, size_t end):
        cdef bytes encoded = path.encode()
        cdef void* mapped
        self.fd = open(encoded, O_RDWR, 0)
        if self.fd < 0:
            raise OSError(f"cannot open {path}")
        mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, self.fd, 0)
        if mapped == MAP_FAILED:
            raise MemoryError(f"cannot map {path}")
        self.base = <uint8_t*> mapped
        self.size = size
        self.end = end

    def __dealloc__(self):
        if self.base is not NULL:
            munmap(self.base, self.size)
            close(self.fd)

    cdef const uint8_t* next_row(self) except? NULL:
        """The row at the position, verified; moves past it. NULL at the end."""
        cdef const uint8_t* row = self.base + self.position
        cdef size_t left = self.end - self.position
        cdef size_t payload
        cdef uint64_t checksum
        if left < ROW_HEADER:
            return NULL
        payload = <size_t> (<uint32_t*> row)[0] + (<uint32_t*> row)[1]
        if payload > left - ROW_HEADER:
            raise ValueError(f"a torn row at {self.position}")
        memcpy(&checksum, row + 8, 8)
        if xxh3(row + ROW_HEADER, payload) != checksum:
            raise ValueError(f"a corrupt row at {self.position}")
        self.position += ROW_HEADER + payload
        return row

    def poll(self, Py_ssize_t max_records):
        """A list of up to `max_records` rows."""
        cdef list found = PyList_New(max_records)
        cdef Py_ssize_t count = 0
        cdef const uint8_t* row
        cdef Row record
        while count < max_records:
            row = self.next_row()
            if row is NULL:
                break
            record = Row.__new__(Row)
            record.owner = self
            record.offset = self.offset
            record.key_size = (<uint32_t*> row)[0]
            record.key_start = row + ROW_HEADER
            record.value = PyBytes_FromStringAndSize(
                <const char*> row + ROW_HEADER + record.key_size, (<uint32_t*> row)[1])
            Py_INCREF(record)
            PyList_SET_ITEM(found, count, record)
            self.offset += 1
            count += 1
        for _ in range(count, max_records):     # a presized list may hold no hole
            Py_INCREF(None)
            PyList_SET_ITEM(found, _, None)
        return found if count == max_records else found[:count]

    def arrays(self, Py_ssize_t max_records):
        """Arrays of positions and lengths of the values of up to `max_records` rows."""
        positions = numpy.empty(max_records, dtype=numpy.int64)
        lengths = numpy.empty(max_records, dtype=numpy.int32)
        cdef int64_t* position_at = <int64_t*> <size_t> positions.ctypes.data
        cdef int32_t* length_at = <int32_t*> <size_t> lengths.ctypes.data
        cdef Py_ssize_t count = 0
        cdef const uint8_t* row
        while count < max_records:
            row = self.next_row()
            if row is NULL:
                break
            position_at[count] = row - self.base + ROW_HEADER + (<uint32_t*> row)[0]
            length_at[count] = (<uint32_t*> row)[1]
            count += 1
        return positions[:count], lengths[:count]

    def checksum(self, size_t step):
        """One XXH3 pass over all bytes, `step` at a time."""
        cdef uint64_t folded = 0
        cdef size_t size
        while self.position < self.end:
            size = min(step, self.end - self.position)
            folded ^= xxh3(self.base + self.position, size)
            self.position += size
        return folded
