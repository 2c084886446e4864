"""The cleaner: deletes and compacts in the background, and when asked.

In the background it works on the topics that its engine has open, on the engine's one Python thread, which it
lets flush producers between its steps. Invariant: one process at a time cleans a data directory; the lock is
the kernel's, and so free when its holder dies.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from logcore.whole_files import locked_directory, make_directory
from pylog.embedded.cleaning import Cleaning, Pace
from pylog.embedded.holding import Holders
from pylog.errors import ClosedError, LockTimeoutError, PylogError
from pylog.records import CleaningReport

if TYPE_CHECKING:
    from logcore.processes import Registry
    from logcore.topic_log import TopicLog
    from pylog.clock import Clock
    from pylog.config import TopicConfig
    from pylog.embedded.lingering import Lingering
    from pylog.embedded.opened import OpenDirectory

logger = logging.getLogger("pylog")

EVERY_SECONDS = 15.0
BYTES_PER_SECOND = 64 << 20
"""What cleaning in the background reads and writes at most."""
LONGEST_SLICE = 0.005
"""Seconds of work before it looks whether somebody waits for the thread."""
JUMP_NS = 86_400 * 1_000_000_000


class Cleaner:
    """Cleans for one engine."""

    def __init__(self, root: str, clock: Clock, registry: Registry) -> None:
        self._lock_path = f"{root}/cleaner"
        self._root = root
        self._clock = clock
        self._registry = registry
        # of each partition: bytes that wait for a group
        self._held: dict[tuple[str, int], int] = {}
        self._warned: set[tuple[str, int]] = set()
        self._began = clock.time_ns() - int(clock.monotonic() * 1e9)
        self.counted = {
            "cleanings": 0,
            "deleted_bytes": 0,
            "unconsumed_bytes": 0,
            "held_bytes": 0,
            "compacted_bytes": 0,
            "removed_records": 0,
        }

    @property
    def jumped(self) -> bool:
        """Whether the wall clock went forward by more than a day beside the time that passed."""
        return self._clock.time_ns() - int(self._clock.monotonic() * 1e9) - self._began > JUMP_NS

    @contextmanager
    def turn(self, timeout: float) -> Iterator[None]:
        """Be the one who cleans. Raises LockTimeoutError while another process or thread does."""
        make_directory(self._lock_path)
        with locked_directory(self._lock_path, timeout):
            if self.jumped:
                logger.warning(
                    "the clock went forward by more than a day: each cleaning deletes one segment of a "
                    "partition at most, and no tombstone"
                )
            yield

    def clean(
        self,
        log: TopicLog,
        config: TopicConfig,
        *,
        now: bool = False,
        plan: bool = False,
        pace: Pace | None = None,
    ) -> list[CleaningReport]:
        """Clean all partitions of a topic, within a turn; a report says why one could not be cleaned."""
        if config.cleanup_policy == "compact" or not config.retention_groups:
            return [self._clean(log, p, config, now, plan, pace, None) for p in range(log.partitions)]
        with Holders(self._root, self._registry, log, config.retention_groups) as holders:
            found = [self._clean(log, p, config, now, plan, pace, holders) for p in range(log.partitions)]
            if not plan:
                self._tell_of_waiting(found, config, holders)
        return found

    def _clean(
        self,
        log: TopicLog,
        partition: int,
        config: TopicConfig,
        now: bool,
        plan: bool,
        pace: Pace | None,
        holders: Holders | None,
    ) -> CleaningReport:
        cleaning = Cleaning(log, partition, config, self._clock, self.jumped, pace, holders)
        try:
            if plan:
                return cleaning.plan()
            report = cleaning.run(now=now)
        except ClosedError:
            raise
        except (PylogError, OSError) as error:
            logger.error("cannot clean %s-%d: %s", log.name, partition, error)
            return CleaningReport(log.name, partition, 0, error=str(error))
        self._count(report)
        return report

    def _tell_of_waiting(
        self, reports: list[CleaningReport], config: TopicConfig, holders: Holders
    ) -> None:
        """Warn of what waits for a group that is late, or dead, once until it waits no more."""
        late = config.retention_ms >= 0 or config.retention_bytes >= 0
        for report in reports:
            place = (report.topic, report.partition)
            group = report.held_by
            if report.unconsumed_bytes:
                logger.warning(
                    "%s-%d: %d bytes went that group %r had not consumed: retention_groups_max_bytes is %d",
                    *place,
                    report.unconsumed_bytes,
                    group,
                    config.retention_groups_max_bytes,
                )
            if not report.held_bytes or group is None:
                self._held.pop(place, None)
                self._warned.discard(place)
                continue
            self._held[place] = report.held_bytes
            if place in self._warned or not (late or not holders.lives(group)):
                continue
            self._warned.add(place)
            logger.warning(
                "%s-%d: %d bytes wait for group %r, which has %s: they stay until it has consumed them",
                *place,
                report.held_bytes,
                group,
                "members" if holders.lives(group) else "no member",
            )
        self.counted["held_bytes"] = sum(self._held.values())

    def _count(self, report: CleaningReport) -> None:
        if not (report.deleted_bytes or report.rewritten_segments):
            return
        logger.info("cleaned %s", report)
        self.counted["cleanings"] += 1
        self.counted["deleted_bytes"] += report.deleted_bytes
        self.counted["unconsumed_bytes"] += report.unconsumed_bytes
        self.counted["compacted_bytes"] += report.bytes_before - report.bytes_after
        self.counted["removed_records"] += report.removed_records


class BackgroundCleaning:
    """What the engine's thread does every EVERY_SECONDS."""

    def __init__(self, engine: OpenDirectory, cleaner: Cleaner, lingering: Lingering) -> None:
        self._engine = weakref.ref(engine)
        self._cleaner = cleaner
        self._lingering = lingering
        self._pid = os.getpid()
        self._slice_began = self._work_began = 0.0
        self._bytes = 0

    def flush_lingering(self) -> bool:
        """Clean what this engine has open, unless another process is cleaning; and again later."""
        engine = self._engine()
        if engine is None or engine.closed or self._pid != os.getpid():
            return True
        try:
            with self._cleaner.turn(0.0):
                self._slice_began = self._work_began = time.monotonic()
                self._bytes = 0
                for log, config in engine._to_be_cleaned():
                    self._cleaner.clean(log, config, pace=self._pace)
        except LockTimeoutError:
            logger.debug("another process is cleaning")
        except ClosedError:
            return True
        except (PylogError, OSError) as error:
            logger.error("cannot clean: %s", error)
        del engine
        self._lingering.expect(self, EVERY_SECONDS)
        return True

    def _pace(self, done: int) -> None:
        """Let the thread's other work go first, and keep to BYTES_PER_SECOND; ClosedError when it ends."""
        self._bytes += done
        now = time.monotonic()
        early = self._work_began + self._bytes / BYTES_PER_SECOND - now
        if early <= 0 and now - self._slice_began < LONGEST_SLICE:
            return
        if not self._lingering.serve(max(early, 0.0)):
            raise ClosedError("the engine is closing")
        self._slice_began = time.monotonic()
