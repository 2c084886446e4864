"""A plain buffered Python file of length-prefixed records: no index, no readers, no repair.

It is the floor of simplicity: what a program writes that has no log at all.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from struct import Struct

from benchmarks.peers import Peer
from benchmarks.workload import Workload

LENGTHS = Struct("<II")
BUFFER = 1 << 18


class FileStore:
    """One file, written through Python's buffer; synced means flushed and fdatasynced."""

    def __init__(self, directory: Path, synced: bool) -> None:
        self.path = directory / "log"
        self.file = self.path.open("wb", buffering=BUFFER)
        self.synced = synced

    def append_each(self, values: list[bytes], keys: list[bytes]) -> None:
        """One write a record; flushed (and synced) after each only where that is the peer's promise."""
        write, pack, number = self.file.write, LENGTHS.pack, self.file.fileno()
        for key, value in zip(keys, values, strict=True):
            write(pack(len(key), len(value)) + key + value)
            if self.synced:
                self.file.flush()
                os.fdatasync(number)
        self.file.flush()

    def append_batches(self, calls: list[tuple[list[bytes], list[bytes]]]) -> None:
        """One joined write a call."""
        pack = LENGTHS.pack
        for values, keys in calls:
            parts: list[bytes] = []
            for key, value in zip(keys, values, strict=True):
                parts += (pack(len(key), len(value)), key, value)
            self.file.write(b"".join(parts))
            self.file.flush()
            if self.synced:
                os.fdatasync(self.file.fileno())

    def read_all(self) -> int:
        """The whole file in memory, cut at the lengths."""
        data = self.path.read_bytes()
        unpack = LENGTHS.unpack_from
        at = count = 0
        while at < len(data):
            key_size, value_size = unpack(data, at)
            at += 8 + key_size + value_size
            data[at - value_size : at]
            count += 1
        return count

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def open_store(directory: Path, work: Workload, *, synced: bool) -> FileStore:
    """A new file."""
    return FileStore(directory, synced)


PEERS = (
    Peer(
        "plain file",
        f"open('wb', buffering={BUFFER}), length-prefixed, no sync",
        False,
        partial(open_store, synced=False),
        {"one by one": 500_000, "in batches": 500_000, "read back": 500_000},
    ),
    Peer(
        "plain file synced",
        "the same, flushed and fdatasynced after each append",
        True,
        partial(open_store, synced=True),
        {"one by one": 2_000, "in batches": 50_000, "read back": 500_000},
    ),
)
