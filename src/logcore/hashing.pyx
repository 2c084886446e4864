# cython: language_level=3
"""Hashes of the format: XXH3-64 for bodies, a small checksum for headers, murmur2 for partitions.

XXH3 comes from the extension module of the `xxhash` package: its exported function is looked up with
dlsym at import and held against the package's own Python function; where that fails the Python function
is called instead, with the same bits. Invariant: every function here is pure and seed-free.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

import xxhash
from xxhash import _xxhash

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    int RTLD_NOW
    int RTLD_LOCAL

cdef xxh3_function native_xxh3 = NULL


cdef xxh3_function find_native_xxh3():
    """Take XXH3_64bits from the xxhash extension module, or NULL where it cannot be had."""
    cdef bytes path = _xxhash.__file__.encode()
    cdef void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)
    cdef xxh3_function candidate
    cdef bytes sample
    if handle is NULL:
        return NULL
    for name in (b"XXH3_64bits_dispatch", b"XXH3_64bits"):
        candidate = <xxh3_function> dlsym(handle, name)
        if candidate is NULL:
            continue
        for size in (0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 1000, 4097):
            sample = bytes((i * 131 + 7) & 0xFF for i in range(size))
            if candidate(<const char*> sample, size) != <uint64_t> xxhash.xxh3_64_intdigest(sample):
                break
        else:
            return candidate
    return NULL


native_xxh3 = find_native_xxh3()


cdef uint64_t package_xxh3(const void* data, size_t size) noexcept with gil:
    return xxhash.xxh3_64_intdigest(PyBytes_FromStringAndSize(<const char*> data, size))


cdef uint64_t xxh3(const void* data, size_t size) noexcept nogil:
    """XXH3-64, seed 0, of `size` bytes."""
    if native_xxh3 is not NULL:
        return native_xxh3(data, size)
    return package_xxh3(data, size)


cdef uint32_t murmur2(const uint8_t* data, int32_t size) noexcept nogil:
    """MurmurHash2, 32 bits, seed 0x9747b28c: org.apache.kafka.common.utils.Utils.murmur2."""
    cdef uint32_t m = 0x5BD1E995
    cdef uint32_t h = <uint32_t> 0x9747B28C ^ <uint32_t> size
    cdef uint32_t k
    cdef int32_t i = 0
    while i + 4 <= size:
        memcpy(&k, data + i, 4)
        k *= m
        k ^= k >> 24
        k *= m
        h *= m
        h ^= k
        i += 4
    if size - i == 3:
        h ^= <uint32_t> data[i + 2] << 16
    if size - i >= 2:
        h ^= <uint32_t> data[i + 1] << 8
    if size - i >= 1:
        h ^= <uint32_t> data[i]
        h *= m
    h ^= h >> 13
    h *= m
    h ^= h >> 15
    return h


# ---- the Python face: for tests, tools and slow paths ---------------------------------------------

def xxh3_64(data: bytes) -> int:
    """XXH3-64 (seed 0) of `data`."""
    return xxh3(<const char*> data, len(data))


def murmur2_32(data: bytes) -> int:
    """Kafka's murmur2 of `data` as an unsigned 32-bit integer (Java prints it signed)."""
    return murmur2(<const uint8_t*> <const char*> data, <int32_t> len(data))


def checksum_header(data: bytes, salt: int, position: int) -> int:
    """Header checksum of whole 8-byte words; ValueError for any other length."""
    if len(data) % 8:
        raise ValueError(f"a header has whole 8-byte words, not {len(data)} bytes")
    return header_checksum(<const uint8_t*> <const char*> data, len(data), salt, position)


def uses_native_xxh3() -> bool:
    """True where XXH3 runs at C speed, False where the xxhash package is called."""
    return native_xxh3 is not NULL
