from collections.abc import Collection, Iterable

from typing_extensions import disjoint_base

from logcore.batch import Record, RecordBatch

@disjoint_base
class Matcher:
    def match(self, record: Record) -> bool | None: ...
    def rows(self, batch: RecordBatch) -> list[int]: ...

@disjoint_base
class KeyIn(Matcher):
    def __init__(self, values: Collection[bytes | None]) -> None: ...

@disjoint_base
class KeyStarts(Matcher):
    def __init__(self, prefix: bytes) -> None: ...

@disjoint_base
class Header(Matcher):
    def __init__(self, name: str) -> None: ...

@disjoint_base
class HeaderIn(Header):
    def __init__(self, name: str, values: Collection[bytes | None]) -> None: ...

@disjoint_base
class HeaderStarts(Header):
    def __init__(self, name: str, prefix: bytes) -> None: ...

@disjoint_base
class AllOf(Matcher):
    def __init__(self, parts: Iterable[Matcher]) -> None: ...

@disjoint_base
class AnyOf(Matcher):
    def __init__(self, parts: Iterable[Matcher]) -> None: ...

@disjoint_base
class Not(Matcher):
    def __init__(self, part: Matcher) -> None: ...
