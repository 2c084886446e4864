"""AdministeredDirectory: what an administrator asks of an opened data directory.

Topics and their configuration, groups from outside, what records go, where partitions stand, backup, what
happened; not appending and reading, which is engine.py's. Invariant: each method checks that the engine may
do it before it changes anything.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING, Unpack

from pylog.config import MAX_PARTITIONS, IfExists, Partitioner, TopicOptions, check_count
from pylog.embedded.opened import OpenDirectory
from pylog.embedded.queue_files import queue_with_levels
from pylog.embedded.reading import check_offset_type
from pylog.embedded.reports import report_of
from pylog.engine import ResetTarget, TopicsOrPartitions
from pylog.errors import ConfigError, TopicConfigError, UnknownTopicError
from pylog.groups import GroupDescription, OffsetChange
from pylog.records import CleaningReport, RecoveryReport, TopicDescription

if TYPE_CHECKING:
    from pylog.embedded.backup import BackupReport

logger = logging.getLogger("pylog")


class AdministeredDirectory(OpenDirectory):
    """What EmbeddedEngine stands on."""

    # ---- topics -----------------------------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        if_exists: IfExists = "compare",
        **config: Unpack[TopicOptions],
    ) -> TopicDescription:
        """Make a topic, on disk on return; where it exists and agrees with what is given, take it as it is.

        Args:
            name: 1 to 200 of `A-Z a-z 0-9 . _ -`, starting with neither `.` nor `-`.
            partitions: How many; 1 where left out. create_partitions() adds some later.
            partitioner: How keys choose partitions, "murmur2" (Kafka's, the default) or "xxh3".
            if_exists: "compare" what is given with what is there, or "raise".
            config: See TopicConfig.

        Raises:
            TopicConfigError: it exists with another shape or configuration.
            TopicExistsError: it exists, and if_exists is "raise".
            TypeError, ConfigError: a bad name or option.
            ReadOnlyError, DiskFullError, ClosedError
        """
        self._writable("create topics")
        return self._topics.create(name, partitions, partitioner, config, if_exists)

    def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic's shape and configuration. Raises UnknownTopicError."""
        self._check_open()
        return self._topics.describe(name)

    def alter_topic(self, name: str, **config: Unpack[TopicOptions]) -> TopicDescription:
        """Change the configuration of a topic: all but its shape (partitions, partitioner, segment_bytes).

        On disk on return; holds for every engine from its next use of the topic on.

        Raises:
            UnknownTopicError, TypeError, ConfigError, ReadOnlyError, DiskFullError, ClosedError
        """
        self._writable("alter topics")
        changed = self._topics.alter(name, config)
        self._topic(name).mark_altered()
        return changed

    def create_partitions(self, name: str, partitions: int) -> TopicDescription:
        """Give a topic more partitions, for everybody, on disk on return.

        Keys choose among all of them from then on, and most choose another one: records of one key stand in
        their order before and after the change, but no longer in one partition. Producers follow with their
        next batch, groups share the new partitions and read them from their first record.

        Args:
            partitions: How many there are to be in all. As many as there are changes nothing.

        Raises:
            ConfigError: fewer than there are: partitions never go.
            TopicConfigError: the topic has fixed_partitions, or a queue with priorities works it.
            UnknownTopicError, TypeError, ReadOnlyError, DiskFullError, ClosedError
        """
        self._writable("create partitions")
        check_count(partitions, "partitions", 1, MAX_PARTITIONS)
        log = self._log(name)
        if self._topics.describe(name).config.fixed_partitions:
            raise TopicConfigError(
                f"topic {name!r} was made with fixed_partitions: each key stays where it is; copy_topic "
                "makes a topic with more",
                topic=name,
            )
        queue = queue_with_levels(self._root, name)
        if queue is not None and partitions != log.partitions:
            raise TopicConfigError(
                f"the levels of queue {queue!r} are the partitions of topic {name!r}: with others "
                "its records would change their priority; copy_topic makes a topic with more",
                topic=name,
            )
        before = self._topics.grow(name, partitions, lambda: log.reserve_partitions(partitions))
        if before.partitions != partitions:
            logger.warning(
                "topic %r has %d partitions now, %d before: most keys choose another one from here on, so "
                "the order per key holds among the records before, and among those after",
                name,
                partitions,
                before.partitions,
            )
        # whoever opens the topic now tells the others; again, where who did this before us died then
        self._drop(name)
        self._log(name)
        return self._topics.describe(name)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all its records, for everybody: who still uses it gets ClosedError.

        Raises:
            UnknownTopicError, ReadOnlyError, ClosedError
        """
        self._writable("delete topics")
        found = self._topics.describe(name)
        log = self._log(name)
        if log.uuid.hex() != found.uuid:
            raise UnknownTopicError(f"topic {name!r} was deleted and made anew by somebody else just now")
        aside = self._topics.set_aside(found)
        if aside is None:
            raise UnknownTopicError(f"there is no topic {name!r}: somebody else deleted it just now")
        # after the rename: who opens the topic from now on does not find it, and who has it open is told
        log.mark_deleted()
        self._drop(name)
        shutil.rmtree(aside, ignore_errors=True)

    def list_topics(self) -> list[str]:
        """Return the names of all topics, sorted."""
        self._check_open()
        return self._topics.names()

    # ---- groups, from outside ---------------------------------------------------------------------------

    def list_groups(self) -> list[str]:
        """Return the names of the groups that have members or have committed something, sorted."""
        from pylog.embedded.group_admin import list_groups

        self._check_open()
        return list_groups(self)

    def describe_group(self, group: str) -> GroupDescription:
        """Return a group's members and state, and for each partition what is committed and what is left.

        Raises:
            UnknownGroupError
            CorruptionError: the committed offset of a partition is damaged; reset_offsets() repairs it.
        """
        from pylog.embedded.group_admin import describe_group

        self._check_open()
        return describe_group(self, group)

    def delete_group(self, group: str) -> None:
        """Forget what a group has committed, on disk on return.

        Raises:
            GroupNotEmptyError: it has living members; a stopped process is one.
            UnknownGroupError, ReadOnlyError, DurabilityError
        """
        from pylog.embedded.group_admin import delete_group

        self._writable("delete groups")
        delete_group(self, group)

    def reset_offsets(
        self,
        group: str,
        partitions: TopicsOrPartitions | None = None,
        *,
        to: ResetTarget | None = None,
        by: int | None = None,
        execute: bool = False,
        force: bool = False,
    ) -> list[OffsetChange]:
        """Return where a group would go on reading; with `execute` commit that, on disk on return.

        What lies outside a log becomes its nearer end. Metadata of earlier commits are dropped.

        Args:
            group: May be new, where partitions are given.
            partitions: A topic, or topics and (topic, partition) pairs; all of the group's if left out.
            to: "earliest", "latest", an offset, a datetime (the first record of that time or later), a
                timedelta (so long ago), or a mapping with an offset for each partition.
            by: How many records to go on (or back, where negative) from what is committed.
            force: Also while members live: they lose the partitions and get them again in a new generation,
                at the new offsets; a commit of what they read before raises IllegalGenerationError.

        Raises:
            GroupNotEmptyError: it has living members; nothing was changed.
            UnknownGroupError, UnknownTopicError, TypeError, ConfigError, ReadOnlyError, DiskFullError
            DurabilityError: the disk failed; the offsets are seen, but a power cut may take them back.
        """
        from pylog.embedded.group_admin import reset_offsets

        if execute:
            self._writable("reset offsets")
        self._check_open()
        return reset_offsets(self, group, partitions, to=to, by=by, execute=execute, force=force)

    def consumed_by(self, topic: str, partition: int, offset: int) -> dict[str, bool]:
        """Return for each group that reads the topic whether it has committed past the record at `offset`.

        Raises:
            UnknownTopicError, TypeError, ConfigError
        """
        from pylog.embedded.group_admin import consumed_by

        self._check_open()
        return consumed_by(self, topic, partition, offset)

    # ---- what records go --------------------------------------------------------------------------------

    def delete_records(self, topic: str, partition: int, before_offset: int) -> int:
        """Delete the records before an offset for everybody, on disk on return.

        Files go once all their records are deleted. Who reads below the offset gets OffsetOutOfRangeError;
        consumers go on where their auto_offset_reset says.

        Returns:
            The log start offset: `before_offset`, or a larger one where more had been deleted before.

        Raises:
            OffsetOutOfRangeError: beyond the log end offset.
            UnknownTopicError, TypeError, ConfigError, DurabilityError, DiskFullError, LockTimeoutError,
            ReadOnlyError, ClosedError
        """
        self._writable("delete records")
        check_offset_type(before_offset)
        found: int = self._log(topic).delete_records(partition, before_offset)
        return found

    def clean(
        self, topic: str | None = None, *, now: bool = False, plan: bool = False
    ) -> list[CleaningReport]:
        """Delete and compact what the configuration of a topic, or of all, says, as the background does.

        Args:
            topic: None takes all topics whose records ever go.
            now: Compact whatever is dirty and however young, the active segments rolled first.
            plan: Change nothing; return what would be done (how many records go shows only when they do).

        Returns:
            A report for each partition.

        Raises:
            LockTimeoutError: another process, or thread, was cleaning for lock_timeout.
            UnknownTopicError, TypeError, ConfigError, ReadOnlyError, ClosedError
        """
        from pylog.embedded.cleaning import needs_cleaning

        self._writable("clean")
        names = [topic] if topic is not None else self.list_topics()
        found: list[CleaningReport] = []
        with self._cleaner.turn(self._lock_timeout):
            for name in names:
                config = self.describe_topic(name).config
                if needs_cleaning(config):
                    found += self._cleaner.clean(self._log(name), config, now=now, plan=plan)
        return found

    # ---- places and durability --------------------------------------------------------------------------

    def log_start_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the first record that is there."""
        found: int = self._log(topic).log_start_offset(partition)
        return found

    def log_end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets."""
        found: int = self._log(topic).log_end_offset(partition)
        return found

    def synced_offset(self, topic: str, partition: int) -> int:
        """Return the offset below which a power cut takes nothing."""
        found: int = self._log(topic).synced_offset(partition)
        return found

    def sync(self, topic: str | None = None, partition: int | None = None) -> None:
        """Return when all that is visible now is on disk: in one partition, one topic, or all that are open.

        Raises:
            DurabilityError: the disk failed; the partition takes no appends until recover().
        """
        self._writable("sync")
        if topic is not None:
            self._log(topic).sync(partition)
            return
        if partition is not None:
            raise ConfigError("partition= needs a topic")
        for log in self._opened():
            if not log.deleted:
                log.sync()

    def recover(self, topic: str, partition: int) -> None:
        """Take a partition whose sync failed into use again: cut at its synced offset, in a new epoch.

        Raises:
            UnknownTopicError, TypeError, ConfigError, ReadOnlyError, ClosedError
        """
        self._writable("recover partitions")
        self._log(topic).recover(partition)
        self._finish_transactions()  # of which the cut took a part

    # ---- the whole directory ----------------------------------------------------------------------------

    def backup(self, destination: str | os.PathLike[str]) -> BackupReport:
        """Copy all topics and committed offsets, consistently, while everybody goes on; on disk on return.

        Opening the copy restores it: it goes on under a new epoch, since the original's next records get the
        same offsets. Sealed segments are hard links where both lie on one file system: they cost no space,
        and `verify --repair` of the copy would change them in both. Transactions wait for the moment in which
        the ends are noted: each is in the copy as a whole or not at all.

        Args:
            destination: A path where nothing is; it appears when the backup is complete.

        Raises:
            ConfigError: something is there, or it lies inside the data directory.
            LockTimeoutError: a transaction stays half committed in a process that is stopped.
            DiskFullError, OSError: nothing is left at the destination.
        """
        from pylog.embedded.backup import back_up

        self._check_open()
        return back_up(self, destination)

    # ---- what happened ----------------------------------------------------------------------------------

    def recovery_reports(self) -> list[RecoveryReport]:
        """Return what recovery dropped or found damaged in the topics that this engine opened so far."""
        self._check_open()
        found = list(self._reports)
        for log in self._opened():
            found.extend(report_of(log, partition, survey) for partition, survey in log.recovery_reports())
        return found

    def metrics(self) -> dict[str, int]:
        """Return what this engine did since it was opened: batches, records, bytes appended and read, ...

        A batch counts as read where it was looked at, be it for one of its records.
        """
        self._check_open()
        kinds = ("batches", "records", "bytes")
        counted = {f"{done}_{kind}": 0 for done in ("appended", "read") for kind in kinds}
        counted |= {"syncs": 0, **self._counted}
        for log in self._opened():
            for key, count in log.counters().items():
                counted[key] += count
        members = list(self._members)
        found = counted
        if self._cleans is not None:
            found |= {f"cleaner_{key}": count for key, count in self._cleans.counted.items()}
        found["open_topics"] = len(self._opened())
        found["open_members"] = len(members)
        return found
