from collections.abc import Iterable, Mapping
from typing import final

@final
class BatchBuilder:
    record_count: int
    body_bytes: int
    def __len__(self) -> int: ...
    def add_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        sequence: int = -1,
    ) -> None: ...
    def add_records(
        self,
        values: list[bytes | None] | list[bytes] | tuple[bytes | None, ...],
        keys: list[bytes | None] | list[bytes] | tuple[bytes | None, ...] | None = None,
        start: int = 0,
        budget: int = ...,
    ) -> int: ...
    def encode(
        self,
        *,
        codec: str = "none",
        level: int = 3,
        base_offset: int = 0,
        epoch: int = 0,
        synced_offset: int = 0,
        salt: int = 0,
        position: int = 0,
        producer_id: int | None = None,
        producer_epoch: int = 0,
    ) -> bytes: ...
    def clear(self) -> None: ...
