from collections import OrderedDict
from typing import NoReturn

from typing_extensions import disjoint_base

from logcore.batch import Record
from logcore.partition_log import Guard, PartitionLog

@disjoint_base
class IndexedSegment:
    def __new__(cls, file: object, end_offset: int) -> IndexedSegment: ...

opened: OrderedDict[IndexedSegment, None]

@disjoint_base
class KeyIndex:
    def __new__(cls, log: PartitionLog) -> KeyIndex: ...
    def close(self) -> None: ...
    def save(self, found: IndexedSegment) -> None: ...
    def find(
        self, key: bytes, first: int = 0, behind: int = ..., *, most: int = -1, backward: bool = False
    ) -> list[Record]: ...
    def find_once(self, key: bytes, first: int, behind: int, most: int, backward: bool) -> list[Record]: ...
    def last_offset(self, key: bytes) -> int: ...

@disjoint_base
class KeyGuard(Guard):
    def __init__(self, index: KeyIndex, expected: dict[bytes, int]) -> None: ...

def raise_conflict(log: PartitionLog, key: bytes, expected: int, actual: int) -> NoReturn: ...
