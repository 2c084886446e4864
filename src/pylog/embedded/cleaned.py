"""The small file `cleaned` of a partition: how far it was compacted, and when (FORMAT.md section 11).

Invariant: it can be lost. Then all is compacted once more, and tombstones stay for longer.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from logcore.errors import PylogError
from logcore.hashing import xxh3_64
from logcore.whole_files import open_plain, place_file

NAME = "cleaned"
MOST_PASSES = 64
LARGEST_FILE = 1 << 16


class Cleaned(NamedTuple):
    """How far a partition was compacted, and from where the keys are to be mapped next.

    `passes`: rising (offset, time in ns): no record below the offset had a later one of its key by then.
    """

    cleaned_to: int = 0
    map_from: int = 0
    passes: tuple[tuple[int, int], ...] = ()

    def tombstones_below(self, before: int) -> int:
        """Return the offset below which a compaction had ended by the time `before`."""
        return max((offset for offset, at in self.passes if at <= before), default=0)

    def with_pass(self, offset: int, at: int, outgrown: int | None) -> Cleaned:
        """Return it after a compaction up to `offset`, which could not rewrite a segment at `outgrown`."""
        if outgrown is not None:  # it keeps older records: what follows them is to be known next time too
            return Cleaned(offset, outgrown, self.passes)
        passes = [*self.passes, (offset, at)]
        if len(passes) > MOST_PASSES:
            passes = passes[-1::-2][::-1]  # each second one, and the newest: tombstones stay for longer
        return Cleaned(offset, offset, tuple(passes))


def read_cleaned(directory: str) -> Cleaned:
    """Return what the partition's file says; as if nothing was compacted where that cannot be told."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_plain(folder, NAME, f"{directory}/{NAME}", os.O_RDONLY)
        finally:
            os.close(folder)
        with os.fdopen(fd, "rb") as file:
            document = json.loads(file.read(LARGEST_FILE))
        checksum = document.pop("checksum")
        if checksum != checksum_of(document):
            return Cleaned()
        passes = tuple((int(offset), int(at)) for offset, at in document["passes"])
        return Cleaned(int(document["cleaned_to"]), int(document["map_from"]), passes)
    except (OSError, PylogError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Cleaned()


def write_cleaned(directory: str, cleaned: Cleaned) -> None:
    """Replace the partition's file. Raises DiskFullError, OSError."""
    document: dict[str, object] = dict(cleaned._asdict(), passes=[list(pair) for pair in cleaned.passes])
    document["checksum"] = checksum_of(document)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place_file(folder, NAME, json.dumps(document).encode(), f"{directory}/{NAME}", durable=False)
    finally:
        os.close(folder)


def checksum_of(document: dict[str, object]) -> str:
    """Return the checksum of the document without it, made as that of `start`."""
    return f"{xxh3_64(json.dumps(document, sort_keys=True, separators=(',', ':')).encode()):016x}"
