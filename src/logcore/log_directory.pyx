# cython: language_level=3
"""The topics of one opened data directory."""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

from logcore.control cimport atomic_load32
from logcore.processes cimport fork_count
from logcore.record_ids cimport RecordId
from logcore.topic_log cimport TopicLog

from logcore.errors import ClosedError


cdef class LogDirectory:
    """The topics that an engine has open: its appends reach the native core without a Python frame.

    A subclass gives `_open_topic(name) -> TopicLog`, called once for a name that is not open yet.
    """

    def __cinit__(self, *args: object, **options: object):
        self.topics = {}
        self.forks = fork_count()

    cdef TopicLog topic_log(self, object name):
        cdef PyObject* known
        cdef TopicLog topic
        if self.closed or self.forks != fork_count():
            self._check_open()
        known = PyDict_GetItemWithError(self.topics, name)
        if known is not NULL:
            topic = <TopicLog> known
            if atomic_load32(&topic.control.header.deleted) == 0 and (
                atomic_load32(&topic.control.header.config_generation) == topic.generation
            ):
                return topic
            self._drop(name)
        # a thread may have been quicker: all of them use the one that it opened
        return self.topics.setdefault(name, self._open_topic(name))

    def _drop(self, name: str) -> None:
        """Let go of an opened topic that was deleted or altered. A subclass may keep its figures."""
        self._forget(name)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("the engine was closed")
        raise ClosedError("the engine was opened before a fork: open the directory anew in the child")

    def _topic(self, name: str) -> TopicLog:
        """The opened topic."""
        return self.topic_log(name)

    def _opened(self) -> list:
        """The topics that are open now."""
        return list(self.topics.values())

    def _forget(self, name: str) -> TopicLog | None:
        """Open the topic anew at its next use; returns what was open."""
        return self.topics.pop(name, None)

    def _begin_anew(self) -> None:
        """In a forked child: this engine is its own from now on, with no topic open."""
        self.topics = {}
        self.forks = fork_count()

    def _shut(self) -> None:
        """From now on every use raises ClosedError."""
        self.closed = True
        self.topics = {}

    def append(
        self, topic: str, value: bytes | None, key: bytes | None = None, *, partition=None,
        headers: object = None, timestamp=None, durability: str | None = None, guard=None,
    ) -> RecordId:
        """Append one record, visible to all processes on return; returns its RecordId.

        Args:
            value: bytes; None is a tombstone.
            key: chooses the partition where none is given; without both, partitions take turns.
            headers: dict or pairs of (str, bytes | None); order and duplicates are kept.
            timestamp: ns since 1970, stored as given; now where left out.
            durability: "os", "interval" or "sync"; the topic's where left out.
            guard: the offset of the last record of `key` in the partition, -1 where it has none; or such
                offsets by key. The record is appended only while that holds, in whatever process.

        Raises:
            VersionConflictError: the guard does not hold; nothing was appended.
            UnknownTopicError, TypeError, ConfigError, RecordTooLargeError, DiskFullError, LockTimeoutError,
            DurabilityError, ReadOnlyError, ClosedError.
        """
        return self.topic_log(topic).append_one(value, key, partition, headers, timestamp, durability, guard)
