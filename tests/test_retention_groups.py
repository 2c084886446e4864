"""retention_groups: what a group has not consumed stays, up to a cap, and nobody overlooks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks import DAY_MS, TurnedClock

import pylog
from pylog.cli import main
from pylog.embedded.engine import EmbeddedEngine

SEGMENT_BYTES = 16 << 10


@pytest.fixture
def engine(data: Path, clock: TurnedClock) -> Iterator[pylog.Engine]:
    with EmbeddedEngine(data, clock=clock) as engine:
        yield engine


def create(engine: pylog.Engine, *groups: str, **config: Any) -> None:
    """A topic of 100 records of 1000 bytes in about seven segments."""
    engine.create_topic("t", segment_bytes=SEGMENT_BYTES, retention_groups=groups, **config)
    for _ in range(100):
        engine.append("t", bytes(1000))
    engine.sync()


def consume(engine: pylog.Engine, group: str, offset: int) -> None:
    with engine.consumer(group=group, auto_offset_reset="earliest") as consumer:
        consumer.assign([("t", 0)])
        consumer.commit({("t", 0): offset})


def sealed(data: Path) -> list[int]:
    """The offsets at which the segments begin, without the first."""
    return sorted(int(path.stem) for path in (data / "topics" / "t" / "0").glob("*.log"))[1:]


def test_records_go_as_soon_as_all_groups_have_consumed_them(data: Path, engine: pylog.Engine) -> None:
    create(engine, "billing", "audit")
    ends = sealed(data)
    assert engine.clean("t")[0].log_start_offset == 0  # neither has begun
    consume(engine, "billing", 100)
    (report,) = engine.clean("t")
    assert (report.log_start_offset, report.held_by) == (0, "audit")
    consume(engine, "audit", ends[2] + 1)
    (report,) = engine.clean("t")
    assert report.log_start_offset == engine.log_start_offset("t", 0) == ends[2]
    assert report.unconsumed_bytes == 0 < report.held_bytes
    consume(engine, "audit", 100)
    assert engine.clean("t")[0].log_start_offset == ends[-1]  # the active segment stays


def test_retention_by_time_and_by_size_waits_for_the_groups(
    data: Path, engine: pylog.Engine, clock: TurnedClock
) -> None:
    create(engine, "billing", retention_ms=DAY_MS, retention_bytes=1)
    ends = sealed(data)
    consume(engine, "billing", 50)
    consumed = [end for end in ends if end <= 50][-1]
    assert engine.clean("t")[0].log_start_offset == consumed  # too much, but for what was not consumed
    engine.alter_topic("t", retention_bytes=-1)
    consume(engine, "billing", 100)
    assert engine.clean("t")[0].log_start_offset == consumed  # consumed, and not too old yet
    clock.passed_ms = 2 * DAY_MS
    found = [engine.clean("t")[0].log_start_offset for _ in ends]  # one segment each: the clock has jumped
    assert found[0] > consumed and found[-1] == ends[-1]


def test_a_dead_group_fills_no_disk_beyond_the_cap_and_is_told_of(
    data: Path, engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    create(engine, "dead", retention_bytes=SEGMENT_BYTES)
    (report,) = engine.clean("t")
    assert report.deleted_bytes == 0 < report.held_bytes and report.held_by == "dead"
    assert "wait for group 'dead', which has no member" in caplog.text
    assert engine.metrics()["cleaner_held_bytes"] == report.held_bytes
    caplog.clear()
    engine.clean("t")
    assert caplog.text == ""  # said once

    engine.alter_topic("t", retention_groups_max_bytes=2 * SEGMENT_BYTES)
    (planned,) = engine.clean("t", plan=True)
    (report,) = engine.clean("t")
    assert planned == report and report.unconsumed_bytes == report.deleted_bytes > 0
    assert engine.log_start_offset("t", 0) == report.log_start_offset > 0
    assert "that group 'dead' had not consumed" in caplog.text
    assert engine.metrics()["cleaner_unconsumed_bytes"] == report.unconsumed_bytes
    consume(engine, "dead", 100)
    assert engine.clean("t")[0].held_bytes == engine.metrics()["cleaner_held_bytes"] == 0


def test_a_living_group_that_is_merely_behind_is_no_warning(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    create(engine, "billing")
    with engine.consumer("t", group="billing", auto_offset_reset="earliest"):
        assert engine.clean("t")[0].held_bytes > 0
    assert caplog.text == ""


def test_a_group_goes_back_and_is_waited_for_again(data: Path, engine: pylog.Engine) -> None:
    create(engine, "billing")
    consume(engine, "billing", 100)
    engine.reset_offsets("billing", "t", to="earliest", execute=True)
    assert engine.clean("t")[0].deleted_bytes == 0


def test_offsets_of_a_deleted_topic_release_nothing_of_the_new_one(engine: pylog.Engine) -> None:
    create(engine, "billing")
    consume(engine, "billing", 100)
    engine.delete_topic("t")
    create(engine, "billing")
    assert engine.clean("t")[0].deleted_bytes == 0


def test_a_damaged_offset_deletes_nothing_and_is_named(data: Path, engine: pylog.Engine) -> None:
    create(engine, "billing")
    consume(engine, "billing", 100)
    table = data / "groups" / "billing" / "t.offsets"
    content = bytearray(table.read_bytes())
    content[8192:] = bytes(255 - byte for byte in content[8192:])
    with table.open("r+b") as file:
        file.write(content)
    (report,) = engine.clean("t")
    assert report.error is not None and "damaged" in report.error
    assert engine.log_start_offset("t", 0) == 0


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        ("billing", TypeError),
        (5, TypeError),
        ([b"billing"], TypeError),
        (["../x"], pylog.ConfigError),
        ([f"g{n}" for n in range(65)], pylog.ConfigError),
    ],
)
def test_a_wrong_list_of_groups_is_refused(engine: pylog.Engine, groups: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        engine.create_topic("t", retention_groups=groups)
    assert engine.list_topics() == []


def test_the_command_shows_what_is_waited_for(
    data: Path, engine: pylog.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.create_topic("other")
    for config in ("retention_groups=billing,audit", "retention_groups_max_bytes=1000000"):
        assert main(["-C", str(data), "alter", "other", "-c", config, "--execute"]) == 0
    engine.append_many("other", [b"x"] * 9)
    for group, offset in (("billing", 7), ("audit", 4)):
        with engine.consumer(group=group) as consumer:
            consumer.assign([("other", 0)])
            consumer.commit({("other", 0): offset})
    capsys.readouterr()
    assert main(["-C", str(data), "--json", "describe", "other"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["retention_groups"] == ["audit", "billing"]
    assert [row["consumed_offset"] for row in found["partition_list"]] == [4]
    assert main(["-C", str(data), "describe", "other"]) == 0
    assert "retention_groups\taudit,billing" in capsys.readouterr().out
