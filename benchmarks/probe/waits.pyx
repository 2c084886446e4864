# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The ceilings of waiting: for the disk by fdatasync, for another process by a bare futex.

Both are plain C loops without the GIL. What pylog adds on top of them is what is measured.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef extern from "fcntl.h" nogil:
    int open(const char* path, int flags, int mode)
    int posix_fallocate(int fd, int64_t offset, int64_t size)
    int O_RDWR
    int O_CREAT

cdef extern from "unistd.h" nogil:
    int close(int fd)
    int fsync(int fd)
    int fdatasync(int fd)
    Py_ssize_t pwrite(int fd, const void* data, size_t size, int64_t offset)
    long syscall(long number, ...)

cdef extern from "sys/syscall.h" nogil:
    long SYS_futex

cdef extern from "linux/futex.h" nogil:
    int FUTEX_WAIT
    int FUTEX_WAKE

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int nanosleep(const timespec* wanted, timespec* left)
    int CLOCK_MONOTONIC

cdef extern from *:
    """
    static inline unsigned int load_word(void* at) { return __atomic_load_n((unsigned int*) at, __ATOMIC_ACQUIRE); }
    static inline void store_word(void* at, unsigned int v) { __atomic_store_n((unsigned int*) at, v, __ATOMIC_RELEASE); }
    """
    uint32_t load_word(void* at) noexcept nogil
    void store_word(void* at, uint32_t value) noexcept nogil

cdef enum:
    WORD = 0            # bumped by the waker, slept on by the sleeper
    READY = 64          # bumped by the sleeper when it has noted a ping: the next may come
    STAMP = 128         # the waker's clock just before the bump
    SHARED_BYTES = 192


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline void pause_ns(int64_t wanted, bint busy) noexcept nogil:
    """Let `wanted` nanoseconds pass, asleep or burning the processor."""
    cdef timespec span
    cdef int64_t until
    if busy:
        until = now_ns() + wanted
        while now_ns() < until:
            pass
    else:
        span.tv_sec = wanted // 1_000_000_000
        span.tv_nsec = wanted % 1_000_000_000
        nanosleep(&span, NULL)


def spin(double seconds):
    """Burn the processor for `seconds` without the GIL, as a busy producer does between two records."""
    with nogil:
        pause_ns(<int64_t> (seconds * 1e9), True)


def ping(shared, int count, double interval, bint busy):
    """Wake the process that sleeps on `shared` `count` times, `interval` seconds apart."""
    cdef uint8_t[::1] view = shared
    cdef uint8_t* base = &view[0]
    cdef int64_t pause = <int64_t> (interval * 1e9)
    cdef int64_t stamp
    cdef int i
    with nogil:
        for i in range(count):
            pause_ns(pause, busy)
            while load_word(base + READY) != <uint32_t> i:
                pass
            stamp = now_ns()
            memcpy(base + STAMP, &stamp, 8)
            store_word(base + WORD, <uint32_t> i + 1)
            syscall(SYS_futex, base + WORD, FUTEX_WAKE, 1, NULL, NULL, 0)


def sleep_for_pings(shared, int count):
    """Sleep on `shared` until pinged, `count` times; return each delay in seconds."""
    cdef uint8_t[::1] view = shared
    cdef uint8_t* base = &view[0]
    cdef int64_t* delays = <int64_t*> calloc(count, 8)
    cdef int64_t stamp
    cdef int i
    if delays is NULL:
        raise MemoryError
    with nogil:
        for i in range(count):
            while load_word(base + WORD) == <uint32_t> i:
                syscall(SYS_futex, base + WORD, FUTEX_WAIT, <uint32_t> i, NULL, NULL, 0)
            memcpy(&stamp, base + STAMP, 8)
            delays[i] = now_ns() - stamp
            store_word(base + READY, <uint32_t> i + 1)
    found = [delays[i] / 1e9 for i in range(count)]
    free(delays)
    return found


cdef class SyncedFile:
    """A new allocated file to which each append is written by pwrite and synced by fdatasync."""
    cdef int fd
    cdef int64_t tail
    cdef int64_t size

    def __cinit__(self, str path, int64_t size):
        cdef bytes encoded = path.encode()
        self.fd = open(encoded, O_RDWR | O_CREAT, 0o600)
        if self.fd < 0 or posix_fallocate(self.fd, 0, size) or fsync(self.fd):
            raise OSError(f"cannot allocate {size} bytes at {path}")
        self.size = size

    def append(self, bytes data not None):
        """Write `data` at the tail and sync it."""
        cdef const char* start = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t written
        cdef int failed
        if self.tail + size > self.size:
            raise MemoryError("the probe's file is full")
        with nogil:
            written = pwrite(self.fd, start, size, self.tail)
            failed = fdatasync(self.fd)
        if written != size or failed:
            raise OSError("the probe could not write or sync")
        self.tail += size

    def close(self):
        """Close the file; it stays."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)
