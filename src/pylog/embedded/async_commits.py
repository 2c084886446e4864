"""AsyncCommits: the commits of one consumer that it does not wait for.

They are stored, and so seen by everybody, before they come here; what is awaited is the disk. The engine's
Python thread syncs, the consumer's own thread tells. Invariant: callbacks are called in the order of the
commits, each once, and in no other thread than the consumer's or the closing one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logcore.offsets import OffsetTable
from pylog.errors import ClosedError, DurabilityError
from pylog.records import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.opened import OpenDirectory
    from pylog.engine import OnCommit

logger = logging.getLogger("pylog")


@dataclass(slots=True)
class AsyncCommit:
    """One of them."""

    offsets: dict[TopicPartition, OffsetAndMetadata]
    on_commit: OnCommit | None
    unsynced: list[OffsetTable]
    """Which are to be synced before it is as durable as its topics say."""
    error: BaseException | None


class AsyncCommits:
    """In their order: first those that are not on disk, then those that nobody was told of."""

    def __init__(self, engine: OpenDirectory) -> None:
        self._engine = engine
        self._unsynced: deque[AsyncCommit] = deque()
        self._answers: deque[AsyncCommit] = deque()
        self._syncing = threading.Lock()
        self._expected = False

    def add(self, commit: AsyncCommit) -> None:
        """Take a commit that was stored, or failed to be."""
        if not commit.unsynced and not self._unsynced:
            self._answers.append(commit)
            return
        self._unsynced.append(commit)
        if not self._expected:
            self._expected = True
            self._engine._flush_after(self, 0.0)

    def flush_lingering(self) -> bool:
        """Sync what came so far; what comes meanwhile is of the next round."""
        self._expected = False
        with self._syncing:
            failed: dict[OffsetTable, BaseException] = {}
            commits = [self._unsynced[n] for n in range(len(self._unsynced))]
            for table in {table for commit in commits for table in commit.unsynced}:
                try:
                    table.sync()
                except (DurabilityError, ClosedError) as error:
                    failed[table] = error
            for commit in commits:
                for table in commit.unsynced:
                    commit.error = commit.error or failed.get(table)
                # in both for a moment: add() never sees an empty queue whose last one is not answered
                self._answers.append(commit)
                self._unsynced.popleft()
        if commits:
            self._engine._registry.ring(self._engine._registry.slot)
        return True

    def tell(self) -> None:
        """Call the callbacks that are due; what one raises comes through, and it is not called again."""
        while self._answers:
            commit = self._answers.popleft()
            if commit.on_commit is not None:
                commit.on_commit(commit.offsets, commit.error)
            elif commit.error is not None:
                logger.warning("commit_async: %s", commit.error)

    def finish(self) -> None:
        """Wait for all of them."""
        if self._unsynced:
            self.flush_lingering()
        self.tell()
