from collections.abc import Callable
from typing import NamedTuple

from typing_extensions import disjoint_base

from logcore.key_map import KeyMap
from logcore.partition_log import PartitionLog
from logcore.sealed_segments import SealedSegment as SealedSegment

SUFFIX: str

class Rewritten(NamedTuple):
    records: int
    removed: int
    bytes_before: int
    bytes_after: int
    outgrown: bool = False

def rewrite_segment(
    log: PartitionLog,
    keys: KeyMap,
    segment: SealedSegment,
    covered: int,
    tombstones_below: int,
    pace: Callable[[int], None] | None = None,
) -> Rewritten: ...
def remove_unfinished(log: PartitionLog) -> None: ...

@disjoint_base
class Rewriting:
    def __new__(
        cls,
        log: PartitionLog,
        keys: KeyMap,
        segment: SealedSegment,
        covered: int,
        tombstones_below: int,
        compress: bool,
    ) -> Rewriting: ...
    def run(self, pace: Callable[[int], None] | None) -> Rewritten: ...
