"""Pub/sub with topics, pattern 4: any number of groups on the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from settling import poll_until

import pylog


def disk_use(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.log"))


def values(records: list[pylog.Record]) -> list[bytes | None]:
    return [record.value for record in records]


def test_4a_disk_use_does_not_depend_on_the_number_of_groups(engine: pylog.Engine, data: Path) -> None:
    engine.create_topic("t", partitions=2)
    engine.append_many("t", [bytes(1000)] * 1000)
    before = disk_use(data)
    for number in range(10):
        with engine.consumer("t", group=f"g{number}", auto_offset_reset="earliest", timeout=0.0) as consumer:
            assert len(list(consumer)) == 1000
            consumer.commit()
    assert disk_use(data) < 1.1 * before                      # space is allocated ahead, in steps


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("pattern", ["orders.*", re.compile(r"ORDERS\.\w+", re.IGNORECASE)])
def test_4b_a_new_topic_that_matches_is_read_from_its_first_record(
    engine: pylog.Engine, group: str | None, pattern: str | re.Pattern[str]
) -> None:
    engine.create_topic("orders.eu")
    engine.create_topic("other")
    engine.append("orders.eu", b"before")
    with engine.consumer(pattern, group=group) as consumer:      # latest: what was there before is not read
        assert consumer.poll() == []
        engine.create_topic("orders.us", partitions=3)
        engine.append("orders.us", b"first", partition=2)
        engine.append("other", b"not ours")
        found = poll_until([consumer], lambda: len(consumer.assignment()) == 4)
        found += consumer.poll(timeout=5.0) if not found else []
        assert values(found) == [b"first"]


def test_4b_a_topic_that_is_deleted_leaves_the_others_alone(engine: pylog.Engine) -> None:
    engine.create_topic("orders.eu")
    engine.create_topic("orders.us")
    with engine.consumer("orders.*", group="g", auto_offset_reset="earliest") as consumer:
        engine.delete_topic("orders.us")
        poll_until([consumer], lambda: len(consumer.assignment()) == 1)
        engine.append("orders.eu", b"x")
        assert values(consumer.poll(timeout=5.0)) == [b"x"]


def test_4c_a_stuck_subscriber_delays_nobody(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    with (
        engine.consumer("t", group="stuck", auto_offset_reset="earliest") as stuck,
        engine.consumer("t", group="quick", auto_offset_reset="earliest") as quick,
    ):
        engine.append("t", b"0")
        assert len(stuck.poll(timeout=5.0)) == 1                  # and never polls again
        for number in range(1, 50):
            engine.append("t", b"%d" % number)
        found = poll_until([quick], lambda: quick.position(("t", 0)) == 50)
        assert values(found) == [b"%d" % number for number in range(50)]


def test_4d_peeking_moves_no_cursor(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append_many("t", [b"a", b"b"])
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        assert values(consumer.poll(1)) == [b"a"]
        consumer.commit()
    assert values(list(engine.read("t"))) == [b"a", b"b"]
    with engine.consumer(group="g") as peeking:
        peeking.assign([("t", 0)])
        peeking.seek(("t", 0), 0)
        assert values(peeking.poll()) == [b"a", b"b"]
        assert peeking.committed(("t", 0)) == 1
    with engine.consumer("t", group="g") as consumer:
        assert values(consumer.poll()) == [b"b"]
