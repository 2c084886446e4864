from typing_extensions import disjoint_base

from logcore.batch import RecordBatch

@disjoint_base
class KeyMap:
    count: int
    most: int
    def __new__(cls, records: int, memory_bytes: int) -> KeyMap: ...
    def put_batch(self, batch: RecordBatch, start: int = 0) -> int: ...
    def last_offset(self, key: bytes) -> int | None: ...
