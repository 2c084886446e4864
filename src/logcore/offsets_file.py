"""The header of an offsets file, and where its parts are (docs/FORMAT.md section 9).

Not the offsets, which are read in mapped memory. Invariant: one of the two headers is valid at every instant.
"""

from __future__ import annotations

import os
import struct

from logcore.errors import ConfigError, CorruptionError, FormatError
from logcore.hashing import checksum_header

FIRST_BLOCK = 8192
BLOCK_BYTES = 8192
BLOCK_PARTITIONS = 64
MOST_BLOCKS = 1563  # 100,000 partitions
METADATA_BYTES = 4096  # most of one commit
HEADER = struct.Struct("<8sII16sQ16x")
HEADER_BYTES = HEADER.size + 8
HEADER_PLACES = (0, 2048)
MAGIC = b"pylogoff"
VERSION = 1


def blocks_for(partitions: int) -> int:
    """Blocks of 64 partitions that a table of so many needs."""
    return (partitions + BLOCK_PARTITIONS - 1) // BLOCK_PARTITIONS


def file_bytes(blocks: int) -> int:
    """Size of a file of so many blocks."""
    return FIRST_BLOCK + blocks * BLOCK_BYTES


def metadata_path(path: str) -> str:
    """Where the commit metadata of the table at `path` is."""
    return path.removesuffix(".offsets") + ".metadata"


def check_metadata(metadata: object) -> None:
    """Raise ConfigError where `metadata` is not what may be kept with a commit."""
    if not isinstance(metadata, bytes) or len(metadata) > METADATA_BYTES:
        raise ConfigError(f"commit metadata is bytes, at most {METADATA_BYTES} of them")


def encode_header(blocks: int, topic_uuid: bytes, salt: int, position: int) -> bytes:
    """The header as it stands at `position`, one of HEADER_PLACES."""
    header = HEADER.pack(MAGIC, VERSION, blocks, topic_uuid, salt)
    return header + checksum_header(header, 0, position).to_bytes(8, "little")


def empty_table(blocks: int, topic_uuid: bytes, salt: int) -> bytes:
    """A whole file in which nothing is committed."""
    content = bytearray(file_bytes(blocks))
    for at in HEADER_PLACES:
        content[at : at + HEADER_BYTES] = encode_header(blocks, topic_uuid, salt, at)
    return bytes(content)


def read_header(fd: int, path: str) -> tuple[int, bytes, int]:
    """Return (blocks, uuid of the topic, salt); of two valid headers the one with more blocks counts.

    Raises:
        FormatError: a newer release wrote it.
        CorruptionError: neither is valid, or the file is shorter than it says.
    """
    best: tuple[int, bytes, int] | None = None
    for at in HEADER_PLACES:
        stored = os.pread(fd, HEADER_BYTES, at)
        if len(stored) < HEADER_BYTES or not stored.startswith(MAGIC):
            continue
        checksum = int.from_bytes(stored[HEADER.size :], "little")
        if checksum != checksum_header(stored[: HEADER.size], 0, at):
            continue
        _, version, blocks, topic_uuid, salt = HEADER.unpack_from(stored)
        if version != VERSION:
            raise FormatError(f"{path} has version {version}; this release reads {VERSION}")
        if 1 <= blocks <= MOST_BLOCKS and (best is None or blocks > best[0]):
            best = (blocks, topic_uuid, salt)
    if best is None:
        raise CorruptionError(f"{path} has no valid header: offsets cannot be told", path=path, position=0)
    if os.fstat(fd).st_size < file_bytes(best[0]):
        raise CorruptionError(f"{path} was cut short: offsets are missing", path=path)
    return best
