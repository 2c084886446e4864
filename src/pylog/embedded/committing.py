"""What a consumer commits to its group, when, and in which order.

The part of a consumer that knows what the group has committed and what this member holds, and neither joins
it nor waits for records. Invariant: commit() commits nothing that the application was not given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from logcore.offsets_file import check_metadata
from pylog.config import GroupConfig, check_count
from pylog.embedded.commits import Commit, GroupOffsets
from pylog.embedded.positions import PositionedReader
from pylog.embedded.reading import check_offset
from pylog.errors import ConfigError, IllegalGenerationError, ReadOnlyError
from pylog.places import by_place, place_of
from pylog.records import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.coordinator import Coordinator
    from pylog.embedded.engine import EmbeddedEngine

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

    def commit(
        self, offsets: Mapping[TopicPartition | tuple[str, int], int | OffsetAndMetadata] | None = None
    ) -> None:
        """Commit the given offsets (next to read), or those of all that the application was given so far.

        Seen by all processes on return; on disk as the topic's durability says: at once with "sync", within
        sync_interval_ms with "interval", and at close().

        Raises:
            ConfigError: the consumer has no group, or the partition is not assigned.
            OffsetOutOfRangeError: the log has no such offset.
            IllegalGenerationError: another member has the partition now, and does again what this one did.
            DurabilityError: the disk failed.
        """
        _, commits, _ = self._commits(offsets)
        self._commit(commits, self._coordinator)

    def _commits(
        self, offsets: Mapping[TopicPartition | tuple[str, int], int | OffsetAndMetadata] | None
    ) -> tuple[GroupOffsets, list[Commit], dict[TopicPartition, int] | None]:
        """Return what commit() is to commit, checked, and what this member holds."""
        self._check()
        group = self._group()
        if self._engine.read_only:
            raise ReadOnlyError("an engine opened with read_only=True commits nothing")
        held = None if self._coordinator is None else self._coordinator.held
        if offsets is None:
            return group, self._positions(), held
        commits = []
        for place, given in by_place(offsets, "offsets"):
            offset, metadata = given if isinstance(given, OffsetAndMetadata) else (given, b"")
            check_metadata(metadata)
            cursor = self._assigned.cursor(place)
            check_offset(cursor.log, cursor.partition, offset)
            commits.append(Commit(cursor.log, cursor.partition, offset, cursor.epoch, metadata))
        return group, commits, held

    def _positions(self) -> list[Commit]:
        cursors = [cursor for cursor in self._assigned.cursors.values() if not cursor.unset]
        return [
            Commit(cursor.log, cursor.partition, self._position(cursor), cursor.epoch) for cursor in cursors
        ]

    def _commit(self, commits: list[Commit], coordinator: Coordinator | None) -> None:
        try:
            self._group().commit(commits, None if coordinator is None else coordinator.held)
        except IllegalGenerationError:
            if coordinator is not None:
                coordinator.refused = True
            raise
        self._assigned.counts["commits"] += 1

    def _auto_commit(self, coordinator: Coordinator, *, at_once: bool = False) -> None:
        """With enable_auto_commit: commit what the application was given before this call."""
        if not self._config.enable_auto_commit:
            return
        now = self._engine._clock.monotonic()
        if now < self._commit_at and not at_once:
            return
        self._commit_at = now + self._config.auto_commit_interval_ms / 1000
        try:
            self._commit(self._positions(), coordinator)
        except IllegalGenerationError as error:
            logger.warning("auto-commit: %s", error)

    def _finish_transactions(self) -> None:
        """An offset counts as committed as soon as its transaction does, also where the owner died then."""
        if not self._engine.read_only:
            self._engine._finish_transactions()
