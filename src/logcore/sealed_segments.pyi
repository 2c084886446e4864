from collections.abc import Callable
from typing import NamedTuple

from typing_extensions import disjoint_base

from logcore.key_map import KeyMap
from logcore.partition_log import PartitionLog
from logcore.segment_files import SegmentFile

class SealedSegment(NamedTuple):
    file: SegmentFile
    end_offset: int
    max_timestamp: int
    sealed: int
    stored_bytes: int
    @property
    def base_offset(self) -> int: ...

def sealed_segments(log: PartitionLog) -> list[SealedSegment]: ...
def roll_segment(log: PartitionLog) -> None: ...
def map_keys(
    log: PartitionLog,
    keys: KeyMap,
    segments: list[SealedSegment],
    first: int,
    pace: Callable[[int], None] | None = None,
) -> int: ...

@disjoint_base
class Walk:
    def __new__(cls, log: PartitionLog, segment: SealedSegment) -> Walk: ...
    def damaged(self, reason: str) -> None: ...
