"""The errors that the native core raises. `pylog.errors` shows them with the rest of the tree.

Each carries its facts as attributes and says in `retriable` whether the same call may work later.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class PylogError(Exception):
    """Root of every error that pylog raises on purpose."""

    retriable: ClassVar[bool] = False


PylogError.__module__ = "pylog.errors"


class ConfigError(PylogError, ValueError):
    """A bad argument, name or option: the message names it and what is allowed."""


class FormatError(PylogError):
    """The directory or file is not pylog's, or of a version or feature that this release cannot read."""


class CorruptionError(PylogError):
    """Bytes that were on disk are damaged. Nothing is skipped: `next_offset` says where reading can go on."""

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        position: int = -1,
        first_offset: int = -1,
        next_offset: int = -1,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.position = position
        self.first_offset = first_offset
        self.next_offset = next_offset


class RecordTooLargeError(PylogError, ValueError):
    """A record or batch beyond a named limit."""

    def __init__(self, message: str, *, size: int = -1, limit: int = -1) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class PartialAppendError(PylogError):
    """A call over several batches failed midway; `appended` has the RecordIds that are in."""

    def __init__(self, message: str, *, appended: object = ()) -> None:
        super().__init__(message)
        self.appended = appended


class OffsetOutOfRangeError(PylogError):
    """An offset outside [log_start_offset, log_end_offset]."""

    def __init__(
        self, message: str, *, offset: int = -1, log_start_offset: int = -1, log_end_offset: int = -1
    ) -> None:
        super().__init__(message)
        self.offset = offset
        self.log_start_offset = log_start_offset
        self.log_end_offset = log_end_offset


class LogTruncatedError(PylogError):
    """A power cut took records behind the position; `resume_offset` is the start of the newer epoch."""

    def __init__(self, message: str, *, offset: int = -1, resume_offset: int = -1, epoch: int = -1) -> None:
        super().__init__(message)
        self.offset = offset
        self.resume_offset = resume_offset
        self.epoch = epoch


class DiskFullError(PylogError, OSError):
    """No space, quota or file size left. Nothing is half visible; appends work again once there is space."""

    retriable = True

    def __init__(self, message: str, code: int = errno.ENOSPC) -> None:
        super().__init__(code, message)

    def __str__(self) -> str:
        return str(self.args[1])


class DurabilityError(PylogError):
    """A sync failed: the partition takes no appends until engine.recover(topic, partition).

    `committed` says of the commit of a transaction that it holds all the same.
    """

    def __init__(self, message: str, *, committed: bool = False) -> None:
        super().__init__(message)
        self.committed = committed


class LockTimeoutError(PylogError, TimeoutError):
    """A living process kept a lock, or led a sync, beyond the timeout; `pid` is the holder's."""

    retriable = True

    def __init__(self, message: str, *, pid: int = -1) -> None:
        super().__init__(message)
        self.pid = pid


class FencedError(PylogError):
    """Somebody newer holds what this object was holding."""


class LeaseLostError(FencedError):
    """The delivery was given to somebody else, or finished, before this call."""

    def __init__(self, message: str, *, topic: str = "", partition: int = -1, offset: int = -1) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class ReadOnlyError(PylogError):
    """A write through an engine that was opened with read_only=True."""


class BufferFullError(PylogError):
    """The producer's buffer_bytes are used up and it was told to raise."""

    retriable = True


class UnsupportedError(PylogError):
    """This engine, file system or platform cannot do it."""


class ClosedError(PylogError):
    """The object was closed, its topic deleted, or it was inherited through fork."""


class UnknownTopicError(PylogError):
    """No topic of that name; create_topic makes one."""

    priorities: int | None = None
    """Of the queue, where the topic was deleted from under one."""


class VersionConflictError(PylogError):
    """Somebody else appended to the key or stream first: look again, decide again."""

    retriable = True

    def __init__(self, message: str, *, stream: str = "", expected: int = -1, actual: int = -1) -> None:
        super().__init__(message)
        self.stream = stream
        self.expected = expected
        self.actual = actual


for _error in list(globals().values()):
    if isinstance(_error, type) and issubclass(_error, PylogError):
        _error.__module__ = "pylog.errors"
del _error
