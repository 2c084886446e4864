"""A process that is stopped where it hurts most: the others are told who it is, and it does no harm later."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import Failpoints
from faults.zygote import Zygote

TOPIC = "t"
LOCK_TIMEOUT = 0.3


def create(directory: str) -> None:
    import pylog

    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, partitions=2)
        engine.append(TOPIC, b"before", partition=0)


def append(directory: str, value: str, partition: int = 0) -> dict[str, Any]:
    """Append; the offset, or the error with the pid that it names."""
    import pylog

    with pylog.open(directory, lock_timeout=LOCK_TIMEOUT) as engine:
        try:
            return {"offset": engine.append(TOPIC, value.encode(), partition=partition).offset}
        except pylog.LockTimeoutError as error:
            return {"pid": error.pid, "retriable": error.retriable}


def load(directory: str, holder: str) -> dict[str, Any]:
    """Send sequences 0 to 2 under one producer_id; what is in by then, or the error."""
    import pylog

    with pylog.open(directory, lock_timeout=LOCK_TIMEOUT) as engine:
        producer = engine.producer(producer_id="loader", linger_ms=3_600_000)
        try:
            for sequence in range(3):
                producer.send(TOPIC, f"{sequence} of {holder}".encode(), partition=0, sequence=sequence)
            producer.close()
        except pylog.PylogError as error:
            return {"error": type(error).__name__}
        return {"dropped": producer.metrics()["duplicates_dropped"]}


def values(directory: str) -> list[str]:
    import pylog

    with pylog.open(directory, read_only=True) as engine:
        return [record.value.decode() for record in engine.read(TOPIC, 0) if record.value is not None]


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Failpoints]:
    found = Failpoints(tmp_path / "points")
    yield found
    found.close()


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, points: Failpoints) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build, Path(__file__).parent], points.environment) as started:
        started.run("test_stopped_processes:create", directory=tmp_path / "data")
        yield started


@pytest.mark.parametrize("point", ["append.locked", "append.staged", "append.written", "append.published"])
def test_a_writer_stopped_inside_an_append_is_named_and_goes_on_when_it_may(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    data = tmp_path / "data"
    points.arm(point, failpoints.STOP)
    stopped = zygote.start("test_stopped_processes:append", directory=data, value="stopped")
    assert stopped.wait_stopped_or_ended()
    refused = zygote.run("test_stopped_processes:append", directory=data, value="refused")
    assert refused == {"pid": stopped.pid, "retriable": True}
    elsewhere = zygote.run("test_stopped_processes:append", directory=data, value="x", partition=1)
    assert elsewhere == {"offset": 0}
    seen = ["before", "stopped"] if point == "append.published" else ["before"]
    assert zygote.run("test_stopped_processes:values", directory=data) == seen
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.result() == {"offset": 1}
    assert zygote.run("test_stopped_processes:append", directory=data, value="after") == {"offset": 2}
    assert zygote.run("test_stopped_processes:values", directory=data) == ["before", "stopped", "after"]


def test_a_writer_killed_while_it_was_stopped_lets_the_others_go_on(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    points.arm("append.staged", failpoints.STOP)
    stopped = zygote.start("test_stopped_processes:append", directory=data, value="never")
    assert stopped.wait_stopped_or_ended()
    stopped.kill()
    assert zygote.run("test_stopped_processes:append", directory=data, value="after") == {"offset": 1}
    assert zygote.run("test_stopped_processes:values", directory=data) == ["before", "after"]


@pytest.mark.parametrize("point", ["append.locked", "append.staged", "append.written", "append.published"])
def test_a_producer_stopped_inside_its_append_doubles_nothing_when_another_took_its_id(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    data = tmp_path / "data"
    points.arm(point, failpoints.STOP)
    stopped = zygote.start("test_stopped_processes:load", directory=data, holder="stopped")
    assert stopped.wait_stopped_or_ended()
    refused = zygote.run("test_stopped_processes:load", directory=data, holder="refused")
    assert refused == {"error": "LockTimeoutError"}
    os.kill(stopped.pid, signal.SIGCONT)
    assert set(stopped.result()) <= {"dropped", "error"}
    took = zygote.run("test_stopped_processes:load", directory=data, holder="second")
    seen = zygote.run("test_stopped_processes:values", directory=data)
    assert [value.split()[0] for value in seen] == ["before", "0", "1", "2"]
    assert took == {"dropped": 0 if "second" in seen[-1] else 3}
