from collections.abc import Callable
from typing import final

from logcore.processes import Registry

CLEAN_MARKER: str

@final
class ControlFile:
    def __new__(
        cls,
        directory: str,
        registry: Registry,
        uuid: bytes,
        partitions: int,
        *,
        read_only: bool = False,
        private: bool = False,
    ) -> ControlFile: ...
    @property
    def path(self) -> str: ...
    @property
    def directory(self) -> str | None: ...
    @property
    def partitions(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def private(self) -> bool: ...
    def take_clean_marker(self, directory: int) -> bool: ...
    def close_clean(self, mark_ends: Callable[[], None]) -> None: ...
    def close(self) -> int: ...

def control_bytes(partitions: int) -> int: ...
