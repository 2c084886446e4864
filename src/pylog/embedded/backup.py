"""A hot backup: a consistent copy of a data directory that others go on writing to; opening it restores it.

Committed offsets and the state of queues are noted before the ends, and records are copied up to the noted
ends, so that no group or queue is ahead of its topic; while both are noted no transaction commits, so that
each is in it as a whole or not at all. Sealed segments are linked where the file system can, since nobody
changes them; active ones are copied. Not taken: what only living processes share. Invariant: `destination`
appears by one rename, whole and on disk, or not at all.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from logcore.offsets import OffsetTable
from logcore.processes import Registry
from logcore.scan import ScannedBatch, SegmentScan
from logcore.segment_files import SegmentFile, caches_of, list_segments
from logcore.whole_files import clear_error, locked_directory
from pylog.embedded.queue_files import QueueFiles, list_queues
from pylog.errors import ConfigError, UnknownTopicError
from pylog.records import TopicDescription, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.administration import AdministeredDirectory

logger = logging.getLogger("pylog")

TRIES = 5
"""How often a partition is looked at again whose segments were deleted meanwhile."""
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass
class BackupReport:
    """What a backup holds."""

    path: str
    topics: int = 0
    groups: int = 0
    queues: int = 0
    records: int = 0
    linked_bytes: int = 0
    copied_bytes: int = 0


class _Committed(NamedTuple):
    group: str
    topic: TopicDescription
    partition: int
    offset: int
    epoch: int
    generation: int
    metadata: bytes


def back_up(engine: AdministeredDirectory, destination: str | os.PathLike[str]) -> BackupReport:
    """Copy the engine's data directory to `destination`: see AdministeredDirectory.backup."""
    target = Path(os.fspath(destination)).absolute()
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} is there already: a backup makes its own directory")
    if target.is_relative_to(engine.path):
        raise ConfigError(f"{target} lies inside the data directory that is to be backed up")
    unfinished = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    report = BackupReport(str(target))
    try:
        unfinished.mkdir(mode=0o700)
        _fill(engine, unfinished, report)
        _sync_tree(unfinished)
        unfinished.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise clear_error(error, str(target)) from None
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(unfinished)
    return report


def _fill(engine: AdministeredDirectory, target: Path, report: BackupReport) -> None:
    source = Path(engine.path)
    with locked_directory(engine.path, engine._lock_timeout):  # which committing transactions share
        engine._finish_transactions()
        committed = _committed(engine)
        queues = _queues(engine)  # before the ends too
        topics, ends = _ends(engine)
    shutil.copyfile(source / "format", target / "format")
    with suppress(FileNotFoundError):
        shutil.copytree(source / "producers", target / "producers", ignore=shutil.ignore_patterns(".*"))
    for topic in topics:
        directory = target / "topics" / topic.name
        directory.mkdir(parents=True)
        shutil.copyfile(source / "topics" / topic.name / "topic.json", directory / "topic.json")
        for partition in range(topic.partitions):
            end = ends[TopicPartition(topic.name, partition)]
            place = source / "topics" / topic.name / str(partition)
            _copy_partition(place, directory / str(partition), end, report)
            report.records += end - engine.log_start_offset(topic.name, partition)
        report.topics += 1
    (target / "topics").mkdir(exist_ok=True)
    for path, content in queues.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)
        (target / path).chmod(0o600)
    report.queues = len({path.parent for path in queues})
    _write_offsets(target, [found for found in committed if found.topic in topics], report)


def _queues(engine: AdministeredDirectory) -> dict[Path, bytes]:
    """Return the files of each queue: its options and, as of one instant each, its delivery tables."""
    found: dict[Path, bytes] = {}
    for queue in list_queues(engine.path):
        files = QueueFiles(engine, queue)
        document = files.load()
        with suppress(UnknownTopicError):
            if document is None:
                continue
            log = engine._log(document.topic)
            place = Path("queues", queue)
            found[place / "queue.json"] = Path(files.directory, "queue.json").read_bytes()
            with closing(files.floors(log)) as floors:
                for path in sorted(Path(files.directory).glob("*.deliveries")):
                    with closing(files.table(log, int(path.stem), document.config, floors)) as table:
                        found[place / path.name] = table.snapshot()
    return found


def _ends(engine: AdministeredDirectory) -> tuple[list[TopicDescription], dict[TopicPartition, int]]:
    topics, ends = [], {}
    for name in engine.list_topics():
        with suppress(UnknownTopicError):  # deleted just now
            topic = engine.describe_topic(name)
            for partition in range(topic.partitions):
                ends[TopicPartition(name, partition)] = engine.log_end_offset(name, partition)
            topics.append(topic)
    return topics, ends


