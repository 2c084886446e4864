"""A commit that meets an error, a signal or a dead neighbour.

Before the commit point nothing was done, behind it all is done in the end, and the error says which it was.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import ERROR_ONCE, KILL, Failpoints
from faults.zygote import Zygote

import pylog

JOB = "test_failing_transactions"


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Failpoints]:
    made = Failpoints(tmp_path / "points")
    yield made
    made.close()


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, points: Failpoints) -> Iterator[Zygote]:
    paths = [failpoint_build, Path(__file__).parent]
    with Zygote(tmp_path / "jobs", paths, points.environment) as started:
        started.run(f"{JOB}:create", directory=tmp_path / "data")
        yield started


# ---- jobs -------------------------------------------------------------------------------------------------


def create(directory: str) -> None:
    with pylog.open(directory) as engine:
        engine.create_topic("in", durability="os")
        engine.append("in", b"0")
        for topic, durability in (("os", "os"), ("interval", "interval"), ("sync", "sync")):
            options: Any = {"durability": durability, "segment_bytes": 16 << 10}
            engine.create_topic(topic, partitions=2, **options)


def commit(engine: Any, topic: str, value: bytes = b"x", metadata: bytes = b"m") -> None:
    """Commit a record in either partition of a topic, and an offset."""
    with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(timeout=5.0)
        with engine.transaction() as transaction:
            for partition in range(2):
                transaction.append(topic, value, partition=partition)
            transaction.commit_offsets(consumer, {("in", 0): pylog.OffsetAndMetadata(1, metadata)})


def values(engine: Any, topic: str) -> list[list[str]]:
    return [[(r.value or b"").decode() for r in engine.read(topic, p)] for p in range(2)]


def state(engine: Any, topic: str) -> list[Any]:
    with engine.consumer(group="g") as consumer:
        return [values(engine, topic), consumer.committed(("in", 0))]


def look(directory: str, topic: str) -> list[Any]:
    with pylog.open(directory) as engine:
        return state(engine, topic)


def fail(directory: str, topic: str, table: str, point: str, error: int) -> dict[str, Any]:
    """Commit while an error is met at a failpoint; what was raised, and seen then, and behind appends."""
    with pylog.open(directory) as engine:
        values(engine, topic)
        Failpoints(Path(table), make=False).arm(point, ERROR_ONCE, pid=os.getpid(), error=error)
        raised = None
        try:
            commit(engine, topic)
        except pylog.PylogError as failure:
            raised = type(failure).__name__
        found = {"raised": raised, "then": state(engine, topic)}
        if raised == "DurabilityError" and point == "sync.fdatasync":
            for partition in range(2):
                engine.recover(topic, partition)
        for partition in range(2):
            engine.append(topic, b"behind", partition=partition)
        return found | {"behind": state(engine, topic)}


def fill_the_disk(directory: str) -> list[Any]:
    """Commit with no room for the redo record, then with room for it."""
    with pylog.open(directory) as engine:
        commit(engine, "os", b"before")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, limits[1]))
        raised = None
        try:
            commit(engine, "os", b"never" * 1000)
        except pylog.DiskFullError as error:
            raised = type(error).__name__
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        left = len(list(Path(directory, "redo").iterdir()))
        commit(engine, "os", b"after")
        return [raised, left, state(engine, "os")]


def spend_all_files(directory: str) -> list[Any]:
    """Commit to more partitions than the process may open files, then to fewer."""
    with pylog.open(directory) as engine:
        engine.create_topic("wide", partitions=800, durability="os", segment_bytes=16 << 10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (700, 700))
        raised = None
        try:
            with engine.transaction() as transaction:
                for partition in range(800):
                    transaction.append("wide", b"never", partition=partition)
        except OSError as error:
            raised = error.errno
        with engine.transaction() as transaction:
            for partition in range(20):
                transaction.append("wide", b"x", partition=partition)
        found = [record.value for record in engine.read("wide")]
        return [raised, len(found), sorted({(value or b"").decode() for value in found})]


def be_interrupted(directory: str) -> list[Any]:
    """Commit, be interrupted as by Ctrl-C in the middle of it, and go on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pylog.open(directory) as engine:
        raised = None
        try:
            commit(engine, "interval")
        except KeyboardInterrupt:
            raised = "KeyboardInterrupt"
        for partition in range(2):
            engine.append("interval", b"behind", partition=partition)
        return [raised, values(engine, "interval")]


