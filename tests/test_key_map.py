"""The map of compaction: the last offset of each key, in as much memory as it was given."""

from __future__ import annotations

import pytest

from logcore.batch import RecordBatch, parse_batch
from logcore.builder import BatchBuilder
from logcore.key_map import KeyMap


def batch_of(keys: list[bytes]) -> RecordBatch:
    builder = BatchBuilder()
    builder.add_records([b""] * len(keys), keys)
    return parse_batch(builder.encode(), 0, 0)


@pytest.mark.parametrize("count", [1, 767, 768, 769, *range(1000, 1012), 100_000])
def test_there_is_room_for_as_many_keys_as_records_were_told(count: int) -> None:
    keys = KeyMap(count, 1 << 30)
    batch = batch_of([b"%d" % n for n in range(count)])
    assert keys.put_batch(batch) == count
    assert keys.count == count
    assert (keys.last_offset(b"0"), keys.last_offset(b"%d" % count)) == (0, None)


def test_a_map_that_is_full_says_how_far_it_came_and_knows_later_offsets_of_its_keys() -> None:
    keys = KeyMap(1_000_000, 24 * 4096)
    batch = batch_of([b"%d" % (n % 5000) for n in range(20_000)])
    taken = keys.put_batch(batch)
    assert taken == keys.count == keys.most == 3072
    assert keys.put_batch(batch_of([b"7"] * 10)) == 10
