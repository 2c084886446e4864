from collections.abc import Sequence
from typing import Any

from typing_extensions import disjoint_base

from logcore.batch import Record

@disjoint_base
class HeaderFields:
    def __init__(self, texts: Sequence[str], numbers: Sequence[str] = ()) -> None: ...
    def of(self, record: Record) -> tuple[Any, ...]: ...
