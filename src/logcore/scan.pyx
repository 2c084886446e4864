# cython: language_level=3
"""A walk over one segment file by pread: for recovery, dump, verify and repair.

It never maps the file, so a file that shrinks or has bad sectors is an error and no SIGBUS, and it holds a
window of the file only. Invariant: what it calls a batch or a footer carries a valid header checksum for
just this place; everything else is a break or the end, and a break is never passed over in silence.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from logcore.batch_header cimport (
    STANDS_BATCH, STANDS_BROKEN, STANDS_FOOTER, check_body, max_timestamp_of,
    next_offset_of, what_stands,
)
from logcore.format cimport *
from logcore.hashing cimport header_checksum
from logcore.linux cimport (
    O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, close as close_file, file_bytes, open as open_file, read_all,
)

import os
from collections.abc import Iterator
from typing import NamedTuple

from logcore.errors import FormatError
from logcore.whole_files import clear_error

cdef enum:
    WINDOW_BYTES = 1 << 20
    # what what_stands() may look at before it believes a length: the longest header with its blocks
    HEADER_ROOM = 4096


class SegmentHeader(NamedTuple):
    """The segment header of FORMAT.md section 3."""

    salt: int
    base_offset: int
    epoch: int
    partition: int
    topic_uuid: bytes
    segment_bytes: int
    created: int
    base_byte_pos: int
    synced_offset: int
    range_end: int


class ScannedBatch(NamedTuple):
    """A batch whose header is valid; `body_ok` says whether its body is."""

    position: int
    length: int
    base_offset: int
    next_offset: int
    record_count: int
    attributes: int
    epoch: int
    base_timestamp: int
    max_timestamp: int
    synced_offset: int
    producer_id: int | None
    producer_epoch: int
    first_sequence: int
    last_sequence: int
    body_ok: bool
    is_mark: bool
    codec: int
    raw_body_bytes: int


class ScannedFooter(NamedTuple):
    """The footer of a sealed segment."""

    position: int
    length: int
    end_offset: int
    max_timestamp: int
    synced_offset: int
    is_cut: bool
    next_epoch: int
    sealed: int
    producer_count: int


class ScannedBreak(NamedTuple):
    """Bytes that are neither; [position, position + length), up to something valid or (`at_tail`) the end."""

    position: int
    length: int
    at_tail: bool


def parse_segment_header(data: bytes) -> SegmentHeader | None:
    """The header in 128 bytes, None where they hold no valid one; FormatError for a newer version."""
    cdef const uint8_t* p = data
    if len(data) < SEGMENT_HEADER_BYTES or memcmp(p, b"pylogseg", 8) != 0:
        return None
    if header_checksum(p, SH_CHECKSUM, 0, 0) != load64(p + SH_CHECKSUM):
        return None
    if load16(p + SH_VERSION) != FORMAT_VERSION or load32(p + SH_FEATURES) != 0:
        raise FormatError(
            f"segment of format version {load16(p + SH_VERSION)}, features {load32(p + SH_FEATURES):#x}: "
            f"this release reads version {FORMAT_VERSION} without features; use a newer pylog"
        )
    if load16(p + SH_HEADER_BYTES) != SEGMENT_HEADER_BYTES or load32(p + SH_EPOCH) > MAX_EPOCH:
        return None
    if not MIN_SEGMENT_BYTES <= load64(p + SH_SEGMENT_BYTES) <= MAX_SEGMENT_BYTES:
        return None
    if loadi64(p + SH_BASE_OFFSET) > MAX_OFFSET or load64(p + SH_BASE_BYTE_POS) > <uint64_t> MAX_OFFSET:
        return None
    if not 0 <= loadi64(p + SH_SYNCED_OFFSET) <= loadi64(p + SH_BASE_OFFSET):
        return None
    return SegmentHeader(
        load64(p + SH_SALT), loadi64(p + SH_BASE_OFFSET), load32(p + SH_EPOCH), load32(p + SH_PARTITION),
        data[SH_TOPIC_UUID:SH_TOPIC_UUID + 16], load64(p + SH_SEGMENT_BYTES), loadi64(p + SH_CREATED),
        load64(p + SH_BASE_BYTE_POS), loadi64(p + SH_SYNCED_OFFSET), loadi64(p + SH_RANGE_END),
    )


cdef class SegmentScan:
    """One walk. Raises OSError where the file cannot be read; `header` is b"" where no copy is valid."""

    def __cinit__(self, path: str):
        self.fd = -1
        self.path = path
        self.fd = open_file(os.fsencode(path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        if self.fd < 0:
            raise clear_error(OSError(errno, os.strerror(errno)), path)
        cdef int64_t size = file_bytes(self.fd)
        if size < 0:
            raise FormatError(f"{path} is not a regular file")
        self.file_bytes = size
        self.header = self.find_header()
        if self.header:
            self.salt = load64(<const uint8_t*> <const char*> self.header + SH_SALT)
            # nothing of a segment stands behind that, however long a hostile file is
            self.file_bytes = min(
                self.file_bytes, load64(<const uint8_t*> <const char*> self.header + SH_SEGMENT_BYTES)
            )
        self.next_position = SEGMENT_DATA_START

    def __dealloc__(self):
        if self.fd >= 0:
            close_file(self.fd)
        free(self.window)

    def find_header(self) -> bytes:
        """The first valid of the two copies at the front, else b""."""
        cdef bytes copy
        for position in (0, SEGMENT_HEADER_COPY):
            if position + SEGMENT_HEADER_BYTES <= self.file_bytes:
                copy = self.peek(position, SEGMENT_HEADER_BYTES)[:SEGMENT_HEADER_BYTES]
                if parse_segment_header(copy) is not None:
                    return copy
        return b""

    cpdef int close(self) except -1:
        """Close the file; the walk ends."""
        if self.fd >= 0:
            close_file(self.fd)
            self.fd = -1
        return 0

    cpdef int seek(self, unsigned long long position) except -1:
        """Go on at `position`, a multiple of 8."""
        self.next_position = position
        return 0

    cdef const uint8_t* peek(self, uint64_t position, uint64_t size) except? NULL:
        """`size` bytes of the file at `position`, kept until the next peek; the caller stays in the file."""
        cdef uint64_t want
        cdef uint8_t* grown
        if position >= self.window_at and position + size <= self.window_at + self.window_bytes:
            return self.window + (position - self.window_at)
        want = max(size, <uint64_t> WINDOW_BYTES)
        want = min(want, self.file_bytes - position)
        if want > self.window_capacity:
            grown = <uint8_t*> realloc(self.window, want)
            if grown is NULL:
                raise MemoryError()
            self.window = grown
            self.window_capacity = want
        self.window_bytes = 0
        cdef int error
        with nogil:
            error = read_all(self.fd, self.window, want, position)
        if error:
            raise OSError(error, f"{os.strerror(error)} at position {position}", self.path)
        self.window_at = position
        self.window_bytes = want
        return self.window

    cdef int stands_at(self, uint64_t position) except -2:
        """what_stands() with no more of the file in memory than it needs."""
        cdef uint64_t rest = self.file_bytes - position
        cdef const uint8_t* p
        cdef uint64_t footer
        if rest < 8:
            return 0
        p = self.peek(position, min(rest, <uint64_t> HEADER_ROOM))
        if rest >= FOOTER_PRODUCERS and load32(p) == <uint32_t> FOOTER_MAGIC:
            footer = load32(p + FT_TOTAL_LENGTH)
            if FOOTER_PRODUCERS <= footer <= min(
                rest, FOOTER_PRODUCERS + <uint64_t> MAX_PRODUCERS_PER_PARTITION * PRODUCER_ENTRY_BYTES
            ):
                p = self.peek(position, footer)
        return what_stands(p, rest, self.salt, position)

    cdef int step(self) except -1:
        """Find out what stands next, in kind, position, length and entry; return kind."""
        cdef int found
        cdef uint64_t behind
        self.position = self.next_position
        self.tail_broken = False
        self.length = 0
        if self.position + 8 > self.file_bytes:
            self.kind = SCAN_END
            if self.position < self.file_bytes:            # the file was cut off in the middle of a word
                self.length = self.file_bytes - self.position
                self.tail_broken = any(self.peek(self.position, self.length)[:self.length])
            return self.kind
        found = self.stands_at(self.position)
        if found == STANDS_BATCH or found == STANDS_FOOTER:
            self.entry = self.peek(self.position, 8)
            self.length = load32(self.entry + BH_TOTAL_LENGTH)
            self.kind = SCAN_BATCH if found == STANDS_BATCH else SCAN_FOOTER
            # behind a footer the segment is over
            self.next_position = self.position + self.length if found == STANDS_BATCH else self.file_bytes
            if self.kind == SCAN_BATCH:
                self.entry = self.peek(self.position, min(self.length, <uint64_t> HEADER_ROOM))
            return self.kind
        behind = self.find_next(self.position + 8)
        self.length = behind - self.position
        self.next_position = behind
        if behind < self.file_bytes:
            self.kind = SCAN_BREAK
        else:
            self.kind = SCAN_END
            self.tail_broken = found == STANDS_BROKEN or self.passed_over
        return self.kind

    cdef uint64_t find_next(self, uint64_t position) except 0:
        """The first place from `position` on where something valid stands, else the size of the file."""
        cdef const uint8_t* p
        cdef uint64_t n, i
        cdef uint32_t magic
        cdef uint64_t seen = 0
        self.passed_over = False
        while position + BATCH_HEADER_BYTES <= self.file_bytes:
            p = self.peek(position, min(self.file_bytes - position, <uint64_t> HEADER_ROOM))
            n = self.window_at + self.window_bytes - position
            i = 0
            while i + 8 <= n:
                magic = load32(p + i)
                seen |= load64(p + i)
                if magic == <uint32_t> BATCH_MAGIC or magic == <uint32_t> FOOTER_MAGIC:
                    break
                i += 8
            self.passed_over = seen != 0
            position += i
            if i + 8 <= n:
                if self.stands_at(position) > 0:
                    return position
                position += 8
        return self.file_bytes

    cdef bint body_holds(self) except -1:
        """True where the body of the batch that step() found matches its checksum."""
        return check_body(self.peek(self.position, self.length))

    def entries(self, verify_bodies: bool = True) -> Iterator[ScannedBatch | ScannedFooter | ScannedBreak]:
        """What stands in the segment, from the first batch on; an unreadable tail is a break `at_tail`."""
        while self.fd >= 0:
            self.step()
            if self.kind == SCAN_BATCH:
                yield self.batch(verify_bodies)
            elif self.kind == SCAN_FOOTER:
                yield self.footer()
                return
            elif self.kind == SCAN_BREAK:
                yield ScannedBreak(self.position, self.length, False)
            else:
                if self.tail_broken:
                    yield ScannedBreak(self.position, self.length, True)
                return

    cdef object batch(self, bint verify_body):
        cdef bint body_ok = self.body_holds() if verify_body else True
        cdef const uint8_t* p = self.peek(self.position, min(self.length, <uint64_t> HEADER_ROOM))
        cdef uint32_t attributes = load32(p + BH_ATTRIBUTES)
        cdef const uint8_t* producer = p + block_position(attributes, ATTR_BLOCK_PRODUCER)
        cdef bint has_producer = (attributes & ATTR_BLOCK_PRODUCER) != 0
        return ScannedBatch(
            self.position, self.length, loadi64(p + BH_BASE_OFFSET), next_offset_of(p),
            load32(p + BH_RECORD_COUNT), attributes, load32(p + BH_EPOCH), loadi64(p + BH_BASE_TIMESTAMP),
            max_timestamp_of(p), loadi64(p + BH_SYNCED_OFFSET),
            load64(producer + PB_PRODUCER_ID) if has_producer else None,
            load32(producer + PB_PRODUCER_EPOCH) if has_producer else 0,
            loadi64(producer + PB_FIRST_SEQUENCE) if has_producer else -1,
            loadi64(producer + PB_LAST_SEQUENCE) if has_producer else -1,
            bool(body_ok), (attributes >> 31) != 0, attributes & ATTR_CODEC_MASK,
            load32(p + BH_RAW_BODY_BYTES),
        )

    cdef object footer(self):
        cdef const uint8_t* p = self.peek(self.position, self.length)
        return ScannedFooter(
            self.position, self.length, loadi64(p + FT_END_OFFSET), loadi64(p + FT_MAX_TIMESTAMP),
            loadi64(p + FT_SYNCED_OFFSET), (load32(p + FT_FLAGS) & FOOTER_CUT) != 0,
            load32(p + FT_NEXT_EPOCH),
            loadi64(p + FT_SEALED), load32(p + FT_PRODUCER_COUNT),
        )

    def read(self, position: int, size: int) -> bytes:
        """The bytes of the file at [position, position + size); ValueError beyond its end."""
        if position < 0 or size < 0 or position + size > self.file_bytes:
            raise ValueError(f"[{position}, {position + size}) is not within {self.path}")
        return self.peek(position, size)[:size] if size else b""


def scan_segment(
    path: str, *, verify_bodies: bool = True
) -> Iterator[SegmentHeader | ScannedBatch | ScannedFooter | ScannedBreak]:
    """All that stands in a segment file, its header first (left out where no copy of it is valid).

    Without a header no checksum can be computed, so nothing else follows either: the one entry is then a
    break over the whole file. Raises OSError, FormatError.
    """
    scan = SegmentScan(path)
    try:
        if not scan.header:
            yield ScannedBreak(0, scan.file_bytes, True)
            return
        yield parse_segment_header(scan.header)
        yield from scan.entries(verify_bodies)
    finally:
        scan.close()
