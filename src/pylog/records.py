"""What is read and where it stands: Record, RecordId, RecordBatch, TopicPartition and what describes topics.

Plain values without behaviour; Record, RecordId and RecordBatch are the native core's. Invariant: immutable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from logcore.batch import Record, RecordBatch
from logcore.record_ids import RecordId, RecordIds

from pylog.config import TopicConfig

__all__ = [
    "OffsetAndTimestamp",
    "Record",
    "RecordBatch",
    "RecordId",
    "RecordIds",
    "RecoveryReport",
    "TopicDescription",
    "TopicPartition",
]


class TopicPartition(NamedTuple):
    """One partition of one topic; every call that takes one also takes the plain tuple."""

    topic: str
    partition: int


class OffsetAndTimestamp(NamedTuple):
    """The answer to "which record came first at or after that time"."""

    offset: int
    timestamp: int
    """Nanoseconds since 1970 of that record."""


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it was created and configured."""

    name: str
    uuid: str
    """32 hex digits: a topic that is deleted and made anew has another one."""
    partitions: int
    partitioner: str
    config: TopicConfig


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What recovery did to one partition after an unclean stop."""

    topic: str
    partition: int
    epoch: int
    """Epoch of the partition afterwards: one more than before where something was cut."""
    log_end_offset: int
    """Where the log goes on."""
    cut: bool
    """True where something behind the last batch that counts was dropped."""
    dropped_bytes: int = 0
    """Bytes between the cut and the end of what stood behind it."""
    dropped_batches: int = 0
    """Valid batches among them: they stood behind a hole that a power cut left."""
    reason: str = ""
    facts: dict[str, object] = field(default_factory=dict)
    """Whatever else the native core reported."""
