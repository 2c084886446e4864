"""pylog: the event log that a Python program embeds.

`pylog.open(directory)` is the door; everything a program needs is an attribute of this module. Invariant:
importing it costs almost nothing; names load what they need when they are first used (PEP 562).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # what type checkers take for true; importing typing would cost more than all the rest

if TYPE_CHECKING:
    from pylog.config import TopicConfig as TopicConfig
    from pylog.engine import Consumer as Consumer
    from pylog.engine import Engine as Engine
    from pylog.engine import Producer as Producer
    from pylog.errors import BufferFullError as BufferFullError
    from pylog.errors import CircuitOpenError as CircuitOpenError
    from pylog.errors import ClosedError as ClosedError
    from pylog.errors import ConfigError as ConfigError
    from pylog.errors import CorruptionError as CorruptionError
    from pylog.errors import DiskFullError as DiskFullError
    from pylog.errors import DurabilityError as DurabilityError
    from pylog.errors import FencedError as FencedError
    from pylog.errors import FormatError as FormatError
    from pylog.errors import GroupNotEmptyError as GroupNotEmptyError
    from pylog.errors import IllegalGenerationError as IllegalGenerationError
    from pylog.errors import LeaseLostError as LeaseLostError
    from pylog.errors import LockTimeoutError as LockTimeoutError
    from pylog.errors import LogTruncatedError as LogTruncatedError
    from pylog.errors import NoRespondersError as NoRespondersError
    from pylog.errors import OffsetOutOfRangeError as OffsetOutOfRangeError
    from pylog.errors import PartialAppendError as PartialAppendError
    from pylog.errors import PylogError as PylogError
    from pylog.errors import ReadOnlyError as ReadOnlyError
    from pylog.errors import RecordTooLargeError as RecordTooLargeError
    from pylog.errors import RemoteError as RemoteError
    from pylog.errors import RequestTimeoutError as RequestTimeoutError
    from pylog.errors import SerializationError as SerializationError
    from pylog.errors import TopicConfigError as TopicConfigError
    from pylog.errors import TopicExistsError as TopicExistsError
    from pylog.errors import UnknownGroupError as UnknownGroupError
    from pylog.errors import UnknownTopicError as UnknownTopicError
    from pylog.errors import UnsupportedError as UnsupportedError
    from pylog.errors import VersionConflictError as VersionConflictError
    from pylog.eventsourcing.aggregates import Aggregate as Aggregate
    from pylog.eventsourcing.events import Event as Event
    from pylog.eventsourcing.projections import ReadModel as ReadModel
    from pylog.eventsourcing.store import EventStore as EventStore
    from pylog.filters import Filter as Filter
    from pylog.groups import GroupDescription as GroupDescription
    from pylog.groups import GroupMember as GroupMember
    from pylog.groups import OffsetChange as OffsetChange
    from pylog.groups import PartitionLag as PartitionLag
    from pylog.parallel import ParallelConsumer as ParallelConsumer
    from pylog.patterns.cqrs import CommandBus as CommandBus
    from pylog.patterns.table import Table as Table
    from pylog.queues import DeadLetter as DeadLetter
    from pylog.queues import Delivery as Delivery
    from pylog.queues import Queue as Queue
    from pylog.records import CleaningReport as CleaningReport
    from pylog.records import CopyReport as CopyReport
    from pylog.records import OffsetAndMetadata as OffsetAndMetadata
    from pylog.records import OffsetAndTimestamp as OffsetAndTimestamp
    from pylog.records import Record as Record
    from pylog.records import RecordBatch as RecordBatch
    from pylog.records import RecordId as RecordId
    from pylog.records import RecordIds as RecordIds
    from pylog.records import RecoveryReport as RecoveryReport
    from pylog.records import TopicDescription as TopicDescription
    from pylog.records import TopicPartition as TopicPartition
    from pylog.retries import CircuitBreaker as CircuitBreaker
    from pylog.retries import Retry as Retry
    from pylog.serdes import Serde as Serde

__version__ = "0.1.0"

_HOMES = {
    "pylog.config": ("TopicConfig",),
    "pylog.engine": ("Consumer", "Engine", "Producer"),
    "pylog.filters": ("Filter",),
    "pylog.eventsourcing.aggregates": ("Aggregate",),
    "pylog.eventsourcing.events": ("Event",),
    "pylog.eventsourcing.projections": ("ReadModel",),
    "pylog.eventsourcing.store": ("EventStore",),
    "pylog.groups": ("GroupDescription", "GroupMember", "OffsetChange", "PartitionLag"),
    "pylog.parallel": ("ParallelConsumer",),
    "pylog.records": (
        "OffsetAndMetadata",
        "OffsetAndTimestamp",
        "Record",
        "RecordBatch",
        "RecordId",
        "RecordIds",
        "CleaningReport",
        "CopyReport",
        "RecoveryReport",
        "TopicDescription",
        "TopicPartition",
    ),
    "pylog.patterns.cqrs": ("CommandBus",),
    "pylog.patterns.table": ("Table",),
    "pylog.queues": ("DeadLetter", "Delivery", "Queue"),
    "pylog.retries": ("CircuitBreaker", "Retry"),
    "pylog.serdes": ("Serde",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def open(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    create: bool = True,
    lock_timeout: float = 10.0,
) -> Engine:
    """Open a data directory, and make it where there is none; or a cluster of Apache Kafka.

    Args:
        path: The directory. Any number of processes of this host may have it open. Or "kafka://host:port".
        read_only: Write nothing at all, not even locks: for inspection, or without write permission.
        create: Whether a directory that is missing or empty becomes a new log.
        lock_timeout: Seconds that an append waits for a living process that holds the partition's lock.

    Raises:
        FormatError: the directory is not pylog's, or of a newer version.
        UnsupportedError: the path lies on a network file system, is a URL of another kind than kafka://, or
            confluent-kafka is not installed.
        RequestTimeoutError: no broker of the cluster answers.
        OSError: the directory cannot be made, read or written.
    """
    if isinstance(path, str) and path.startswith("kafka://"):
        return _open_cluster(path, read_only, create, lock_timeout)

    from pylog.embedded.engine import EmbeddedEngine

    return EmbeddedEngine(path, read_only=read_only, create=create, lock_timeout=lock_timeout)


def _open_cluster(url: str, read_only: bool, create: bool, lock_timeout: float) -> Engine:
    from pylog.errors import UnsupportedError

    if read_only or not create or lock_timeout != 10.0:
        raise UnsupportedError("read_only, create and lock_timeout are for data directories, not for Kafka")
    try:
        from pylog.kafka.engine import KafkaEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "confluent_kafka":
            raise
        raise UnsupportedError(
            "kafka:// needs confluent-kafka, which is not installed: pip install 'pylog-engine[kafka]'"
        ) from error
    return KafkaEngine(url)


def __getattr__(name: str) -> object:
    import importlib

    if name.endswith("Error"):
        found = getattr(importlib.import_module("pylog.errors"), name, None)
    else:
        home = _HOME_OF.get(name)
        found = getattr(importlib.import_module(home), name) if home else None
    if found is None:
        raise AttributeError(f"module 'pylog' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    from pylog.errors import __all__ as errors

    return sorted([*globals(), *_HOME_OF, *errors])
