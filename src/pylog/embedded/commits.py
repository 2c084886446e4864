"""The committed offsets of one group, as a consumer uses them: `groups/<group>/<topic>.offsets`.

Also the proof that a group has one subscribed member at a time: whoever subscribes holds the lock of
`groups/<group>/member` until it closes or dies. Invariant: a commit names the epoch in which the records
before it were read.
"""

from __future__ import annotations

import fcntl
import os

from logcore.offsets import OffsetTable
from logcore.processes import Registry
from logcore.topic_log import TopicLog
from logcore.whole_files import clear_error, make_directory, open_plain
from pylog.embedded.directory import check_real_directory
from pylog.errors import UnsupportedError


class GroupOffsets:
    """What a group has committed for the topics that one consumer reads."""

    def __init__(self, root: str, group: str, registry: Registry) -> None:
        self.group = group
        self._directory = f"{root}/groups/{group}"
        self._registry = registry
        self._tables: dict[str, OffsetTable] = {}
        self._membership = -1
        check_real_directory(f"{root}/groups")
        check_real_directory(self._directory)

    def table(self, log: TopicLog) -> OffsetTable:
        """Return the table of a topic."""
        found = self._tables.get(log.name)
        if found is None:
            path = f"{self._directory}/{log.name}.offsets"
            found = self._tables[log.name] = OffsetTable(path, log.uuid, log.partitions, self._registry)
        return found

    def committed(self, log: TopicLog, partition: int) -> tuple[int, int] | None:
        """Return (offset, epoch) of the last commit, or None."""
        found = self.table(log).committed(partition)
        return None if found is None else (found[0], found[1])

    def commit(self, log: TopicLog, partition: int, offset: int, epoch: int) -> None:
        """Commit one offset: seen by all processes on return."""
        self.table(log).commit(partition, offset, epoch, 0)

    def sync(self) -> None:
        """Return when all commits are on disk."""
        for table in self._tables.values():
            table.sync()

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

    def leave(self) -> None:
        """Let another member subscribe."""
        if self._membership >= 0:
            os.close(self._membership)
            self._membership = -1

    def close(self) -> None:
        """Close the tables; commits stay."""
        self.leave()
        for table in self._tables.values():
            table.close()
        self._tables.clear()
