from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from logcore.batch import Record
from logcore.record_headers import PackedHeaders

@disjoint_base
class HeaderFields:
    def __init__(self, texts: Sequence[str], numbers: Sequence[str] = ()) -> None: ...
    def pack(
        self, values: tuple[str | int | None, ...], more: PackedHeaders | None = None
    ) -> PackedHeaders: ...
    def pack_each(
        self, rows: Iterable[tuple[str | int | None, ...]], more: PackedHeaders | None = None
    ) -> list[PackedHeaders]: ...
    def of(self, record: Record) -> tuple[Any, ...]: ...
