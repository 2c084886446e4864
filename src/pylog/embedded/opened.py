"""OpenDirectory: a data directory as one living engine of it, from opening to closing.

Opens topics for the native core, lets go of them where they were deleted or altered, and begins anew in a
forked child. Not what users call: that is engine.py. Invariant: a directory that is open for reading only is
not changed in any way, and a forked child never uses what it inherited: it opens its own at first use.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from logcore.log_directory import LogDirectory
from logcore.processes import Registry, fork_count
from logcore.service import Service
from logcore.topic_log import TopicLog
from logcore.whole_files import locked_directory, remove_leftovers
from pylog.clock import Clock, SystemClock
from pylog.config import check_seconds
from pylog.embedded.directory import open_directory, path_of
from pylog.embedded.lingering import Flushable, Lingering
from pylog.embedded.reports import report_of
from pylog.embedded.topic import TopicDirectories
from pylog.errors import ClosedError, ConfigError, ReadOnlyError, UnknownTopicError
from pylog.records import RecoveryReport, TopicDescription

if TYPE_CHECKING:
    from pylog.config import TopicConfig
    from pylog.embedded.arrivals import Arrivals
    from pylog.embedded.cleaner import BackgroundCleaning, Cleaner
    from pylog.embedded.consumer import EmbeddedConsumer
    from pylog.embedded.producer import EmbeddedProducer
    from pylog.embedded.queue_source import EmbeddedQueueSource
    from pylog.embedded.unfinished import Settling, Unsettled
    from pylog.eventsourcing.store import EventStore

    Member = EmbeddedProducer | EmbeddedConsumer | EmbeddedQueueSource | EventStore

logger = logging.getLogger("pylog")


class OpenDirectory(LogDirectory):
    """What EmbeddedEngine stands on."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        create: bool = True,
        lock_timeout: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._ended = True
        timeout = check_seconds(lock_timeout, "lock_timeout")
        if timeout is None:
            raise ConfigError("lock_timeout is a number of seconds: an append never waits for ever")
        self._root = path_of(path)
        self._read_only = bool(read_only)
        self._lock_timeout = timeout
        self._clock = clock or SystemClock()
        self._reports: list[RecoveryReport] = []
        self._counted: dict[str, int] = {}
        self._topics = TopicDirectories(self._root)
        open_directory(self._root, read_only=self._read_only, create=create)
        self._start()
        if self._registry.first and not self._read_only:
            self._remove_leftovers()
        self._ended = False
        if self._registry.first and not self._read_only:
            try:
                self._finish_transactions()
            except BaseException:
                self.close()
                raise

    def _start(self) -> None:
        """Become a living engine of the directory."""
        self._forks = fork_count()
        self._lock = threading.RLock()
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._arrivals: Arrivals | None = None
        self._lingering: Lingering | None = None
        self._cleans: Cleaner | None = None
        self._background: BackgroundCleaning | None = None
        self._cleaned: dict[str, TopicConfig] = {}
        self._settling: Settling | None = None
        self._left: set[bytes] = set()
        self._registry: Registry = Registry(self._root, read_only=self._read_only)
        self._service: Service | None = None
        if not self._read_only:
            try:
                self._service = Service(self._registry)
                self._service.start()
            except BaseException:
                self._registry.close()
                raise

    def _finish_transactions(self) -> None:
        """Finish what owners of committed transactions left when they died."""
        if not self._read_only and Path(self._root, "redo").exists():
            from pylog.embedded.unfinished import finish_transactions

            finished = finish_transactions(self, self._left)
            if finished:
                logger.info("%s: finished %d transactions of dead processes", self._root, finished)

    def _settle_later(self, unsettled: Unsettled) -> None:
        """Remove a redo record once the parts of its transaction are on disk."""
        with self._lock:
            if self._settling is None:
                from pylog.embedded.unfinished import Settling

                self._settling = Settling(self)
            settling = self._settling
        settling.add(unsettled)

    def _leave_unfinished(self, transaction_id: bytes) -> None:
        """Let a committed transaction of ours be finished like those of the dead: we could not do it."""
        self._left.add(transaction_id)

    def _remove_leftovers(self) -> None:
        self._topics.remove_leftovers()
        with locked_directory(self._root) as fd:  # in which another opener may be making it
            remove_leftovers(fd, "format.")

    # ---- what the native core and our producers and consumers ask -------------------------------------

    def _check_open(self) -> None:
        """Raise where the engine was closed; open anew where it was inherited through a fork."""
        if self.closed:
            raise ClosedError("the engine was closed")
        if self._forks != fork_count():
            with _renewing:
                if self._forks != fork_count():
                    logger.debug("%s: opened anew in a forked child", self._root)
                    self._begin_anew()
                    self._start()

    def _open_topic(self, name: str) -> TopicLog:
        """Open a topic that is not open yet. Called by the native core at the first use of a name."""
        with self._lock:
            if self._read_only:
                self._registry.refresh()  # whose control file is of the session now
            while True:
                found = self._topics.describe(name)
                log = self._opened_as(found)
                # who alters it writes topic.json first: what is the same afterwards was not altered before
                if self._topics.describe(name) == found:
                    break
                log.close()
            if not self._read_only:
                self._clean_later(name, found.config)
            return log

    def _opened_as(self, found: TopicDescription) -> TopicLog:
        config = found.config
        return TopicLog(
            self._topics.directory_of(found.name),
            found.name,
            self._registry,
            self._service,
            uuid=bytes.fromhex(found.uuid),
            partitions=found.partitions,
            partitioner=found.partitioner,
            segment_bytes=config.segment_bytes,
            durability=config.durability,
            codec=config.compression_type,
            max_record_bytes=config.max_record_bytes,
            sync_interval_ms=config.sync_interval_ms,
            max_unsynced_bytes=config.max_unsynced_bytes,
            lock_timeout=self._lock_timeout,
            read_only=self._read_only,
        )

    def _writable(self, what: str) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnlyError(f"an engine opened with read_only=True cannot {what}")

    def _log(self, topic: str) -> TopicLog:
        """Return the opened topic, anew where somebody deleted and made it again.

        Read-only, anew also where a writer has come since, whose control file says more than ours.
        """
        log = self._topic(topic)
        if self._read_only and log.superseded:
            self._drop(log.name)
            log = self._topic(topic)
        return log

    def _drop(self, name: str) -> None:
        """Let go of an opened topic, and keep what it counted and reported."""
        log = self._forget(name)
        if log is not None:
            self._keep_account_of(log)

    def _keep_account_of(self, log: TopicLog) -> None:
        for key, count in log.counters().items():
            self._counted[key] = self._counted.get(key, 0) + count
        self._reports.extend(
            report_of(log, partition, survey) for partition, survey in log.recovery_reports()
        )

    def _flush_after(self, waiting: Flushable, seconds: float) -> None:
        """Flush a producer, or a group's commits, in so many seconds from the engine's one Python thread."""
        self._check_open()
        self._thread().expect(waiting, seconds)

    def _thread(self) -> Lingering:
        """Return the engine's one Python thread; it starts with the first thing it is to do."""
        if self._lingering is None:
            with self._lock:
                if self._lingering is None:
                    self._lingering = Lingering("pylog-linger")
        return self._lingering

    def _clean_later(self, name: str, config: TopicConfig) -> None:
        """Clean an opened topic in the background, if records of it ever go."""
        from pylog.embedded.cleaning import needs_cleaning

        self._cleaned.pop(name, None)
        if not needs_cleaning(config):
            return
        self._cleaned[name] = config
        if self._background is None:
            from pylog.embedded import cleaner

            self._background = cleaner.BackgroundCleaning(self, self._cleaner, self._thread())
            self._thread().expect(self._background, cleaner.EVERY_SECONDS)

    def _to_be_cleaned(self) -> list[tuple[TopicLog, TopicConfig]]:
        """Return the opened topics that are cleaned in the background, as they are configured now."""
        for log in self._opened():
            with suppress(UnknownTopicError):
                self._topic(log.name)
        logs = {log.name: log for log in self._opened() if not log.deleted and not log.closed}
        return [(logs[name], config) for name, config in list(self._cleaned.items()) if name in logs]

    @property
    def _cleaner(self) -> Cleaner:
        with self._lock:
            if self._cleans is None:
                from pylog.embedded.cleaner import Cleaner

                self._cleans = Cleaner(self._root, self._clock, self._registry)
            return self._cleans

    def _partitions_of(self, topic: str) -> int:
        return self._log(topic).partitions

    # ---- properties -------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The absolute path of the data directory."""
        return self._root

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._read_only

    @property
    def arrivals(self) -> Arrivals | None:
        """What asyncio waits by; None where it was opened read-only, and so is told of nothing."""
        self._check_open()
        if self._service is None:
            return None
        with self._lock:
            if self._arrivals is None:
                from pylog.embedded.arrivals import Arrivals

                self._arrivals = Arrivals(self._service)
            return self._arrivals

    # ---- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Flush its producers, close its consumers, sync its topics, and end. A second call does nothing.

        In a forked child that did not use the engine this touches nothing of the parent's.
        """
        if self._ended:
            return
        self._ended = True
        inherited = self._forks != fork_count()
        errors: list[Exception] = []
        if not inherited:
            if self._lingering is not None:
                self._lingering.stop()
            if self._settling is not None:
                self._settling.flush_lingering()
            errors += _closed(self._members)
            errors += _closed(self._opened())  # those included that the members had to open for their end
        self._shut()
        if not inherited:
            if self._service is not None:
                self._service.close()
            self._registry.close()
        if errors:
            for other in errors[1:]:
                logger.error("while closing %s: %s", self._root, other)
            raise errors[0]

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}pylog engine of {self._root!r}{' (read only)' if self._read_only else ''}>"


def _closed(things: Iterable[Member | TopicLog]) -> list[Exception]:
    """Close all of them; what went wrong with some."""
    errors = []
    for closing in list(things):
        try:
            closing.close()
        except Exception as error:
            errors.append(error)
    return errors


_renewing = threading.Lock()


def _renew_lock() -> None:
    # another thread of the parent may have held it at the fork
    global _renewing
    _renewing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
