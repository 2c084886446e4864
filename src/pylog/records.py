"""What is read and where it stands: Record, RecordId, RecordBatch, TopicPartition and what describes topics.

Plain values without behaviour; Record, RecordId, RecordBatch, and HeaderFields by which headers are read and
packed, are the native core's. Invariant: immutable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from logcore.batch import Record, RecordBatch
from logcore.header_fields import HeaderFields
from logcore.record_headers import PackedHeaders
from logcore.record_ids import RecordId, RecordIds
from pylog.config import TopicConfig
from pylog.errors import SerializationError
from pylog.serdes import Serde

__all__ = [
    "Damage",
    "DecodedRecord",
    "HeaderFields",
    "OffsetAndTimestamp",
    "PackedHeaders",
    "Record",
    "RecordBatch",
    "RecordId",
    "RecordIds",
    "RecoveryReport",
    "TopicDescription",
    "TopicPartition",
]


UNKNOWN = object()
"""Stands for what was not decoded yet."""


class DecodedRecord:
    """A Record whose key and value go through serdes when they are looked at; `raw` has the bytes."""

    __slots__ = ("_key", "_key_serde", "_value", "_value_serde", "raw")

    def __init__(self, raw: Record, key_serde: Serde | None, value_serde: Serde | None) -> None:
        self.raw = raw
        self._key_serde = key_serde
        self._value_serde = value_serde
        self._key: Any = UNKNOWN
        self._value: Any = UNKNOWN

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.raw.topic

    @property
    def partition(self) -> int:
        """Number of the partition."""
        return self.raw.partition

    @property
    def offset(self) -> int:
        """Offset in the partition."""
        return self.raw.offset

    @property
    def timestamp(self) -> int:
        """Nanoseconds since 1970."""
        return self.raw.timestamp

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Names and values in order, duplicates included."""
        return self.raw.headers

    @property
    def sequence(self) -> int | None:
        """Sequence that an idempotent producer gave it."""
        return self.raw.sequence

    @property
    def epoch(self) -> int:
        """Epoch of the partition in which it was written."""
        return self.raw.epoch

    @property
    def key(self) -> Any:
        """The decoded key. Raises SerializationError."""
        if self._key is UNKNOWN:
            self._key = self._decoded("key", self.raw.key, self._key_serde)
        return self._key

    @property
    def value(self) -> Any:
        """The decoded value. Raises SerializationError."""
        if self._value is UNKNOWN:
            self._value = self._decoded("value", self.raw.value, self._value_serde)
        return self._value

    def _decoded(self, part: str, data: bytes | None, serde: Serde | None) -> Any:
        if data is None or serde is None:
            return data
        try:
            return serde.deserialize(data)
        except Exception as error:
            place = f"{self.topic}-{self.partition} at offset {self.offset}"
            raise SerializationError(
                f"the {part} of {place}: {error}",
                topic=self.topic,
                partition=self.partition,
                offset=self.offset,
                part=part,
            ) from error

    def __repr__(self) -> str:
        return f"<decoded {self.raw!r}>"


class TopicPartition(NamedTuple):
    """One partition of one topic; every call that takes one also takes the plain tuple."""

    topic: str
    partition: int


class OffsetAndMetadata(NamedTuple):
    """A committed offset, and up to 4096 bytes that the application keeps with it."""

    offset: int
    metadata: bytes = b""


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
class Damage:
    """A place in a partition below its durable mark that cannot be read; its neighbours can."""

    path: str
    position: int
    length: int
    first_offset: int
    """First offset that is lost there."""
    next_offset: int
    """Where reading can go on."""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What recovery found in one partition after an unclean stop, where that is worth telling."""

    topic: str
    partition: int
    epoch: int
    """Epoch of the partition afterwards: one more than before where something was cut."""
    log_end_offset: int
    """Where the log goes on."""
    cut: bool
    """True where what stood behind log_end_offset was dropped, since it had not been on disk."""
    dropped_bytes: int = 0
    dropped_batches: int = 0
    """Valid batches among the dropped bytes: they stood behind a hole that a power cut left."""
    damage: tuple[Damage, ...] = ()


class CopyReport(NamedTuple):
    """What a copy of a topic did."""

    source: str
    destination: str
    partitions: int
    """Of the destination."""
    copied: int
    """Records that were not there before."""
    already_there: int
    """Records that were read again to be sure, and were there."""


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """What cleaning did in one partition, or would do."""

    topic: str
    partition: int
    log_start_offset: int
    """Afterwards: larger than before where retention deleted records."""
    deleted_bytes: int = 0
    """Bytes of the segments that retention deleted."""
    unconsumed_bytes: int = 0
    """Those of them that retention_groups had not consumed: what was beyond retention_groups_max_bytes."""
    held_bytes: int = 0
    """Bytes of the segments that would have gone, but wait for a group of retention_groups."""
    held_by: str | None = None
    """The group of them that is furthest behind."""
    dirty_bytes: int = 0
    """With cleanup_policy="compact": bytes that had not been compacted before."""
    bytes_before: int = 0
    bytes_after: int = 0
    """Bytes of all segments that may be compacted, before and after."""
    removed_records: int = 0
    rewritten_segments: int = 0
    error: str | None = None
    """Why the partition could not be cleaned."""

    @property
    def dirty_ratio(self) -> float:
        """The part that had not been compacted before."""
        return self.dirty_bytes / self.bytes_before if self.bytes_before else 0.0
