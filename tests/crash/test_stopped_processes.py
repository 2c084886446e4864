"""A process that is stopped where it hurts most: the others are told who it is, and it does no harm later."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import Failpoints
from faults.zygote import Zygote

import pylog

TOPIC = "t"
LOCK_TIMEOUT = 0.3


def create(directory: str) -> None:
    import pylog

    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, partitions=2, segment_bytes=16 << 10)
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


def sync(directory: str, value: str) -> str:
    """Append with durability "sync"; "synced", or what went wrong."""
    import pylog

    told = "nothing"
    try:
        with pylog.open(directory) as engine:
            engine.append(TOPIC, value.encode(), partition=0, durability="sync")
            told = "synced"
    except pylog.DurabilityError:  # closing says so as well
        return "failed" if told == "nothing" else told
    return told


def roll(directory: str) -> str:
    """Append until a segment is full; "rolled", or what went wrong."""
    import pylog

    told = "nothing"
    try:
        with pylog.open(directory) as engine:
            while len(list(Path(directory, "topics", TOPIC, "0").glob("*.log"))) == 1:
                engine.append(TOPIC, bytes(1000), partition=0, durability="os")
            told = "rolled"
    except pylog.DurabilityError:
        return "failed" if told == "nothing" else told
    return told


def recover(directory: str) -> None:
    import pylog

    with pylog.open(directory) as engine:
        engine.recover(TOPIC, 0)
        for _ in range(5):
            engine.append(TOPIC, b"after the cut", partition=0, durability="sync")


def append_and_wait(directory: str) -> str:
    """Append, and wait for the engine's own thread to sync it."""
    import pylog

    with pylog.open(directory) as engine:
        end = engine.append(TOPIC, b"patient", partition=0).offset + 1
        until = time.monotonic() + 30
        while engine.synced_offset(TOPIC, 0) < end:
            if time.monotonic() > until:
                return "never"
            time.sleep(0.005)
        return "synced"


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


def test_a_failed_sync_is_not_tried_again_by_who_came_while_it_ran(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    points.arm("sync.arrived", failpoints.STOP)
    waiting = zygote.start("test_stopped_processes:sync", directory=data, value="waiting")
    assert waiting.wait_stopped_or_ended()
    points.arm("sync.fdatasync", failpoints.ERROR_ONCE, error=errno.EIO)
    assert zygote.run("test_stopped_processes:sync", directory=data, value="leading") == "failed"
    os.kill(waiting.pid, signal.SIGCONT)
    assert waiting.result() == "failed"


def test_a_sync_that_fails_while_another_process_rolls_is_not_forgotten(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    points.arm("sync.begin", failpoints.STOP)
    syncing = zygote.start("test_stopped_processes:sync", directory=data, value="syncing")
    assert syncing.wait_stopped_or_ended()
    points.arm("roll.prepared", failpoints.STOP)
    rolling = zygote.start("test_stopped_processes:roll", directory=data)
    assert rolling.wait_stopped_or_ended()
    points.arm("sync.fdatasync", failpoints.ERROR_ONCE, error=errno.EIO)
    os.kill(syncing.pid, signal.SIGCONT)
    assert syncing.result() == "failed"
    os.kill(rolling.pid, signal.SIGCONT)
    assert rolling.result() == "failed"
    assert zygote.run("test_stopped_processes:sync", directory=data, value="x") == "failed"


def test_what_a_cut_took_is_not_called_synced_to_who_slept_through_it(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    points.arm("append.unlocked", failpoints.STOP)
    sleeping = zygote.start("test_stopped_processes:sync", directory=data, value="sleeping")
    assert sleeping.wait_stopped_or_ended()
    points.arm("sync.fdatasync", failpoints.ERROR_ONCE, error=errno.EIO)
    assert zygote.run("test_stopped_processes:sync", directory=data, value="poisoning") == "failed"
    zygote.run("test_stopped_processes:recover", directory=data)
    os.kill(sleeping.pid, signal.SIGCONT)
    assert sleeping.result() == "failed"
    assert zygote.run("test_stopped_processes:values", directory=data) == ["before", *["after the cut"] * 5]


def test_a_leader_killed_when_it_had_told_what_is_clean_leaves_no_append_unsynced(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    points.arm("sync.done", failpoints.STOP)
    leading = zygote.start("test_stopped_processes:sync", directory=data, value="leading")
    assert leading.wait_stopped_or_ended()
    before = points.hits()["append.unlocked"]
    patient = zygote.start("test_stopped_processes:append_and_wait", directory=data)
    while points.hits()["append.unlocked"] == before:
        time.sleep(0.005)
    points.arm("sync.cleared", failpoints.KILL, pid=leading.pid)
    os.kill(leading.pid, signal.SIGCONT)
    assert patient.result() == "synced"


def test_what_a_writer_published_and_could_not_note_before_it_was_killed_is_synced(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as company:
        company.append(TOPIC, b"company", partition=0, durability="sync")
        points.arm("sync.noting", failpoints.KILL)
        zygote.start("test_stopped_processes:sync", directory=data, value="killed").wait_killed_or_done()
        until = time.monotonic() + 30
        while company.synced_offset(TOPIC, 0) < 3:
            assert time.monotonic() < until
            time.sleep(0.005)
