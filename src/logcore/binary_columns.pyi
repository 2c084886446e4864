from typing import Any, final

from logcore.builder import BatchBuilder

@final
class BinaryColumn: ...

@final
class RecordColumns:
    count: int
    def __len__(self) -> int: ...

def add_to_builder(
    builder: BatchBuilder, values: Any, keys: Any = None, start: int = 0, budget: int = ...
) -> int: ...
