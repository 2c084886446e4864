from typing import Any, final

from logcore.builder import BatchBuilder
from logcore.deliveries import DeliveryTable, Lease
from logcore.offsets import OffsetTable
from logcore.topic_log import TopicLog

MOST_PARTS: int

def check_record(log: TopicLog, key: object, value: object, headers: object) -> None: ...
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
