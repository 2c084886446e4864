from collections.abc import Iterator
from struct import Struct
from typing import Any, final

from logcore.transaction_parts import AppendPart, DeliveryPart, OffsetPart

REDO_DIRECTORY: str
MOST_DESCRIBED: int
MAGIC: bytes
FRONT: Struct
VERSION: int

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

def decode_owner(path: object) -> tuple[int, int] | None: ...
def decode_record(content: bytes) -> tuple[dict[str, Any], bytes] | None: ...
def pending_records(directory: str) -> Iterator[tuple[dict[str, Any], bytes]]: ...
