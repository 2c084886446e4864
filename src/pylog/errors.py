"""Every error of pylog, in one tree under PylogError.

Not a place for logic. Those that the native core raises are defined in logcore.errors and shown here; all
carry their facts as attributes. Invariant: `retriable` says whether the same call may work later as it is.
"""

from __future__ import annotations

from logcore.errors import (
    BufferFullError,
    ClosedError,
    ConfigError,
    CorruptionError,
    DiskFullError,
    DurabilityError,
    FencedError,
    FormatError,
    LeaseLostError,
    LockTimeoutError,
    LogTruncatedError,
    OffsetOutOfRangeError,
    PartialAppendError,
    PylogError,
    ReadOnlyError,
    RecordTooLargeError,
    UnknownTopicError,
    UnsupportedError,
    VersionConflictError,
)

__all__ = [
    "BufferFullError",
    "CircuitOpenError",
    "ClosedError",
    "ConfigError",
    "CorruptionError",
    "DiskFullError",
    "DurabilityError",
    "FencedError",
    "FormatError",
    "GroupNotEmptyError",
    "IllegalGenerationError",
    "LeaseLostError",
    "LockTimeoutError",
    "LogTruncatedError",
    "NoRespondersError",
    "OffsetOutOfRangeError",
    "PartialAppendError",
    "PylogError",
    "ReadOnlyError",
    "RecordTooLargeError",
    "RemoteError",
    "RequestTimeoutError",
    "SerializationError",
    "TopicConfigError",
    "TopicExistsError",
    "UnknownGroupError",
    "UnknownTopicError",
    "UnsupportedError",
    "VersionConflictError",
]


class TopicExistsError(PylogError):
    """A topic of that name is there already, and the caller asked to be told."""

    def __init__(self, message: str, *, topic: str = "") -> None:
        super().__init__(message)
        self.topic = topic


class TopicConfigError(PylogError, ValueError):
    """The topic exists with another configuration; `differences` maps each key to (stored, given)."""

    def __init__(
        self, message: str, *, topic: str = "", differences: dict[str, tuple[object, object]] | None = None
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.differences = differences or {}


class UnknownGroupError(PylogError):
    """There is no consumer group of that name: it has no members and has committed nothing."""

    def __init__(self, message: str, *, group: str = "") -> None:
        super().__init__(message)
        self.group = group


class GroupNotEmptyError(PylogError):
    """The group has living members, and what was asked for would pull its offsets from under them."""

    retriable = True

    def __init__(self, message: str, *, group: str = "", members: int = 0) -> None:
        super().__init__(message)
        self.group = group
        self.members = members


class IllegalGenerationError(FencedError):
    """The partition belongs to another member of the group since `generation`."""

    def __init__(self, message: str, *, group: str = "", generation: int = -1) -> None:
        super().__init__(message)
        self.group = group
        self.generation = generation


class NoRespondersError(PylogError):
    """A request was made and no living member serves its topic."""

    retriable = True

    def __init__(self, message: str, *, topic: str = "") -> None:
        super().__init__(message)
        self.topic = topic


class RequestTimeoutError(PylogError, TimeoutError):
    """No reply came in time; the request may still be served."""

    retriable = True

    def __init__(self, message: str, *, correlation_id: str = "") -> None:
        super().__init__(message)
        self.correlation_id = correlation_id


class RemoteError(PylogError):
    """The other side raised: its type's name and the text of its traceback."""

    def __init__(self, message: str, *, remote_type: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback


class SerializationError(PylogError, ValueError):
    """A key or value that its serde cannot encode or decode; the place is known where it was read."""

    def __init__(
        self, message: str, *, topic: str = "", partition: int = -1, offset: int = -1, part: str = ""
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.part = part


class CircuitOpenError(PylogError):
    """The circuit breaker lets nothing through for another `retry_after` seconds."""

    retriable = True

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
