"""cleanup_policy="delete": whole segments go by age and by size, the active one never."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks import DAY_MS, TurnedClock

import pylog
from pylog.embedded.engine import EmbeddedEngine

SEGMENT_BYTES = 16 << 10


@pytest.fixture
def engine(data: Path, clock: TurnedClock) -> Iterator[pylog.Engine]:
    with EmbeddedEngine(data, clock=clock) as engine:
        yield engine


def create(engine: pylog.Engine, **config: Any) -> None:
    """A topic of 100 records of 1000 bytes in about ten segments."""
    engine.create_topic("t", segment_bytes=SEGMENT_BYTES, **config)
    for _ in range(100):
        engine.append("t", bytes(1000))
    engine.sync()


def segments(data: Path) -> list[Path]:
    return sorted((data / "topics" / "t" / "0").glob("*.log"))


def test_nothing_goes_without_retention(data: Path, engine: pylog.Engine) -> None:
    create(engine)
    before = segments(data)
    assert engine.clean() == engine.clean("t") == []
    assert segments(data) == before


def test_segments_go_when_their_newest_record_is_too_old(
    data: Path, engine: pylog.Engine, clock: TurnedClock
) -> None:
    create(engine, retention_ms=7 * DAY_MS)
    before = segments(data)
    clock.passed_ms = 6 * DAY_MS
    (report,) = engine.clean()
    assert (report.log_start_offset, report.deleted_bytes) == (0, 0)
    clock.passed_ms = 8 * DAY_MS
    (report,) = engine.clean()
    active = int(before[-1].stem)
    assert report.log_start_offset == engine.log_start_offset("t", 0) == active
    assert segments(data) == before[-1:]
    assert [record.offset for record in engine.read("t", 0)] == list(range(active, 100))


def test_the_age_is_told_by_timestamps_and_not_by_files(data: Path, engine: pylog.Engine) -> None:
    engine.create_topic("t", segment_bytes=SEGMENT_BYTES, retention_ms=DAY_MS)
    long_ago = time.time_ns() - 3 * DAY_MS * 1_000_000
    for number in range(50):
        engine.append("t", bytes(1000), timestamp=long_ago + number)
    engine.sync()
    before = segments(data)
    engine.clean()
    assert segments(data) == before[-1:]


def test_the_oldest_segments_go_while_the_rest_is_enough(data: Path, engine: pylog.Engine) -> None:
    create(engine, retention_bytes=40_000)
    (report,) = engine.clean()
    left = sum(path.stat().st_size for path in segments(data)[:-1])
    assert report.log_start_offset > 0
    assert 40_000 - SEGMENT_BYTES <= left <= 40_000 + SEGMENT_BYTES
    assert engine.clean()[0].deleted_bytes == 0


def test_a_plan_deletes_nothing(data: Path, engine: pylog.Engine, clock: TurnedClock) -> None:
    create(engine, retention_ms=DAY_MS)
    clock.passed_ms = 2 * DAY_MS
    before = segments(data)
    (plan,) = engine.clean(plan=True)
    assert segments(data) == before
    assert engine.clean() == [plan]
    assert plan.log_start_offset == int(before[-1].stem)


def test_a_clock_that_jumps_deletes_one_segment_at_a_time_and_warns(
    data: Path, engine: pylog.Engine, clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    create(engine, retention_ms=7 * DAY_MS)
    before = segments(data)
    clock.turned_ms = 400 * DAY_MS
    with caplog.at_level(logging.WARNING, "pylog"):
        engine.clean()
        assert segments(data) == before[1:]
        engine.clean()
        assert segments(data) == before[2:]
    assert "clock" in caplog.text
    clock.turned_ms = 0
    engine.clean()
    assert segments(data) == before[2:]


def test_what_is_deleted_and_compacted_is_counted(engine: pylog.Engine, clock: TurnedClock) -> None:
    create(engine, retention_ms=DAY_MS)
    clock.passed_ms = 2 * DAY_MS
    (report,) = engine.clean()
    assert engine.metrics()["cleaner_deleted_bytes"] == report.deleted_bytes > 0
    assert engine.metrics()["cleaner_cleanings"] == 1


@pytest.mark.parametrize(
    "config",
    [
        {"cleanup_policy": "both"},
        {"retention_ms": -2},
        {"retention_bytes": -2},
        {"min_cleanable_dirty_ratio": 1.5},
        {"min_compaction_lag_ms": -1},
        {"delete_retention_ms": -1},
    ],
)
def test_what_cannot_be_is_refused(engine: pylog.Engine, config: dict[str, Any]) -> None:
    with pytest.raises(pylog.ConfigError):
        engine.create_topic("t", **config)


def test_topics_are_cleaned_in_the_background_while_producers_linger(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pylog.embedded import cleaner

    monkeypatch.setattr(cleaner, "EVERY_SECONDS", 0.01)
    with pylog.open(data) as engine:
        create(engine, retention_bytes=0)
        deadline = time.monotonic() + 20
        with engine.producer(linger_ms=1) as producer:
            sent = 0
            while len(segments(data)) > 1 or not sent:
                producer.send("t", b"lingers", partition=0)
                sent += 1
                assert time.monotonic() < deadline, "nobody cleaned"
        assert engine.log_start_offset("t", 0) > 0


def test_background_cleaning_keeps_to_its_pace_and_ends_with_the_engine_in_the_middle_of_its_work(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pylog.embedded import cleaner

    monkeypatch.setattr(cleaner, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(cleaner, "BYTES_PER_SECOND", 1)
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=SEGMENT_BYTES, cleanup_policy="compact")
        for number in range(100):
            engine.append("t", bytes(1000), key=b"%d" % (number % 3))
        engine.sync()
        with pylog.open(data, lock_timeout=0.01) as other:
            deadline, cleaning = time.monotonic() + 20, False
            while not cleaning:
                assert time.monotonic() < deadline, "nobody cleaned"
                try:
                    other.clean("t", plan=True)
                except pylog.LockTimeoutError:
                    cleaning = True
    assert not list(segments(data)[0].parent.glob("*.tmp"))
    with pylog.open(data) as engine:
        assert len(list(engine.read("t", 0))) == 100  # a byte a second has not come far
