"""The committed offsets of one group, as a consumer uses them: `groups/<group>/<topic>.offsets`.

They are as durable as their topic says: synced by the commit itself, within sync_interval_ms, or by close().
Also the proof that a group has one subscribed member at a time, who holds the lock of `groups/<group>/member`
until it closes or dies. Invariant: a commit names the epoch in which the records before it were read.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from logcore.offsets import OffsetTable
from logcore.processes import fork_count
from logcore.topic_log import TopicLog
from logcore.whole_files import clear_error, make_directory, open_plain
from pylog.config import TopicConfig
from pylog.embedded.directory import check_real_directory
from pylog.errors import ClosedError, DurabilityError, UnsupportedError

if TYPE_CHECKING:
    from pylog.embedded.engine import EmbeddedEngine


class GroupOffsets:
    """What a group has committed for the topics that one consumer reads."""

    def __init__(self, engine: EmbeddedEngine, group: str) -> None:
        self._membership = -1
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
        if found is None or found.topic_uuid != log.uuid:
            path = f"{self._directory}/{log.name}.offsets"
            found = self._tables[log.name] = OffsetTable(path, log.uuid, log.partitions, self._registry)
            self._configs[log.name] = self._engine.describe_topic(log.name).config
        return found

    def committed(self, log: TopicLog, partition: int) -> tuple[int, int] | None:
        """Return (offset, epoch) of the last commit, or None."""
        found = self.table(log).committed(partition)
        return None if found is None else (found[0], found[1])

    def commit(self, offsets: Iterable[tuple[TopicLog, int, int, int]]) -> None:
        """Commit (log, partition, offset, epoch) each: seen by all processes on return."""
        durable = set()
        for log, partition, offset, epoch in offsets:
            self.table(log).commit(partition, offset, epoch, 0)
            config = self._configs[log.name]
            if config.durability == "sync":
                durable.add(log.name)
            else:
                self._unsynced.add(log.name)
                if config.durability == "interval" and not self._expects_flush:
                    self._expects_flush = True
                    self._engine._flush_after(self, config.sync_interval_ms / 1000)
        for name in durable:
            self._tables[name].sync()

    def flush_lingering(self) -> bool:
        """Sync what was committed since; a failure poisons the table, so that the next commit raises."""
        self._expects_flush = False
        while self._unsynced:
            table = self._tables.get(self._unsynced.pop())
            with suppress(DurabilityError, ClosedError):
                if table is not None:
                    table.sync()
        return True

    def join(self) -> None:
        """Become the subscribed member of the group.

        Raises:
            UnsupportedError: it has one, in this process or another.
        """
        if self._membership >= 0 or self._registry.read_only:
            return
        make_directory(self._directory)
        path = f"{self._directory}/member"
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = open_plain(directory, "member", path, os.O_RDWR | os.O_CREAT)
        finally:
            os.close(directory)
        try:
            os.fchmod(fd, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise UnsupportedError(
                f"group {self.group!r} has a subscribed member already: it takes one at a "
                "time; assign() partitions to several consumers, or use another group"
            ) from None
        except OSError as error:
            os.close(fd)
            raise clear_error(error, path) from None
        self._membership = fd
        _members.add(self)

    def leave(self) -> None:
        """Let another member subscribe."""
        if self._membership >= 0:
            if self._forks == fork_count():
                # also for the copy of a child that has not closed it yet
                fcntl.flock(self._membership, fcntl.LOCK_UN)
            os.close(self._membership)
            self._membership = -1

    def close(self) -> None:
        """Sync what was committed, and let another member subscribe.

        Raises:
            DurabilityError: the disk failed; the commits are seen, but a power cut may take them.
        """
        self.leave()
        try:
            for name in sorted(self._unsynced):
                self._tables[name].sync()
        finally:
            self._let_go()

    def __del__(self) -> None:
        # of a consumer that was dropped
        self.leave()
        if self._forks == fork_count():
            self.flush_lingering()

    def _let_go(self) -> None:
        self._unsynced.clear()
        for table in self._tables.values():
            table.close()
        self._tables.clear()


_members: weakref.WeakSet[GroupOffsets] = weakref.WeakSet()


def _leave_in_child() -> None:
    # the child shares its parent's open file, and with it the lock, which would outlive the parent
    for member in list(_members):
        member.leave()


os.register_at_fork(after_in_child=_leave_in_child)
