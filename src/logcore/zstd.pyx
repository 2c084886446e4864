# cython: language_level=3
"""Compresses and decompresses whole bodies with the `zstandard` package, which is imported at the first use.

Not a stream. Invariant: before anything is allocated for a frame, the size that the frame states was found
equal to the size that the batch's checked header declares, which the caller has held against its limit.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from logcore.format cimport load32

cdef enum:
    FRAME_BYTES_FIELD = 8                # u32 frame bytes, u32 zero
    MAX_WINDOW_BYTES = 1 << 23

cdef object zstandard = None


cdef object zstd_package():
    global zstandard
    if zstandard is None:
        import zstandard as package
        zstandard = package
    return zstandard


cdef bytes decompress_body(const uint8_t* stored, uint64_t stored_bytes, uint32_t raw_bytes):
    cdef object package = zstd_package()
    cdef object frame, parameters
    cdef bytes raw
    cdef uint64_t frame_bytes, i
    if stored_bytes < FRAME_BYTES_FIELD:
        raise ValueError("the compressed body has no frame")
    frame_bytes = load32(stored)
    if frame_bytes > stored_bytes - FRAME_BYTES_FIELD or stored_bytes - FRAME_BYTES_FIELD - frame_bytes > 7:
        raise ValueError("the zstd frame does not fill the body")
    for i in range(FRAME_BYTES_FIELD + frame_bytes, stored_bytes):
        if stored[i] != 0:
            raise ValueError("what lies behind the zstd frame is not zero")
    frame = PyMemoryView_FromMemory(<char*> stored + FRAME_BYTES_FIELD, frame_bytes, PyBUF_READ)
    try:
        parameters = package.get_frame_parameters(frame)
        if parameters.content_size != raw_bytes:
            raise ValueError("the zstd frame states another size than the batch")
        if parameters.window_size > MAX_WINDOW_BYTES or parameters.dict_id != 0:
            raise ValueError("the zstd frame needs a dictionary or too large a window")
        raw = package.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompress(
            frame, allow_extra_data=False
        )
    except package.ZstdError as error:
        raise ValueError(f"the zstd frame is damaged: {error}") from None
    if len(raw) != raw_bytes:
        raise ValueError("the zstd frame holds another size than it states")
    return raw


cdef object make_compressor(int level):
    if not MIN_ZSTD_LEVEL <= level <= MAX_ZSTD_LEVEL:
        raise ValueError(f"zstd levels are {MIN_ZSTD_LEVEL} to {MAX_ZSTD_LEVEL}, not {level}")
    return zstd_package().ZstdCompressor(level=level, write_content_size=True, write_checksum=False)


cdef bytes compress_bytes(object compressor, const uint8_t* raw, uint64_t raw_bytes):
    return compressor.compress(PyMemoryView_FromMemory(<char*> raw, raw_bytes, PyBUF_READ))
