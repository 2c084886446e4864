"""Where things stand in a data directory, as docs/FORMAT.md section 1 lays it out.

For commands that look at files themselves; those that work on topics go through the engine. Invariant: no
symbolic link is followed below the data directory, and nothing is opened for writing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pylog.errors import ConfigError, FormatError, UnknownTopicError

if TYPE_CHECKING:
    from pylog.engine import Engine

SEGMENT = re.compile(r"(\d{20})(?:-(\d+))?\.log", re.ASCII)


class SegmentName(NamedTuple):
    """What the name of a segment file says."""

    base_offset: int
    epoch: int
    """0 where the name has none."""


class Target(NamedTuple):
    """What a user pointed at."""

    kind: str
    """ "segment", "partition", "topic" or "directory"."""
    path: Path


def open_engine(directory: str, *, write: bool = False, create: bool = False) -> Engine:
    """Open the data directory; without `write` nothing in it changes, without `create` it must be there."""
    import pylog

    engine: Engine = pylog.open(directory, read_only=not write, create=create)
    return engine


def segment_name(path: Path) -> SegmentName | None:
    """Return what the name of a segment says, None where it is no segment's."""
    match = SEGMENT.fullmatch(path.name)
    return SegmentName(int(match[1]), int(match[2] or 0)) if match else None


def find_target(text: str, directory: str) -> Target:
    """Find out whether a user means a file, a directory or a topic of the data directory.

    What has a "/" in it or is a file is a path; else a topic goes before a directory of the same name.

    Raises:
        UnknownTopicError: nothing of that name is there.
        FormatError: it is a file of something else.
    """
    path, topic = Path(text), Path(directory, "topics", text)
    if path.is_file():
        if segment_name(path) is None and not has_segment_header(path):
            raise FormatError(f"{text} is not a pylog segment: neither its name nor its content says so")
        return Target("segment", path)
    if "/" not in text and text not in (".", "..") and topic.is_dir():
        return Target("topic", topic)
    if path.is_dir():
        return Target(kind_of_directory(path), path)
    if path.exists():
        raise ConfigError(f"{text} is neither a file nor a directory")
    raise UnknownTopicError(f"{text}: no such file, and no topic of that name in {directory}")


def data_directory(directory: str) -> Target:
    """Return the data directory that the command works on, whatever its topics are called.

    Raises:
        ConfigError: there is none.
    """
    path = Path(directory)
    if not path.is_dir():
        raise ConfigError(f"there is no data directory at {path.absolute()}")
    return Target(kind_of_directory(path), path)


def has_segment_header(path: Path) -> bool:
    """Return whether a file begins as a segment does, at one of the two places at least."""
    with path.open("rb") as file:
        return any(file.seek(place) == place and file.read(8) == b"pylogseg" for place in (0, 4096))


def kind_of_directory(path: Path) -> str:
    """Tell a data directory, a topic's and a partition's apart by what is in them."""
    if (path / "format").exists() or (path / "topics").is_dir():
        return "directory"
    if (path / "topic.json").exists():
        return "topic"
    if any(segment_name(found) for found in path.iterdir()):
        return "partition"
    raise ConfigError(f"{path} holds no data of pylog: neither `format` nor `topic.json` nor segments")


def topics_of(directory: Path) -> list[Path]:
    """Return the directories of all topics."""
    topics = directory / "topics"
    return [] if topics.is_symlink() else plain_directories(topics)


def partitions_of(topic: Path) -> list[Path]:
    """Return the directories of a topic's partitions, in the order of their numbers."""
    return sorted((p for p in plain_directories(topic) if p.name.isdecimal()), key=lambda p: int(p.name))


def segments_of(partition: Path) -> list[Path]:
    """Return the segment files of a partition by base offset and epoch; one never written to has none."""
    if not partition.is_dir():
        return []
    named = [(segment_name(path), path) for path in partition.iterdir() if not path.is_symlink()]
    return [path for name, path in sorted((n, p) for n, p in named if n is not None)]


def all_segments(target: Target) -> list[Path]:
    """Return every segment file of what the user pointed at."""
    if target.kind == "segment":
        return [target.path]
    return [path for partition in all_partitions(target) for path in segments_of(partition)]


def all_partitions(target: Target) -> list[Path]:
    """Return the directories of every partition of what the user pointed at."""
    if target.kind == "partition":
        return [target.path]
    topics = [target.path] if target.kind == "topic" else topics_of(target.path)
    return [partition for topic in topics for partition in partitions_of(topic)]


def plain_directories(directory: Path) -> list[Path]:
    """Return the subdirectories by name; links and hidden ones are left out."""
    if not directory.is_dir():
        return []
    with os.scandir(directory) as found:
        names = [e.name for e in found if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    return [directory / name for name in sorted(names)]


def stored_bytes(directory: Path) -> int:
    """Return the bytes that the files of a directory take on disk, those below it included; 0 without one."""
    if not directory.is_dir():
        return 0
    with os.scandir(directory) as found:
        return sum(
            stored_bytes(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_blocks * 512
            for entry in found
        )