def die(directory: str, topic: str) -> None:
    with pylog.open(directory) as engine:
        commit(engine, topic)


def wait_for_both(directory: str, topic: str, ready: str) -> list[list[str]]:
    """Read both partitions by one consumer that has no group, as long as something comes."""
    found: list[list[str]] = [[], []]
    with pylog.open(directory) as engine, engine.consumer(auto_offset_reset="earliest") as consumer:
        consumer.assign([(topic, 0), (topic, 1)])
        consumer.poll()
        Path(ready).touch()
        while not (found[0] and found[1]):
            for record in consumer.poll(timeout=20.0):
                found[record.partition].append((record.value or b"").decode())
    return found


def fail_and_wait(directory: str, table: str, ready: str) -> None:
    """Commit while the sync fails, and live on until killed."""
    with pylog.open(directory) as engine:
        values(engine, "interval")
        Failpoints(Path(table), make=False).arm(
            "sync.fdatasync", failpoints.ERROR_ALWAYS, pid=os.getpid(), error=errno.EIO
        )
        commit(engine, "interval")
        for partition in range(2):
            with suppress(pylog.DurabilityError):
                engine.sync("interval", partition)
        Path(ready).touch()
        threading.Event().wait()


def cut_elsewhere(directory: str) -> list[list[str]]:
    """Cut both partitions that another process poisoned, and append."""
    with pylog.open(directory) as engine:
        for partition in range(2):
            engine.recover("interval", partition)
        return values(engine, "interval")


def append(directory: str, value: str) -> None:
    with pylog.open(directory) as engine:
        for partition in range(2):
            engine.append("interval", value.encode(), partition=partition)


# ---- tests ------------------------------------------------------------------------------------------------


