# cython: language_level=3
"""Hashes: XXH3-64 at C speed, pylog's header checksum, Kafka's murmur2."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef uint64_t (*xxh3_function)(const void* data, size_t size) noexcept nogil

cdef uint64_t xxh3(const void* data, size_t size) noexcept nogil
cdef uint32_t murmur2(const uint8_t* data, int32_t size) noexcept nogil


cdef inline uint64_t rotate_left(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline uint64_t header_checksum(
    const uint8_t* data, size_t size, uint64_t salt, uint64_t position
) noexcept nogil:
    """Checksum of a header of whole 8-byte words that stands at `position` of a segment with `salt`.

    Two lanes take alternate words; each step (xor, rotate, odd multiply) is a bijection of its lane, so a
    change confined to one word is always seen. docs/FORMAT.md has the arithmetic.
    """
    cdef uint64_t a = salt ^ <uint64_t> 0x9E3779B97F4A7C15
    cdef uint64_t b = (position + size) * <uint64_t> 0xD6E8FEB86659FD93 ^ <uint64_t> 0xC2B2AE3D27D4EB4F
    cdef uint64_t word
    cdef size_t i = 0
    while i + 16 <= size:
        memcpy(&word, data + i, 8)
        a = rotate_left(a ^ word, 29) * <uint64_t> 0x9FB21C651E98DF25
        memcpy(&word, data + i + 8, 8)
        b = rotate_left(b ^ word, 31) * <uint64_t> 0xA0761D6478BD642F
        i += 16
    if i < size:
        memcpy(&word, data + i, 8)
        a = rotate_left(a ^ word, 29) * <uint64_t> 0x9FB21C651E98DF25
    a ^= a >> 32
    b ^= b >> 29
    a = rotate_left(a + b, 17) * <uint64_t> 0xE7037ED1A0B428DB + b
    return a ^ (a >> 31)
