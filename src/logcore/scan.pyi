from collections.abc import Iterator
from typing import NamedTuple

from typing_extensions import disjoint_base

class SegmentHeader(NamedTuple):
    salt: int
    base_offset: int
    epoch: int
    partition: int
    topic_uuid: bytes
    segment_bytes: int
    created: int
    base_byte_pos: int
    synced_offset: int
    range_end: int

class ScannedBatch(NamedTuple):
    position: int
    length: int
    base_offset: int
    next_offset: int
    record_count: int
    attributes: int
    epoch: int
    base_timestamp: int
    max_timestamp: int
    synced_offset: int
    producer_id: int | None
    producer_epoch: int
    first_sequence: int
    last_sequence: int
    body_ok: bool
    is_mark: bool
    codec: int
    raw_body_bytes: int

class ScannedFooter(NamedTuple):
    position: int
    length: int
    end_offset: int
    max_timestamp: int
    synced_offset: int
    is_cut: bool
    next_epoch: int
    sealed: int
    producer_count: int

class ScannedBreak(NamedTuple):
    position: int
    length: int
    at_tail: bool

def parse_segment_header(data: bytes) -> SegmentHeader | None: ...

@disjoint_base
class SegmentScan:
    path: str
    file_bytes: int
    header: bytes
    next_position: int
    kind: int
    position: int
    length: int
    tail_broken: bool
    def __new__(cls, path: str) -> SegmentScan: ...
    def find_header(self) -> bytes: ...
    def close(self) -> int: ...
    def seek(self, position: int) -> int: ...
    def entries(
        self, verify_bodies: bool = True
    ) -> Iterator[ScannedBatch | ScannedFooter | ScannedBreak]: ...
    def read(self, position: int, size: int) -> bytes: ...

def scan_segment(
    path: str, *, verify_bodies: bool = True
) -> Iterator[SegmentHeader | ScannedBatch | ScannedFooter | ScannedBreak]: ...
