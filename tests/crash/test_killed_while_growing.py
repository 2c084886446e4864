"""A process that adds partitions to a topic dies anywhere in it: all have them then, or nobody has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import failpoints
from faults.failpoints import Failpoints
from faults.zygote import Zygote

JOB = "test_killed_while_growing"
BEFORE, AFTER = 2, 5
POINTS = ["grow.reserved", "grow.reserved 2", "grow.slots", "grow.told"]
"""The second time it makes room is when topic.json says already that they are there."""


def fill(directory: str, partitions: int) -> None:
    """Make the topic where it is not there, and append one record to each of its partitions."""
    import pylog

    with pylog.open(directory) as engine:
        if "t" not in engine.list_topics():
            engine.create_topic("t", partitions=partitions, durability="os")
        for partition in range(engine.describe_topic("t").partitions):
            engine.append("t", b"x", partition=partition)


def grow(directory: str) -> None:
    import pylog

    with pylog.open(directory) as engine:
        engine.create_partitions("t", AFTER)


def found(directory: str) -> list[int]:
    """The records in each partition."""
    import pylog

    with pylog.open(directory) as engine:
        count = engine.describe_topic("t").partitions
        return [len(list(engine.read("t", partition))) for partition in range(count)]


def follow(directory: str, living: str) -> list[int]:
    """Live through the growth, then append to each partition, and read that as the only member of a group."""
    import time

    import pylog

    with pylog.open(directory) as engine, engine.consumer("t", group="g") as consumer:
        Path(living).write_text("")
        deadline = time.monotonic() + 60
        while len(consumer.assignment()) < AFTER:
            assert time.monotonic() < deadline
            consumer.poll(timeout=0.05)
        for partition in range(AFTER):
            engine.append("t", b"y", partition=partition)
        seen: list[int] = []
        while len(seen) < AFTER:
            seen += [record.partition for record in consumer.poll(timeout=1.0)]
        return sorted(seen)


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Failpoints]:
    made = Failpoints(tmp_path / "points")
    yield made
    made.close()


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, points: Failpoints) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build, Path(__file__).parent], points.environment) as started:
        yield started


def kill_a_grower(zygote: Zygote, points: Failpoints, data: Path, point: str) -> None:
    name, _, hit = point.partition(" ")
    points.reset()
    points.arm(name, failpoints.KILL, at=int(hit or 1))
    zygote.start(f"{JOB}:grow", directory=data).wait_killed_or_done()
    assert points.fired(name).times == 1
    points.disarm(name)


@pytest.mark.parametrize("point", POINTS)
def test_a_topic_whose_grower_was_killed_has_grown_or_has_not(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    data = tmp_path / "data"
    zygote.run(f"{JOB}:fill", directory=data, partitions=BEFORE)
    kill_a_grower(zygote, points, data, point)

    grown = point != "grow.reserved"
    assert zygote.run(f"{JOB}:found", directory=data) == [1, 1, *([0] * (AFTER - BEFORE) if grown else [])]
    zygote.run(f"{JOB}:grow", directory=data)
    zygote.run(f"{JOB}:fill", directory=data, partitions=0)
    assert zygote.run(f"{JOB}:found", directory=data) == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("point", POINTS)
def test_who_lives_on_sees_what_the_next_one_finishes(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    data = tmp_path / "data"
    zygote.run(f"{JOB}:fill", directory=data, partitions=BEFORE)
    os.mkfifo(tmp_path / "living")
    living = zygote.start(f"{JOB}:follow", directory=data, living=tmp_path / "living")
    (tmp_path / "living").read_text()
    kill_a_grower(zygote, points, data, point)
    zygote.run(f"{JOB}:grow", directory=data)
    assert living.result() == list(range(AFTER))
    assert zygote.run(f"{JOB}:found", directory=data) == [2, 2, 1, 1, 1]
