# cython: language_level=3
"""zstd through the `zstandard` package: one call a batch."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    MIN_ZSTD_LEVEL = -7
    MAX_ZSTD_LEVEL = 19                  # beyond it windows outgrow what readers accept

cdef bytes decompress_body(const uint8_t* stored, uint64_t stored_bytes, uint32_t raw_bytes)
# `stored` is a body with codec zstd; the result has exactly raw_bytes. ValueError(reason)

cdef object make_compressor(int level)
# may be used by one thread at a time

cdef bytes compress_bytes(object compressor, const uint8_t* raw, uint64_t raw_bytes)
# one zstd frame that states its size
