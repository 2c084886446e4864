"""The committed offsets of one group, as a consumer uses them: `groups/<group>/<topic>.offsets`.

They are as durable as their topic says: synced by the commit itself, within sync_interval_ms, or by close().
Invariant: a commit names the epoch in which the records before it were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from logcore.offsets import OffsetTable
from logcore.processes import fork_count
from logcore.topic_log import TopicLog
from pylog.config import TopicConfig
from pylog.embedded.directory import check_real_directory
from pylog.embedded.group_state import GroupFiles
from pylog.errors import ClosedError, DurabilityError, FencedError, IllegalGenerationError
from pylog.records import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.administration import AdministeredDirectory


class Commit(NamedTuple):
    """The next offset to read of a partition, and the epoch in which the record before it was read."""

    log: TopicLog
    partition: int
    offset: int
    epoch: int
    metadata: bytes = b""


StoredCommit = tuple[TopicLog, int, int, int, bytes]
"""A Commit without its names, which is made in a fifth of the time."""


class GroupOffsets:
    """What a group has committed for the topics that one consumer reads."""

    def __init__(self, engine: AdministeredDirectory, group: str) -> None:
        self._unsynced: set[str] = set()
        self._forks = fork_count()
        self.group = group
        self._engine = engine
        self._directory = f"{engine.path}/groups/{group}"
        self._registry = engine._registry
        self._tables: dict[str, OffsetTable] = {}
        self._configs: dict[str, TopicConfig] = {}
        self._expects_flush = False
        check_real_directory(f"{engine.path}/groups")
        check_real_directory(self._directory)

    def table(self, log: TopicLog) -> OffsetTable:
        """Return the table of a topic."""
        found = self._tables.get(log.name)
        if found is None or found.topic_uuid != log.uuid or found.partitions < log.partitions:
            path = f"{self._directory}/{log.name}.offsets"
            found = self._tables[log.name] = OffsetTable(path, log.uuid, log.partitions, self._registry)
            self._configs[log.name] = self._engine.describe_topic(log.name).config
        return found

    def committed(self, log: TopicLog, partition: int) -> tuple[int, int] | None:
        """Return (offset, epoch) of the last commit, or None."""
        found = self.table(log).committed(partition)
        return None if found is None else (found[0], found[1])

    def committed_with_metadata(self, log: TopicLog, partition: int) -> OffsetAndMetadata | None:
        """Return the last commit, or None; metadata that a power cut took is empty."""
        found = self.table(log).committed(partition)
        return None if found is None else OffsetAndMetadata(found[0], found[2] or b"")

    def store(
        self, commits: Iterable[StoredCommit], held: Mapping[Any, int] | None
    ) -> list[OffsetTable]:
        """Commit: seen by all processes on return.

        Args:
            held: what the member has and since which generation; None for who is no member.

        Returns:
            The tables that are to be synced now, where the durability of their topics says so.

        Raises:
            IllegalGenerationError: a partition is another member's.
        """
        durable: list[OffsetTable] = []
        for log, partition, offset, epoch, metadata in commits:
            name = log.name
            table = self._tables.get(name)
            if table is None or table.topic_uuid != log.uuid or partition >= table.partitions:
                table = self.table(log)
            if held is None:
                generation = self._generation_of_nobody(table, partition)
            else:
                generation = held.get((name, partition), -1)  # equal to a TopicPartition, and quicker to make
            try:
                if generation < 0:
                    raise FencedError(f"{name}-{partition} is not this consumer's to commit")
                table.commit(partition, offset, epoch, generation, metadata)
            except FencedError as error:
                raise IllegalGenerationError(
                    f"group {self.group!r}: {name}-{partition} went to another member, which gets the "
                    f"records from the last committed offset on: {error}",
                    group=self.group,
                    generation=max(generation, 0),
                ) from None
            if name in self._unsynced:
                continue  # and so to be synced after this commit, too
            config = self._configs[name]
            if config.durability != "sync":
                self._sync_later(name, config)
            elif table not in durable:
                durable.append(table)
        return durable

    def _sync_later(self, name: str, config: TopicConfig) -> None:
        self._unsynced.add(name)
        if config.durability == "interval" and not self._expects_flush:
            self._expects_flush = True
            self._engine._flush_after(self, config.sync_interval_ms / 1000)

    def generation(self, commit: Commit, held: Mapping[TopicPartition, int] | None) -> int:
        """Return the generation with which a partition is committed; -1 where it is another member's."""
        if held is None:
            return self._generation_of_nobody(self.table(commit.log), commit.partition)
        return held.get(TopicPartition(commit.log.name, commit.partition), -1)

    def _generation_of_nobody(self, table: OffsetTable, partition: int) -> int:
        """Return what who is in no group commits with: possible while the group has no living member."""
        generation = table.generation(partition)
        if generation == 0:
            return 0
        state = GroupFiles(f"{self._directory}/members", self._registry, create=False).load()
        living = (self._registry.lives(member.slot, member.incarnation) for member in state.members.values())
        return -1 if any(living) else generation

    def flush_lingering(self) -> bool:
        """Sync what was committed since; a failure poisons the table, so that the next commit raises."""
        self._expects_flush = False
        while self._unsynced:
            table = self._tables.get(self._unsynced.pop())
            with suppress(DurabilityError, ClosedError):
                if table is not None:
                    table.sync()
        return True

    def close(self) -> None:
        """Sync what was committed.

        Raises:
            DurabilityError: the disk failed; the commits are seen, but a power cut may take them.
        """
        try:
            for name in sorted(self._unsynced):
                self._tables[name].sync()
        finally:
            self._let_go()

    def __del__(self) -> None:
        # of a consumer that was dropped
        if self._forks == fork_count():
            self.flush_lingering()

    def _let_go(self) -> None:
        self._unsynced.clear()
        for table in self._tables.values():
            table.close()
        self._tables.clear()
