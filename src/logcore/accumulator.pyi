from collections.abc import Callable, Iterable, Mapping, Sequence

from typing_extensions import disjoint_base

from logcore.log_directory import LogDirectory
from logcore.producers import ProducerIdentity
from logcore.record_ids import RecordId

@disjoint_base
class RecordAccumulator:
    buffered_bytes: int
    buffered_records: int
    closed: bool
    def __init__(
        self,
        engine: LogDirectory,
        *,
        batch_bytes: int = ...,
        buffer_bytes: int = ...,
        raise_when_full: bool = False,
        durability: str | None = None,
        identity: ProducerIdentity | None = None,
        on_delivery: Callable[[Sequence[RecordId], BaseException | None], None] | None = None,
        on_buffering: Callable[[], object] | None = None,
    ) -> None: ...
    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        sequence: int | None = None,
    ) -> None: ...
    def flush(self, timeout: float | None = None) -> None: ...
    def flush_lingering(self) -> bool: ...
    def close(self) -> None: ...
    def last_sequence(self, topic: str, partition: int) -> int | None: ...
    def resume_from(self, topic: str) -> int: ...
    def metrics(self) -> dict[str, int]: ...