def test_an_error_at_the_commit_point_means_that_nothing_was_done(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    arguments: Any = {"directory": tmp_path / "data", "topic": "sync", "table": points.path}
    found = zygote.run(f"{JOB}:fail", point="transaction.place", error=errno.ENOSPC, **arguments)
    assert found["raised"] == "DiskFullError"
    assert found["then"] == [[[], []], None]
    assert found["behind"] == [[["behind"], ["behind"]], None]
    assert zygote.run(f"{JOB}:look", directory=tmp_path / "data", topic="sync") == found["behind"]


@pytest.mark.parametrize("topic", ["os", "interval", "sync"])
def test_a_part_that_cannot_be_written_is_written_before_what_comes_behind_it(
    zygote: Zygote, points: Failpoints, tmp_path: Path, topic: str
) -> None:
    arguments: Any = {"directory": tmp_path / "data", "topic": topic, "table": points.path}
    found = zygote.run(f"{JOB}:fail", point="transaction.append", error=errno.EIO, **arguments)
    assert found["raised"] == "DurabilityError"
    assert found["behind"] == [[["x", "behind"]] * 2, 1]
    assert zygote.run(f"{JOB}:look", directory=tmp_path / "data", topic=topic) == found["behind"]


def test_a_record_whose_name_cannot_be_synced_is_committed_all_the_same(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    arguments: Any = {"directory": tmp_path / "data", "topic": "sync", "table": points.path}
    found = zygote.run(f"{JOB}:fail", point="transaction.sync", error=errno.EIO, **arguments)
    assert found["raised"] == "DurabilityError"
    assert found["then"] == [[["x"], ["x"]], 1]
    assert zygote.run(f"{JOB}:look", directory=tmp_path / "data", topic="sync") == found["behind"]


def test_recover_gives_back_the_part_that_its_cut_took(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    arguments: Any = {"directory": tmp_path / "data", "topic": "sync", "table": points.path}
    found = zygote.run(f"{JOB}:fail", point="sync.fdatasync", error=errno.EIO, **arguments)
    assert found["raised"] == "DurabilityError"
    assert found["behind"] == [[["x", "behind"]] * 2, 1]
    assert zygote.run(f"{JOB}:look", directory=tmp_path / "data", topic="sync") == found["behind"]
    assert not any((tmp_path / "data").glob("redo/*"))


def test_a_part_that_a_cut_took_elsewhere_is_not_written_over_the_cut(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data, ready = tmp_path / "data", tmp_path / "ready"
    owner = zygote.start(f"{JOB}:fail_and_wait", directory=data, table=points.path, ready=ready)
    while not ready.exists():
        time.sleep(0.01)
    assert zygote.run(f"{JOB}:cut_elsewhere", directory=data) == [[], []]
    for _ in range(2):
        with points.armed("append.locked", KILL):
            zygote.start(f"{JOB}:append", directory=data, value="never").wait_killed_or_done()
    zygote.run(f"{JOB}:append", directory=data, value="behind")
    owner.kill()
    assert zygote.run(f"{JOB}:look", directory=data, topic="interval") == [[["behind", "x"]] * 2, 1]


def test_a_full_disk_costs_the_transaction_and_nothing_else(zygote: Zygote, tmp_path: Path) -> None:
    found = zygote.run(f"{JOB}:fill_the_disk", directory=tmp_path / "data")
    assert found == ["DiskFullError", 0, [[["before", "after"]] * 2, 1]]


def test_too_many_files_cost_the_transaction_and_nothing_else(zygote: Zygote, tmp_path: Path) -> None:
    found = zygote.run(f"{JOB}:spend_all_files", directory=tmp_path / "data")
    assert found == [errno.EMFILE, 20, ["x"]]


@pytest.mark.parametrize(
    "point",
    ["transaction.locked", "transaction.sealed", "transaction.committed", "transaction.appended"],
)
def test_ctrl_c_in_a_commit_leaves_all_of_it_or_nothing(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    data = tmp_path / "data"
    points.arm(point, failpoints.WAIT)
    committing = zygote.start(f"{JOB}:be_interrupted", directory=data)
    while not points.fired(point).times:
        time.sleep(0.001)
    committing.signal(signal.SIGINT)
    points.disarm(point)
    raised, found = committing.result()
    assert raised == "KeyboardInterrupt"
    assert found in ([["x", "behind"]] * 2, [["behind"]] * 2)
    assert point in ("transaction.locked",) or found[0][0] == "x"
    offset = 1 if found[0][0] == "x" else None
    assert zygote.run(f"{JOB}:look", directory=data, topic="interval") == [found, offset]
    assert not any(data.glob("redo/*"))


def test_who_waits_for_the_other_half_gets_it_when_the_owner_is_dead(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data, ready = tmp_path / "data", tmp_path / "ready"
    waiting = zygote.start(f"{JOB}:wait_for_both", directory=data, topic="os", ready=ready)
    while not ready.exists():
        time.sleep(0.01)
    with points.armed("transaction.appended", KILL):
        zygote.start(f"{JOB}:die", directory=data, topic="os").wait_killed_or_done()
    assert waiting.result() == [["x"], ["x"]]


def test_an_offset_is_stored_before_the_next_generation_begins(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data, ready = tmp_path / "data", tmp_path / "ready"
    living = zygote.start(f"{JOB}:wait_for_both", directory=data, topic="sync", ready=ready)
    while not ready.exists():
        time.sleep(0.01)
    with points.armed("transaction.appended", KILL, at=2):
        zygote.start(f"{JOB}:die", directory=data, topic="os").wait_killed_or_done()
    assert zygote.run(f"{JOB}:join", directory=data) == 1
    living.kill()


def join(directory: str) -> int:
    """Become a member, which fences the one before; where it would go on."""
    with pylog.open(directory) as engine, engine.consumer("in", group="g") as consumer:
        while not consumer.assignment():
            consumer.poll(timeout=0.05)
        return consumer.position(("in", 0))
