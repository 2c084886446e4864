# cython: language_level=3
"""Hashes: XXH3-64 at C speed, pylog's header checksum, Kafka's murmur2."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

ctypedef uint64_t (*xxh3_function)(const void* data, size_t size) noexcept nogil

cdef uint64_t xxh3(const void* data, size_t size) noexcept nogil
cdef uint64_t header_checksum(
    const uint8_t* data, size_t size, uint64_t salt, uint64_t position
) noexcept nogil
cdef uint32_t murmur2(const uint8_t* data, int32_t size) noexcept nogil
