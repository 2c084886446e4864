"""A process is killed at each step of cleaning: nothing that should stay is lost, and others go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import EXIT, KILL, STOP, Failpoints
from faults.zygote import Zygote

import pylog
from pylog.cli import main

HERE = Path(__file__).stem
TOPIC = "t"
RECORDS = 100
POINTS = sorted(failpoints.names_in_source(failpoints.POINT))
DROPPING = [point for point in POINTS if point.startswith("drop.")]
COMPACTING = [point for point in POINTS if point.startswith("compact.")]


def create(directory: str) -> None:
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, segment_bytes=16 << 10)
        for number in range(RECORDS):
            engine.append(TOPIC, f"{number}".encode() * 400, key=b"%d" % (number % 7))


def delete(directory: str, before: int) -> int:
    with pylog.open(directory) as engine:
        return engine.delete_records(TOPIC, 0, before)


def look(directory: str) -> dict[str, Any]:
    """What is there: the start, the offsets, and the offset of one more record."""
    with pylog.open(directory) as engine:
        return {
            "start": engine.log_start_offset(TOPIC, 0),
            "offsets": [record.offset for record in engine.read(TOPIC, 0)],
            "appended": engine.append(TOPIC, b"more").offset,
        }


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failpoints]:
    found = Failpoints(tmp_path_factory.mktemp("points") / "points")
    yield found
    found.close()


@pytest.fixture(scope="module")
def zygote(
    tmp_path_factory: pytest.TempPathFactory, failpoint_build: Path, points: Failpoints
) -> Iterator[Zygote]:
    jobs = tmp_path_factory.mktemp("jobs")
    with Zygote(jobs, [failpoint_build, Path(__file__).parent], points.environment) as started:
        yield started


def partition(data: Path) -> list[Path]:
    return sorted((data / "topics" / TOPIC / "0").iterdir())


@pytest.mark.parametrize("others_live", [False, True], ids=["alone", "in company"])
@pytest.mark.parametrize("point", DROPPING)
def test_deleting_records_is_whole_or_not_begun_after_a_kill(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str, others_live: bool
) -> None:
    points.reset()
    data = tmp_path / "data"
    zygote.run(f"{HERE}:create", directory=data)
    company = pylog.open(data) if others_live else None
    try:
        with points.armed(point, KILL):
            assert zygote.start(f"{HERE}:delete", directory=data, before=42).wait() == signal.SIGKILL
        found = zygote.run(f"{HERE}:look", directory=data)
    finally:
        if company is not None:
            company.close()
    # those who live are told when the dead one's lock is taken next, by the append of look()
    unsaid = point == "drop.locked" or (point == "drop.start" and others_live)
    assert found["start"] == (0 if unsaid else 42)
    assert found["offsets"] == list(range(found["start"], RECORDS))
    assert found["appended"] == RECORDS

    assert zygote.run(f"{HERE}:delete", directory=data, before=42) == 42
    assert zygote.run(f"{HERE}:look", directory=data)["offsets"] == list(range(42, RECORDS + 1))
    assert main(["verify", str(data)]) == 0
    names = [path.name for path in partition(data)]
    assert not [name for name in names if name.startswith(".") or name.endswith((".tmp", ".next"))]
    assert int(min(name for name in names if name.endswith(".log"))[:20]) > 0


# ---- compaction ----------------------------------------------------------------------------------------


def create_compacted(directory: str) -> None:
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, segment_bytes=16 << 10, cleanup_policy="compact")
        for number in range(RECORDS):
            engine.append(TOPIC, f"{number}".encode() * 400, key=b"%d" % (number % 7))


def clean(directory: str) -> int:
    with pylog.open(directory) as engine:
        (report,) = engine.clean(TOPIC, now=True)
        assert report.error is None
        return report.removed_records


def read(directory: str) -> list[Any]:
    """Every record, as JSON can say it."""
    with pylog.open(directory) as engine:
        return [
            [record.offset, record.timestamp, record.key.decode(), record.value.decode()]
            for record in engine.read(TOPIC, 0)
            if record.key is not None and record.value is not None
        ]


def last_of_each_key(records: list[Any]) -> list[Any]:
    return sorted({key: [offset, at, key, value] for offset, at, key, value in records}.values())


@pytest.mark.parametrize("fault", [KILL, EXIT], ids=["kill", "exit"])
@pytest.mark.parametrize("others_live", [False, True], ids=["alone", "in company"])
@pytest.mark.parametrize("point", COMPACTING)
def test_compaction_ended_half_way_leaves_each_segment_whole_old_or_new(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str, others_live: bool, fault: int
) -> None:
    points.reset()
    data = tmp_path / "data"
    zygote.run(f"{HERE}:create_compacted", directory=data)
    before = zygote.run(f"{HERE}:read", directory=data)
    company = pylog.open(data) if others_live else None
    try:
        with points.armed(point, fault, at=2):
            status = zygote.start(f"{HERE}:clean", directory=data).wait()
        assert points.fired(point).times == 1
        assert status == (signal.SIGKILL if fault == KILL else 0)
        found = zygote.run(f"{HERE}:read", directory=data)
        assert last_of_each_key(found) == last_of_each_key(before)
        assert all(record in before for record in found)
        assert zygote.run(f"{HERE}:clean", directory=data) > 0
    finally:
        if company is not None:
            company.close()
    assert zygote.run(f"{HERE}:read", directory=data) == last_of_each_key(before)
    assert main(["verify", str(data)]) == 0
    assert not [path.name for path in partition(data) if path.name.endswith((".tmp", ".next"))]


@pytest.mark.parametrize("point", COMPACTING)
def test_others_read_while_compaction_is_stopped_and_it_goes_on(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    points.reset()
    data = tmp_path / "data"
    zygote.run(f"{HERE}:create_compacted", directory=data)
    before = zygote.run(f"{HERE}:read", directory=data)
    with points.armed(point, STOP, at=2):
        stopped = zygote.start(f"{HERE}:clean", directory=data)
        assert stopped.wait_stopped_or_ended()
    assert last_of_each_key(zygote.run(f"{HERE}:read", directory=data)) == last_of_each_key(before)
    stopped.signal(signal.SIGCONT)
    assert stopped.result() == RECORDS - 7
    assert zygote.run(f"{HERE}:read", directory=data) == last_of_each_key(before)


def test_a_reader_goes_on_in_a_segment_that_was_replaced_before_anybody_was_told(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    points.reset()
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic(TOPIC, segment_bytes=1 << 20, cleanup_policy="compact")
        engine.append(TOPIC, bytes(1000), key=b"k")
        with engine.consumer(TOPIC, auto_offset_reset="earliest") as consumer:
            assert len(consumer.poll()) == 1  # it maps the segment, whose file is small then
            for _ in range(399):
                engine.append(TOPIC, bytes(1000), key=b"k")
            with points.armed("compact.renamed", STOP):
                cleaning = zygote.start(f"{HERE}:clean", directory=tmp_path / "data")
                assert cleaning.wait_stopped_or_ended()
            seen = [0]
            while seen[-1] < 399:
                seen += [record.offset for record in consumer.poll()]
            cleaning.signal(signal.SIGCONT)
            assert cleaning.result() == 399
    assert seen == sorted(set(seen))
