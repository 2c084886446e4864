from collections.abc import Iterator
from struct import Struct
from typing import Any, final

from logcore.builder import BatchBuilder
from logcore.deliveries import DeliveryTable, Lease
from logcore.offsets import OffsetTable
from logcore.partition_log import PartitionLog
from logcore.topic_log import TopicLog

REDO_DIRECTORY: str
VERSION: int
MAGIC: bytes
FRONT: Struct

def order_of_append(part: AppendPart) -> tuple[bytes, int]: ...
def order_of_offset(part: OffsetPart) -> tuple[str, int]: ...
def check_record(log: TopicLog, key: object, value: object, headers: object) -> None: ...
def write_pending(log: PartitionLog) -> None: ...
def store_pending(table: OffsetTable, directory: str) -> None: ...
def pending_records(directory: str) -> Iterator[tuple[dict[str, Any], bytes]]: ...
MOST_PARTS: int
MOST_DESCRIBED: int

@final
class AppendPart:
    topic: str
    partition: int
    records: int
    base_offset: int
    epoch: int
    def __init__(
        self,
        log: TopicLog,
        partition: int,
        builder: BatchBuilder,
        transaction: bytes,
        guard: dict[bytes, int] | None = None,
    ) -> None: ...
    def describe(self) -> dict[str, Any]: ...

@final
class OffsetPart:
    table: OffsetTable
    group: str
    topic: str
    partition: int
    offset: int
    epoch: int
    generation: int
    metadata: bytes
    def __init__(
        self,
        table: OffsetTable,
        group: str,
        topic: str,
        partition: int,
        offset: int,
        epoch: int,
        generation: int,
        metadata: bytes,
    ) -> None: ...
    def describe(self) -> dict[str, Any]: ...

@final
class DeliveryPart:
    table: DeliveryTable
    queue: str
    def __init__(self, table: DeliveryTable, queue: str, leases: list[Lease]) -> None: ...
    def describe(self) -> dict[str, Any]: ...

def order_of_delivery(part: DeliveryPart) -> str: ...
@final
class RedoFile:
    path: str
    def __new__(cls, root: str, transaction: bytes) -> RedoFile: ...
    def write(
        self,
        owner: tuple[int, int],
        transaction: bytes,
        appends: list[AppendPart],
        offsets: list[OffsetPart],
        deliveries: list[DeliveryPart],
        durable: bool,
    ) -> None: ...

def commit_parts(
    root: str,
    owner: tuple[int, int],
    transaction: bytes,
    appends: list[AppendPart],
    offsets: list[OffsetPart],
    deliveries: list[DeliveryPart],
    durable: bool,
) -> str: ...
def decode_owner(path: object) -> tuple[int, int] | None: ...
def decode_record(content: bytes) -> tuple[dict[str, Any], bytes] | None: ...
def mend(topic: TopicLog, partition: int) -> None: ...
def append_again(topic: TopicLog, partition: int, batch: bytes) -> int: ...
def commit_again(table: OffsetTable, part: dict[str, Any]) -> bool: ...
