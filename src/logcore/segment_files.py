"""The files of one partition: names of segments, and the small `start` file (FORMAT.md, sections 1 and 6).

Not their content: that is segment.pyx and scan.pyx. Invariant: nothing here trusts a name or a JSON document
further than it was checked.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from logcore.errors import CorruptionError
from logcore.hashing import xxh3_64
from logcore.whole_files import open_plain, place_file

SEGMENT_NAME = re.compile(r"(\d{20})(?:-([1-9]\d{0,9}))?\.log", re.ASCII)
LARGEST_START_FILE = 1 << 20
LARGEST_OFFSET = 1 << 62
LARGEST_EPOCH = 0x7FFFFFFF


class SegmentFile(NamedTuple):
    """A segment by its name; sorts in log order. `named_epoch` is 0 where the name has none."""

    base_offset: int
    named_epoch: int
    path: str


class Start(NamedTuple):
    """Log start offset, and where epochs begin: rising (epoch, first offset) pairs."""

    log_start_offset: int
    epochs: tuple[tuple[int, int], ...]

    def epoch_at(self, offset: int) -> int:
        """Epoch of the record at `offset`."""
        return max((epoch for epoch, first in self.epochs if first <= offset), default=0)

    def newer_epoch(self, epoch: int) -> tuple[int, int] | None:
        """The first (epoch, first offset) that is newer than `epoch`, None where there is none."""
        return next((pair for pair in self.epochs if pair[0] > epoch), None)


def segment_file_name(base_offset: int, named_epoch: int = 0) -> str:
    """File name of a segment."""
    return f"{base_offset:020d}-{named_epoch}.log" if named_epoch else f"{base_offset:020d}.log"


def caches_of(segment_path: str) -> tuple[str, ...]:
    """Paths of the files that are made from a segment and go with it: they may be missing."""
    stem = segment_path.removesuffix(".log")
    return f"{stem}.index", f"{stem}.keys"


def list_segments(directory: str) -> list[SegmentFile]:
    """All segment files of a partition directory, in log order; unfinished and foreign files are left out.

    None where the directory is not there: the first writer of the partition makes it.
    """
    found = []
    try:
        names = os.listdir(directory)  # noqa: PTH208 - pathlib would be the dearest import of the core
    except FileNotFoundError:
        return []
    for name in names:
        match = SEGMENT_NAME.fullmatch(name)
        if match:
            found.append(SegmentFile(int(match[1]), int(match[2] or 0), f"{directory}/{name}"))
    return sorted(found)


def start_checksum(log_start_offset: int, epochs: list[list[int]]) -> str:
    """Checksum of a `start` document, as FORMAT.md section 6 says."""
    document = {"epochs": epochs, "log_start_offset": log_start_offset}
    return f"{xxh3_64(json.dumps(document, sort_keys=True, separators=(',', ':')).encode()):016x}"


def read_start(directory: str) -> Start:
    """The `start` file; offset 0 and epoch 0 where there is none. Raises CorruptionError."""
    path = f"{directory}/start"
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_plain(folder, "start", path, os.O_RDONLY)
        finally:
            os.close(folder)
    except FileNotFoundError:
        return Start(0, ((0, 0),))
    with os.fdopen(fd, "rb") as file:
        data = file.read(LARGEST_START_FILE)
    try:
        document = json.loads(data)
        log_start_offset = int(document["log_start_offset"])
        epochs = [[int(epoch), int(first)] for epoch, first in document["epochs"]]
        if document["checksum"] != start_checksum(log_start_offset, epochs):
            raise ValueError("the checksum does not fit")
        firsts = [log_start_offset, *(first for _, first in epochs)]
        if not all(0 <= first <= LARGEST_OFFSET for first in firsts):
            raise ValueError("offsets that nobody can have written")
        if not epochs or epochs != sorted(epochs) or not 0 <= epochs[0][0] <= epochs[-1][0] <= LARGEST_EPOCH:
            raise ValueError("offsets or epochs out of order")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CorruptionError(f"{path} is damaged: {error}", path=path, position=0) from None
    return Start(log_start_offset, tuple((epoch, first) for epoch, first in epochs))


def write_start(directory: str, start: Start) -> None:
    """Replace the `start` file, on disk on return. Raises DiskFullError, OSError."""
    epochs = [list(pair) for pair in start.epochs]
    document = {
        "log_start_offset": start.log_start_offset,
        "epochs": epochs,
        "checksum": start_checksum(start.log_start_offset, epochs),
    }
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        place_file(fd, "start", json.dumps(document).encode(), f"{directory}/start")
    finally:
        os.close(fd)
