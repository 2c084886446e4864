"""Reading a topic to its end, with no group and no waiting.

Invariant: what was appended after the call is not yielded, so that every reading ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from logcore.topic_log import TopicLog
from pylog.config import Isolation, check_choice
from pylog.errors import ClosedError, ConfigError, OffsetOutOfRangeError
from pylog.records import Record

RECORDS_AT_ONCE = 1000


def check_offset_type(offset: object) -> int:
    """Return `offset` if it is an int, and no bool; TypeError otherwise."""
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(f"an offset is an int, not {type(offset).__name__}")
    return offset


def check_offset(log: TopicLog, partition: int, offset: object) -> int:
    """Return `offset` if the partition has it or ends at it; TypeError or OffsetOutOfRangeError otherwise."""
    wanted = check_offset_type(offset)
    first, end = log.log_start_offset(partition), log.log_end_offset(partition)
    if not first <= wanted <= end:
        raise OffsetOutOfRangeError(
            f"offset {offset} of {log.name}-{partition} is outside [{first}, {end}]",
            offset=wanted,
            log_start_offset=first,
            log_end_offset=end,
        )
    return wanted


def read_to_end(
    log: TopicLog, partition: int | None, offset: int | None, isolation: Isolation
) -> Iterator[Record]:
    """Check the arguments now, and return the iterator over what is there now."""
    synced = check_choice(isolation, "isolation", get_args(Isolation)) == "synced"
    if partition is None:
        if offset is not None and log.partitions > 1:
            raise ConfigError(f"offset={offset} needs a partition: topic {log.name!r} has {log.partitions}")
        wanted = range(log.partitions)
    else:
        # asked for its end, the log checks the partition
        log.log_end_offset(partition)
        wanted = range(partition, partition + 1)
    if offset is not None:
        check_offset(log, wanted[0], offset)
    ends = {p: log.synced_offset(p) if synced else log.log_end_offset(p) for p in wanted}
    return records_until(log, ends, offset, synced)


def records_until(log: TopicLog, ends: dict[int, int], offset: int | None, synced: bool) -> Iterator[Record]:
    """Yield the records of each partition up to its end."""
    for partition, end in ends.items():
        first = log.log_start_offset(partition) if offset is None else offset
        if first >= end:
            continue
        reader = log.reader(partition, first, synced_only=synced)
        while reader.offset < end:
            if log.closed:
                raise ClosedError("the engine was closed while it was read")
            records: list[Record] = reader.poll(RECORDS_AT_ONCE)
            if not records:
                break
            if reader.offset > end:
                records = [record for record in records if record.offset < end]
            yield from records
