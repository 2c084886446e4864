"""Groups from outside: list, describe, reset, delete, and who has consumed a record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from settling import settle

import pylog

PLACES = [("t", 0), ("t", 1)]


@pytest.fixture
def topic(engine: pylog.Engine) -> str:
    """Two partitions with 10 records each; the timestamps of partition 0 are 0 to 9 seconds."""
    engine.create_topic("t", partitions=2)
    engine.append_many(
        "t", [b"%d" % n for n in range(10)], partition=0, timestamps=[n * 10**9 for n in range(10)]
    )
    engine.append_many("t", [b"%d" % n for n in range(10)], partition=1)
    return "t"


def read(engine: pylog.Engine, group: str, upto: int) -> None:
    """Have a group without members commit an offset in both partitions."""
    with engine.consumer(group=group) as consumer:
        consumer.assign(PLACES)
        consumer.commit({place: pylog.OffsetAndMetadata(upto, b"note") for place in PLACES})


@pytest.fixture
def member(engine: pylog.Engine, topic: str) -> Iterator[pylog.Consumer]:
    """A member of group g that has read and committed everything."""
    with engine.consumer(topic, group="g", auto_offset_reset="earliest", timeout=0.0) as consumer:
        assert len(list(consumer)) == 20
        consumer.commit()
        yield consumer


def committed(engine: pylog.Engine, group: str = "g") -> list[int | None]:
    return [row.committed for row in engine.describe_group(group).partitions]


def test_an_empty_group_shows_what_is_committed_and_what_is_left(engine: pylog.Engine, topic: str) -> None:
    read(engine, "g", 4)
    found = engine.describe_group("g")
    assert (found.group, found.state, found.members, found.lag) == ("g", "empty", (), 12)
    first, second = found.partitions
    assert (first.topic, first.partition, first.committed, first.log_end_offset, first.lag) == (
        "t",
        0,
        4,
        10,
        6,
    )
    assert (first.metadata, first.member_id) == (b"note", None)
    age = datetime.now(UTC).timestamp() - 4  # its first record left has the timestamp 4 s
    assert first.lag_seconds == pytest.approx(age, abs=60)
    assert second.lag_seconds is not None and second.lag_seconds < 3600
    assert found.lag_seconds == first.lag_seconds


def test_a_living_group_shows_who_reads_what(
    engine: pylog.Engine, topic: str, member: pylog.Consumer
) -> None:
    with engine.consumer(topic, group="g", group_instance_id="fixed") as other:
        settle([member, other], 2)
        found = engine.describe_group("g")
        assert found.state == "stable"
        assert found.assignor == "cooperative_sticky"
        assert {one.instance_id: list(one.assignment) for one in found.members} == {
            None: member.assignment(),
            "fixed": other.assignment(),
        }
        assert {one.pid for one in found.members} == {os.getpid()}
        assert {row.member_id for row in found.partitions} == {one.member_id for one in found.members}
        assert (found.lag, found.lag_seconds) == (0, 0.0)


def test_a_group_in_motion_says_so(engine: pylog.Engine, topic: str, member: pylog.Consumer) -> None:
    with engine.consumer(topic, group="g") as other:
        assert engine.describe_group("g").state == "rebalancing"
        settle([member, other], 2)
        assert engine.describe_group("g").state == "stable"


def test_groups_are_listed_once_they_commit_or_have_members(engine: pylog.Engine, topic: str) -> None:
    assert engine.list_groups() == []
    with engine.consumer(group="silent"):
        assert engine.list_groups() == []
    read(engine, "b", 1)
    with engine.consumer(topic, group="a"):
        assert engine.list_groups() == ["a", "b"]
    assert engine.list_groups() == ["b"]
    with pytest.raises(pylog.UnknownGroupError):
        engine.describe_group("a")


def test_a_read_only_engine_sees_the_members_of_others(
    engine: pylog.Engine, data: Path, member: pylog.Consumer
) -> None:
    with pylog.open(data, read_only=True) as looking:
        assert looking.describe_group("g") == engine.describe_group("g")
        assert looking.list_groups() == ["g"]
        with pytest.raises(pylog.ReadOnlyError):
            looking.reset_offsets("g", to="earliest", execute=True)
        with pytest.raises(pylog.ReadOnlyError):
            looking.delete_group("g")


@pytest.mark.parametrize(
    ("to", "by", "expected"),
    [
        ("earliest", None, [0, 0]),
        ("latest", None, [10, 10]),
        (7, None, [7, 7]),
        (99, None, [10, 10]),
        (None, 3, [7, 7]),
        (None, -9, [0, 0]),
        (datetime.fromtimestamp(6, UTC), None, [6, 0]),
        (timedelta(days=1), None, [10, 0]),
        ({("t", 1): 2}, None, [4, 2]),
    ],
    ids=["earliest", "latest", "offset", "beyond", "forward", "back", "time", "duration", "mapping"],
)
def test_a_reset_is_planned_first_and_done_when_told(
    engine: pylog.Engine, topic: str, to: object, by: int | None, expected: list[int]
) -> None:
    read(engine, "g", 4)
    plan = engine.reset_offsets("g", to=to, by=by)  # type: ignore[arg-type]
    assert committed(engine) == [4, 4]
    assert engine.reset_offsets("g", to=to, by=by, execute=True) == plan  # type: ignore[arg-type]
    assert committed(engine) == expected
    assert [change.committed for change in plan] == [4] * len(plan)


def test_a_reset_outlives_the_engine(engine: pylog.Engine, topic: str, data: Path) -> None:
    read(engine, "g", 4)
    engine.reset_offsets("g", "t", to="latest", execute=True)
    engine.close()
    with pylog.open(data) as again:
        assert committed(again) == [10, 10]


def test_a_new_group_may_be_placed_before_its_first_consumer(engine: pylog.Engine, topic: str) -> None:
    with pytest.raises(pylog.UnknownGroupError):
        engine.reset_offsets("new", to="latest")
    assert engine.reset_offsets("new", [("t", 1)], to=8) == [("t", 1, None, 8)]
    assert engine.list_groups() == []
    engine.reset_offsets("new", [("t", 1)], to=8, execute=True)
    with engine.consumer(topic, group="new", timeout=0.0) as consumer:
        assert [record.offset for record in consumer] == [8, 9]


@pytest.mark.parametrize(
    ("to", "by", "error"),
    [
        (None, None, pylog.ConfigError),
        ("latest", 1, pylog.ConfigError),
        ("last", None, pylog.ConfigError),
        (-1, None, pylog.ConfigError),
        (True, None, TypeError),
        (1.5, None, TypeError),
        (datetime(2020, 1, 1), None, pylog.ConfigError),
        ({("t", 2): 0}, None, pylog.ConfigError),
    ],
)
def test_a_reset_that_says_nothing_clear_changes_nothing(
    engine: pylog.Engine, topic: str, to: object, by: int | None, error: type[Exception]
) -> None:
    read(engine, "g", 4)
    with pytest.raises(error):
        engine.reset_offsets("g", to=to, by=by, execute=True)  # type: ignore[arg-type]
    assert committed(engine) == [4, 4]


def test_a_reset_is_refused_while_members_live(engine: pylog.Engine, member: pylog.Consumer) -> None:
    with pytest.raises(pylog.GroupNotEmptyError) as refused:
        engine.reset_offsets("g", to="earliest", execute=True)
    assert refused.value.members == 1
    assert committed(engine) == [10, 10]
    member.close()
    engine.reset_offsets("g", to="earliest", execute=True)
    assert committed(engine) == [0, 0]


def test_a_forced_reset_fences_the_members_and_they_go_on_where_it_says(
    engine: pylog.Engine, member: pylog.Consumer
) -> None:
    generation = engine.describe_group("g").generation
    engine.reset_offsets("g", [("t", 1)], to=8, execute=True, force=True)
    assert engine.describe_group("g").generation > generation
    with pytest.raises(pylog.IllegalGenerationError):
        member.commit()
    assert committed(engine) == [10, 8]
    found = member.poll(timeout=20.0)
    assert [(record.partition, record.offset) for record in found] == [(1, 8), (1, 9)]
    member.commit()
    assert committed(engine) == [10, 10]


def test_a_member_regains_what_a_reset_took_that_died_half_way(
    engine: pylog.Engine, data: Path, member: pylog.Consumer
) -> None:
    state = data / "groups" / "g" / "members" / "state"
    before = state.read_bytes()
    engine.reset_offsets("g", to=9, execute=True, force=True)
    state.write_bytes(before)  # killed between the offsets and the document
    with pytest.raises(pylog.IllegalGenerationError):
        member.commit()
    found = member.poll(timeout=20.0)
    assert [(record.partition, record.offset) for record in found] == [(0, 9), (1, 9)]
    member.commit()
    assert committed(engine) == [10, 10]


def test_a_group_is_deleted_once_nobody_lives_in_it(engine: pylog.Engine, member: pylog.Consumer) -> None:
    with pytest.raises(pylog.GroupNotEmptyError):
        engine.delete_group("g")
    member.close()
    engine.delete_group("g")
    assert engine.list_groups() == []
    with pytest.raises(pylog.UnknownGroupError):
        engine.delete_group("g")
    with engine.consumer("t", group="g", auto_offset_reset="earliest", timeout=0.0) as again:
        assert len(list(again)) == 20
        again.commit()
    assert engine.list_groups() == ["g"]


def test_a_consumer_that_outlives_its_group_founds_it_anew(engine: pylog.Engine, topic: str) -> None:
    with engine.consumer(group="g") as consumer:
        consumer.assign(PLACES)
        consumer.commit(dict.fromkeys(PLACES, 4))
        engine.delete_group("g")
        assert consumer.committed(PLACES[0]) is None
        consumer.commit({PLACES[0]: 5})
    assert [(row.partition, row.committed) for row in engine.describe_group("g").partitions] == [(0, 5)]


def test_the_offsets_of_a_deleted_topic_do_not_count(engine: pylog.Engine, topic: str) -> None:
    read(engine, "g", 4)
    engine.delete_topic(topic)
    assert engine.list_groups() == []
    engine.create_topic("t", partitions=2)
    assert engine.list_groups() == []


def test_a_damaged_offset_is_named_and_a_reset_repairs_it(
    engine: pylog.Engine, topic: str, data: Path
) -> None:
    read(engine, "g", 4)
    engine.close()
    with (data / "groups" / "g" / "t.offsets").open("r+b") as file:
        for place in (8192 + 8, 8192 + 4096 + 8):  # the offset in both copies of partition 0
            file.seek(place)
            file.write(b"\xff")
    with pylog.open(data) as again:
        with pytest.raises(pylog.CorruptionError, match=r"t\.offsets"):
            again.describe_group("g")
        assert again.list_groups() == ["g"]
        assert again.reset_offsets("g", to=3, execute=True) == [("t", 0, None, 3), ("t", 1, 4, 3)]
        assert committed(again) == [3, 3]


def test_consumed_by_says_which_groups_are_past_a_record(engine: pylog.Engine, topic: str) -> None:
    read(engine, "fast", 8)
    read(engine, "slow", 5)
    engine.create_topic("other")
    engine.reset_offsets("elsewhere", "other", to="latest", execute=True)
    assert engine.consumed_by("t", 0, 4) == {"fast": True, "slow": True}
    assert engine.consumed_by("t", 0, 5) == {"fast": True, "slow": False}
    assert engine.consumed_by("t", 1, 8) == {"fast": False, "slow": False}
    with pytest.raises(pylog.UnknownTopicError):
        engine.consumed_by("none", 0, 0)


def test_lag_without_a_commit_counts_from_the_log_start(engine: pylog.Engine, topic: str) -> None:
    with engine.consumer(topic, group="g"):
        found = engine.describe_group("g")
        assert [(row.committed, row.lag) for row in found.partitions] == [(None, 10), (None, 10)]
