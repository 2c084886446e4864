from typing import Any

from typing_extensions import disjoint_base

from logcore.batch import RecordId
from logcore.processes import Registry
from logcore.reader import PartitionReader
from logcore.record_ids import RecordIds
from logcore.service import Service

DURABILITIES: dict[str, int]
CODECS: dict[str, int]
PARTITIONERS: tuple[str, ...]

@disjoint_base
class TopicLog:
    name: str
    directory: str
    uuid: bytes
    partitions: int
    read_only: bool
    closed: bool
    def __new__(
        cls,
        directory: str,
        name: str,
        registry: Registry,
        service: Service | None,
        *,
        uuid: bytes,
        partitions: int,
        partitioner: str = "murmur2",
        segment_bytes: int = ...,
        durability: str = "interval",
        codec: str = "none",
        max_record_bytes: int = ...,
        sync_interval_ms: int = 100,
        max_unsynced_bytes: int = ...,
        lock_timeout: float = 10.0,
        read_only: bool = False,
    ) -> TopicLog: ...
    def close(self) -> None: ...
    def mark_ends(self) -> None: ...
    def batch_room(self) -> int: ...
    def partition_for(self, key: bytes) -> int: ...
    def append_many(
        self,
        values: object,
        keys: object = None,
        *,
        partition: int | None = None,
        timestamps: object = None,
        headers: object = None,
        durability: str | None = None,
    ) -> RecordIds: ...
    def reader(self, partition: int, offset: int, *, synced_only: bool = False) -> PartitionReader: ...
    def log_start_offset(self, partition: int) -> int: ...
    def log_end_offset(self, partition: int) -> int: ...
    def synced_offset(self, partition: int) -> int: ...
    def epoch(self, partition: int) -> int: ...
    def sync(self, partition: int | None = None) -> None: ...
    def recover(self, partition: int) -> None: ...
    def recovery_reports(self) -> list[tuple[int, Any]]: ...
    def mark_waiting(self) -> None: ...
    def mark_deleted(self) -> None: ...
    @property
    def deleted(self) -> bool: ...
    @property
    def superseded(self) -> bool: ...
    def counters(self) -> dict[str, int]: ...

@disjoint_base
class LogDirectory:
    closed: bool
    def _check_open(self) -> None: ...
    def _drop(self, name: str) -> None: ...
    def _begin_anew(self) -> None: ...
    def _topic(self, name: str) -> TopicLog: ...
    def _forget(self, name: str) -> TopicLog | None: ...
    def _opened(self) -> list[TopicLog]: ...
    def _shut(self) -> None: ...
    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int | None = None,
        headers: object = None,
        timestamp: int | None = None,
        durability: str | None = None,
    ) -> RecordId: ...
