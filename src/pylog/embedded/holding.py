"""What holds records back: how far the groups and queues that a topic waits for have consumed a partition.

Asked by cleaning.py before segments go. Invariant: before they do the offsets are on disk (sync()), so that
after a power cut no group goes back to records that went because it had consumed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from logcore.offsets import OffsetTable
from logcore.processes import Registry
from logcore.segment_files import read_start
from logcore.topic_log import TopicLog
from pylog.embedded.group_state import GroupFiles
from pylog.embedded.queue_files import floor_path, load_queue


class Held(NamedTuple):
    """How far all of them have consumed a partition, and the one that is furthest behind."""

    offset: int
    group: str


class Holders:
    """The groups that one topic waits for, for as long as the block; a name may also be that of a queue."""

    def __init__(self, root: str, registry: Registry, log: TopicLog, groups: Iterable[str]) -> None:
        self._root = root
        self._registry = registry
        self._log = log
        self._tables = {group: list(self._tables_of(group)) for group in groups}

    def _tables_of(self, group: str) -> Iterator[OffsetTable]:
        """Yield the table of the group, and that of the queue of this name if it works the topic."""
        paths = [f"{self._root}/groups/{group}/{self._log.name}.offsets"]
        queue = load_queue(self._root, group)
        if queue is not None and queue.topic == self._log.name:
            paths.append(floor_path(self._root, group))
        for path in paths:
            if Path(path).exists():
                yield OffsetTable(path, self._log.uuid, self._log.partitions, self._registry)

    def behind(self, partition: int) -> Held:
        """Return how far all have come. Raises CorruptionError where that cannot be told."""
        return min(
            Held(min((self._consumed(table, partition) for table in tables), default=0), group)
            for group, tables in self._tables.items()
        )

    def _consumed(self, table: OffsetTable, partition: int) -> int:
        found = table.committed(partition)
        if found is None:
            return 0
        offset, epoch, _ = found
        cut = read_start(f"{self._log.directory}/{partition}").newer_epoch(epoch)
        # what stood behind a cut is not what stands there now
        return offset if cut is None else min(offset, cut[1])

    def lives(self, group: str) -> bool:
        """Return whether somebody is a member of the group."""
        state = GroupFiles(f"{self._root}/groups/{group}/members", self._registry, create=False).load()
        return any(self._registry.lives(one.slot, one.incarnation) for one in state.members.values())

    def sync(self) -> None:
        """Bring what was committed to disk. Raises DurabilityError."""
        for table in self._everything():
            table.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for table in self._everything():
            table.close()

    def _everything(self) -> Iterator[OffsetTable]:
        return chain.from_iterable(self._tables.values())