# ---- segments -----------------------------------------------------------------------------------------


def _copy_partition(source: Path, target: Path, end: int, report: BackupReport) -> None:
    """Copy what a partition has below offset `end`; look again where retention took something meanwhile."""
    if not source.exists():
        return
    for tries in range(TRIES):
        target.mkdir(mode=0o700)
        try:
            with suppress(FileNotFoundError):
                shutil.copyfile(source / "start", target / "start")
            for segment, is_whole in _wanted(source, end):
                if is_whole:
                    _link(segment, target, report)
                else:
                    _copy_up_to(segment, target, end, report)
            return
        except FileNotFoundError:
            shutil.rmtree(target)
            if tries == TRIES - 1:
                raise


def _wanted(source: Path, end: int) -> list[tuple[SegmentFile, bool]]:
    """Return the segments that begin below `end`, and whether each ends there or below; one at least."""
    segments = list_segments(str(source))
    wanted = [segment for segment in segments if segment.base_offset <= end]
    found = []
    for number, segment in enumerate(wanted):
        successor = wanted[number + 1] if number + 1 < len(wanted) else None
        found.append((segment, successor is not None and successor.base_offset <= end))
    return found


def _link(segment: SegmentFile, target: Path, report: BackupReport) -> None:
    """Take a sealed segment as it is, and its indexes where there are any."""
    _link_file(Path(segment.path), target, report)
    for cache in caches_of(segment.path):
        with suppress(FileNotFoundError):
            _link_file(Path(cache), target, report)


def _link_file(file: Path, target: Path, report: BackupReport) -> None:
    try:
        os.link(file, target / file.name, follow_symlinks=False)
        report.linked_bytes += file.stat().st_size
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(file, target / file.name, follow_symlinks=False)
        report.copied_bytes += file.stat().st_size


def _copy_up_to(segment: SegmentFile, target: Path, end: int, report: BackupReport) -> None:
    """Copy the batches of a segment up to offset `end`: they are published, so they stay as they are."""
    scan = SegmentScan(segment.path)
    try:
        position = scan.next_position
        for entry in scan.entries(verify_bodies=False):
            if not isinstance(entry, ScannedBatch) or entry.next_offset > end:
                break
            position = entry.position + entry.length
    finally:
        scan.close()
    copy = target / Path(segment.path).name
    with Path(segment.path).open("rb") as source, copy.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        left = position
        while left and (piece := source.read(min(left, 1 << 20))):
            file.write(piece)
            left -= len(piece)
    report.copied_bytes += position


# ---- committed offsets --------------------------------------------------------------------------------


def _committed(engine: AdministeredDirectory) -> list[_Committed]:
    """Return what each group has committed for the topics that are there."""
    found = []
    groups = Path(engine.path, "groups")
    for group in sorted(groups.iterdir()) if groups.exists() else []:
        for file in sorted(group.glob("*.offsets")):
            try:
                topic = engine.describe_topic(file.stem)
            except UnknownTopicError:
                continue
            table = OffsetTable(str(file), bytes.fromhex(topic.uuid), topic.partitions, engine._registry)
            try:
                for partition in range(topic.partitions):
                    known = table.committed(partition)
                    if known is None:
                        continue
                    offset, epoch, metadata = known
                    place = (group.name, topic, partition)
                    found.append(
                        _Committed(*place, offset, epoch, table.generation(partition), metadata or b"")
                    )
            finally:
                table.close()
    return found


def _write_offsets(target: Path, committed: list[_Committed], report: BackupReport) -> None:
    """Commit in the copy what was committed in the original."""
    registry = Registry(str(target))
    try:
        tables: dict[tuple[str, str], OffsetTable] = {}
        for found in committed:
            table = tables.get((found.group, found.topic.name))
            if table is None:
                path = target / "groups" / found.group / f"{found.topic.name}.offsets"
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                table = OffsetTable(
                    str(path), bytes.fromhex(found.topic.uuid), found.topic.partitions, registry
                )
                tables[found.group, found.topic.name] = table
            table.commit(found.partition, found.offset, found.epoch, found.generation, found.metadata)
        for table in tables.values():
            table.sync()
            table.close()
        report.groups = len({group for group, _ in tables})
    finally:
        registry.close()
        for name in ("processes", "lock"):
            with suppress(FileNotFoundError):
                (target / name).unlink()


# ---- the disk -----------------------------------------------------------------------------------------


def _sync_tree(root: Path) -> None:
    for directory, _, files in os.walk(root):
        for name in files:
            _sync(Path(directory, name))
        Path(directory).chmod(0o700)
        _sync(Path(directory))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
