"""What one cleaning of a partition does: retention by time and by size, and compaction by key.

Policy only; the bytes are moved by logcore.compaction and logcore.dropping. Nobody else cleans the partition
meanwhile. Invariant: the active segment, and what is not on disk yet, are never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from logcore.compaction import remove_unfinished, rewrite_segment
from logcore.key_map import KeyMap
from logcore.sealed_segments import SealedSegment, map_keys, roll_segment, sealed_segments
from logcore.topic_log import TopicLog
from pylog.embedded.cleaned import read_cleaned, write_cleaned
from pylog.records import CleaningReport

if TYPE_CHECKING:
    from logcore.partition_log import PartitionLog
    from pylog.clock import Clock
    from pylog.config import TopicConfig
    from pylog.embedded.holding import Holders

KEY_MAP_BYTES = 128 << 20
"""Memory for the last offset of each key, 32 bytes a key; where it does not do, several passes are made."""
NS_PER_MS = 1_000_000

Pace = Callable[[int], None]


def needs_cleaning(config: TopicConfig) -> bool:
    """Return whether records of such a topic ever go."""
    if config.cleanup_policy == "compact":
        return True
    return config.retention_ms >= 0 or config.retention_bytes >= 0 or bool(config.retention_groups)


@dataclass(slots=True)
class Expired:
    """What retention finds: the oldest segments that go, and what waits for a group."""

    going: list[SealedSegment] = field(default_factory=list)
    unconsumed_bytes: int = 0
    held_bytes: int = 0
    held_by: str | None = None


@dataclass(frozen=True, slots=True)
class Cleaning:
    """One partition to be cleaned.

    `jumped`: the wall clock is further ahead than it can be: at most one segment is deleted, no tombstone.
    `holders`: the groups that what is deleted waits for.
    """

    log: TopicLog
    partition: int
    config: TopicConfig
    clock: Clock
    jumped: bool = False
    pace: Pace | None = None
    holders: Holders | None = None

    @property
    def _partition_log(self) -> PartitionLog:
        return self.log.partition_log(self.partition)

    def plan(self) -> CleaningReport:
        """Return what run() would find to do; changes nothing."""
        if self.config.cleanup_policy == "compact":
            segments = self._old_enough(sealed_segments(self._partition_log))
            dirty, total = self._dirty(segments)
            return self._report(dirty_bytes=dirty, bytes_before=total, bytes_after=total)
        expired = self._expired(sealed_segments(self._partition_log))
        going = expired.going
        return self._report(
            going[-1].end_offset if going else None,
            deleted_bytes=sum(segment.stored_bytes for segment in going),
            unconsumed_bytes=expired.unconsumed_bytes,
            held_bytes=expired.held_bytes,
            held_by=expired.held_by,
        )

    def run(self, *, now: bool = False) -> CleaningReport:
        """Clean; `now`: compact whatever is dirty and however young, the active segment rolled first.

        Raises:
            CorruptionError: a segment is damaged; it stays as it is, and nothing behind it is compacted.
            DiskFullError, OSError, DurabilityError, LockTimeoutError, ClosedError
        """
        if self.config.cleanup_policy == "compact":
            return self._compact(now)
        plan = self.plan()
        if plan.deleted_bytes:
            if self.holders is not None:
                self.holders.sync()
            self.log.delete_records(self.partition, plan.log_start_offset)
        return plan

    def _report(self, start: int | None = None, **found: Any) -> CleaningReport:
        if start is None:
            start = self.log.log_start_offset(self.partition)
        return CleaningReport(self.log.name, self.partition, start, **found)

    # ---- retention --------------------------------------------------------------------------------------

    def _expired(self, segments: list[SealedSegment]) -> Expired:
        """Return the oldest segments, as far as they are too old, or too much, and consumed."""
        config = self.config
        found = Expired()
        oldest = self.clock.time_ns() - config.retention_ms * NS_PER_MS
        left = sum(segment.stored_bytes for segment in segments) + self.log.active_bytes(self.partition)
        held = None if self.holders is None else self.holders.behind(self.partition)
        until_consumed = held is not None and config.retention_ms < 0 and config.retention_bytes < 0
        for segment in segments:
            left -= segment.stored_bytes
            too_old = config.retention_ms >= 0 and segment.max_timestamp < oldest
            too_much = 0 <= config.retention_bytes <= left
            if not (too_old or too_much or until_consumed):
                break
            if held is not None and segment.end_offset > held.offset:
                found.held_by = held.group
                if not 0 <= config.retention_groups_max_bytes <= left:
                    found.held_bytes += segment.stored_bytes
                    continue
                found.unconsumed_bytes += segment.stored_bytes
            found.going.append(segment)
            if self.jumped:
                break
        return found

    # ---- compaction -------------------------------------------------------------------------------------

    def _old_enough(self, segments: list[SealedSegment]) -> list[SealedSegment]:
        """Leave out what is younger than min_compaction_lag_ms, and all behind it."""
        if not self.config.min_compaction_lag_ms:
            return segments
        newest = self.clock.time_ns() - self.config.min_compaction_lag_ms * NS_PER_MS
        found = []
        for segment in segments:
            if segment.max_timestamp > newest:
                break
            found.append(segment)
        return found

    def _dirty(self, segments: list[SealedSegment]) -> tuple[int, int]:
        """Return the bytes that were not compacted yet, and all."""
        cleaned_to = read_cleaned(self._partition_log.directory).cleaned_to
        dirty = sum(segment.stored_bytes for segment in segments if segment.end_offset > cleaned_to)
        return dirty, sum(segment.stored_bytes for segment in segments)

    def _compact(self, now: bool) -> CleaningReport:
        log = self._partition_log
        remove_unfinished(log)
        if now:
            roll_segment(log)
        segments = sealed_segments(log)
        if not now:
            segments = self._old_enough(segments)
        dirty, total = self._dirty(segments)
        worth_it = dirty > 0 and dirty >= self.config.min_cleanable_dirty_ratio * total
        if not segments or not (now or worth_it):
            return self._report(dirty_bytes=dirty, bytes_before=total, bytes_after=total)
        return self._rewrite(segments, self._report(dirty_bytes=dirty, bytes_before=total, bytes_after=total))

    def _rewrite(self, segments: list[SealedSegment], report: CleaningReport) -> CleaningReport:
        """Compact the segments, in as many passes as the key map needs."""
        log = self._partition_log
        cleaned = read_cleaned(log.directory)
        horizon = self.clock.time_ns() - self.config.delete_retention_ms * NS_PER_MS
        tombstones_below = 0 if self.jumped else cleaned.tombstones_below(horizon)
        limit = segments[-1].end_offset
        covered = min(max(cleaned.map_from, segments[0].base_offset), limit)
        outgrown: int | None = None
        while True:
            keys = KeyMap(limit - covered, KEY_MAP_BYTES)
            covered = map_keys(log, keys, segments, covered, self.pace)
            for segment in segments:
                if segment.base_offset >= covered:
                    break
                found = rewrite_segment(log, keys, segment, covered, tombstones_below, self.pace)
                if found.outgrown and (outgrown is None or segment.base_offset < outgrown):
                    outgrown = segment.base_offset
                report = replace(
                    report,
                    bytes_after=report.bytes_after + found.bytes_after - found.bytes_before,
                    removed_records=report.removed_records + found.removed,
                    rewritten_segments=report.rewritten_segments + (found.removed > 0),
                )
            if covered >= limit:
                break
            segments = [segment for segment in sealed_segments(log) if segment.end_offset <= limit]
        write_cleaned(log.directory, cleaned.with_pass(limit, self.clock.time_ns(), outgrown))
        return report
