"""What a consumer commits to its group, when, and in which order.

The part of a consumer that knows what the group has committed and what this member holds, and neither joins
it nor waits for records. Invariant: commit() commits nothing that the application was not given.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from logcore.offsets import OffsetTable
from logcore.offsets_file import check_metadata
from pylog.config import GroupConfig, check_count
from pylog.embedded.async_commits import AsyncCommit, AsyncCommits
from pylog.embedded.commits import Commit, GroupOffsets, StoredCommit
from pylog.embedded.positions import PositionedReader
from pylog.embedded.reading import check_offset
from pylog.errors import ConfigError, IllegalGenerationError, LockTimeoutError, PylogError, ReadOnlyError
from pylog.places import by_place, place_of
from pylog.records import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.coordinator import Coordinator
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.embedded.partition_cursor import PartitionCursor
    from pylog.engine import Offsets, OnCommit

logger = logging.getLogger("pylog")


class CommittingReader(PositionedReader):
    """What EmbeddedConsumer stands on."""

    def __init__(
        self, engine: EmbeddedEngine, *, synced: bool, group: str | None, config: GroupConfig
    ) -> None:
        super().__init__(engine, synced=synced)
        self._config = config
        self._offsets = None if group is None else GroupOffsets(engine, group)
        self._coordinator: Coordinator | None = None
        self._async: AsyncCommits | None = None
        self._finished_at = engine._clock.monotonic()
        self._commit_at = engine._clock.monotonic() + config.auto_commit_interval_ms / 1000

    def _group(self) -> GroupOffsets:
        if self._offsets is None:
            raise ConfigError("the consumer has no group: give group= to commit offsets")
        return self._offsets

    def committed(self, partition: TopicPartition | tuple[str, int]) -> int | None:
        """Return the group's committed offset, the next to read; None where there is none."""
        found = self.committed_with_metadata(partition)
        return None if found is None else found.offset

    def committed_with_metadata(
        self, partition: TopicPartition | tuple[str, int]
    ) -> OffsetAndMetadata | None:
        """Return the group's committed offset and what was committed with it."""
        self._check()
        topic, number = place_of(partition)
        log = self._engine._log(topic)
        check_count(number, "partition", 0, log.partitions - 1)
        self._finish_transactions()
        return self._group().committed_with_metadata(log, number)

    def commit(self, offsets: Offsets | None = None) -> None:
        """Commit the given offsets (next to read), or those of all that the application was given so far.

        Seen by all processes on return; on disk as the topic's durability says: at once with "sync", within
        sync_interval_ms with "interval", and at close().

        Raises:
            ConfigError: the consumer has no group, or the partition is not assigned.
            OffsetOutOfRangeError: the log has no such offset.
            IllegalGenerationError: another member has the partition now, and does again what this one did.
            DurabilityError: the disk failed.
        """
        group = self._committing()
        commits = self._positions() if offsets is None else self._wanted(offsets)
        try:
            for table in self._store(group, commits, self._coordinator):
                table.sync()
        finally:
            if self._async is not None:
                self._async.finish()

    def commit_async(self, offsets: Offsets | None = None, on_commit: OnCommit | None = None) -> None:
        """Commit as commit() does, and do not wait for the disk.

        Seen by all processes on return. A later commit() waits for it, and so does close().

        Args:
            on_commit: Called with the offsets and None once they are as durable as their topics say, or with
                what went wrong, which is logged where this is left out. It is called within a later poll,
                commit or close of this consumer, in the order of the commits.

        Raises:
            ConfigError: the consumer has no group, or the partition is not assigned.
            OffsetOutOfRangeError: the log has no such offset.
        """
        if on_commit is not None and not callable(on_commit):
            raise TypeError(f"on_commit is a function, not {type(on_commit).__name__}")
        group = self._committing()
        commits = self._positions() if offsets is None else self._wanted(offsets)
        unsynced: list[OffsetTable] = []
        failure: PylogError | None = None
        try:
            unsynced = self._store(group, commits, self._coordinator)
        except PylogError as error:
            failure = error
        if on_commit is None and failure is None and not unsynced:
            return
        if self._async is None:
            self._async = AsyncCommits(self._engine)
        found = {
            TopicPartition(log.name, partition): OffsetAndMetadata(offset, metadata)
            for log, partition, offset, _, metadata in commits
        }
        self._async.add(AsyncCommit(found, on_commit, unsynced, failure))

    def _committing(self) -> GroupOffsets:
        self._check()
        if self._offsets is None or self._engine._read_only:
            self._group()
            raise ReadOnlyError("an engine opened with read_only=True commits nothing")
        return self._offsets

    def _commits(
        self, offsets: Offsets | None
    ) -> tuple[GroupOffsets, list[Commit], dict[TopicPartition, int] | None]:
        """Return what commit() would commit, checked, and what this member holds."""
        group = self._committing()
        commits = self._positions() if offsets is None else self._wanted(offsets)
        held = None if self._coordinator is None else self._coordinator.held
        return group, [Commit(*one) for one in commits], held

    def _wanted(self, offsets: Offsets) -> list[StoredCommit]:
        commits: list[StoredCommit] = []
        for place, given in by_place(offsets, "offsets"):
            offset, metadata = given if isinstance(given, OffsetAndMetadata) else (given, b"")
            check_metadata(metadata)
            cursor = self._assigned.cursor(place)
            check_offset(cursor.log, cursor.partition, offset)
            commits.append((cursor.log, cursor.partition, offset, cursor.epoch, metadata))
        return commits

    def _positions(self) -> list[StoredCommit]:
        # as position() tells for each, in one pass: this is what commit() spends its time with
        ahead = self._ahead[self._given] if self._given < len(self._ahead) else None
        commits: list[StoredCommit] = []
        for cursor in self._assigned.cursors.values():
            if cursor.unset:
                continue
            log, partition, position = cursor.log, cursor.partition, cursor.position
            if ahead is not None and ahead.partition == partition and ahead.topic == log.name:
                position = ahead.offset
            commits.append((log, partition, position, cursor.epoch, b""))
        return commits

    def _store(
        self, group: GroupOffsets, commits: list[StoredCommit], coordinator: Coordinator | None
    ) -> list[OffsetTable]:
        """Commit, seen by everybody; returns the tables that are to be synced."""
        try:
            durable = group.store(commits, None if coordinator is None else coordinator.held)
        except IllegalGenerationError:
            if coordinator is not None:
                coordinator.refused = True
            raise
        self._assigned.counts["commits"] += 1
        return durable

    def _begin_there(self, cursor: PartitionCursor) -> None:
        """Commit where a partition begins that came later, so that whoever gets it next begins there too."""
        if self._coordinator is not None:
            with suppress(IllegalGenerationError):
                commit = (cursor.log, cursor.partition, cursor.position, cursor.epoch, b"")
                self._store(self._group(), [commit], self._coordinator)

    def _auto_commit(self, coordinator: Coordinator, *, at_once: bool = False) -> None:
        """With enable_auto_commit: commit what the application was given before this call."""
        if not self._config.enable_auto_commit:
            return
        now = self._engine._clock.monotonic()
        if now < self._commit_at and not at_once:
            return
        self._commit_at = now + self._config.auto_commit_interval_ms / 1000
        try:
            for table in self._store(self._group(), self._positions(), coordinator):
                table.sync()
        except IllegalGenerationError as error:
            logger.warning("auto-commit: %s", error)

    def _finish_for_the_dead(self) -> None:
        """What the owner of a transaction still had to append is what this consumer may be waiting for."""
        now = self._engine._clock.monotonic()
        if now - self._finished_at >= 1.0:
            self._finished_at = now
            with suppress(LockTimeoutError):  # a stopped process is at it
                self._finish_transactions()

    def _finish_transactions(self) -> None:
        """An offset counts as committed as soon as its transaction does, also where the owner died then."""
        self._engine._finish_transactions()
