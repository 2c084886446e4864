"""A process is killed at each step of cleaning: nothing that should stay is lost, and others go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import KILL, Failpoints
from faults.zygote import Zygote

import pylog
from pylog.cli import main

HERE = Path(__file__).stem
TOPIC = "t"
RECORDS = 100
POINTS = sorted(failpoints.names_in_source(failpoints.POINT))
DROPPING = [point for point in POINTS if point.startswith("drop.")]


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
