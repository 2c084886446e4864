"""A transaction whose owner dies anywhere in it: all of it is there, or nothing, and never twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import Failpoints
from faults.zygote import Zygote

INPUTS = 12
POINTS = [
    ("transaction.locked", 3),
    ("transaction.sealed", 3),
    ("transaction.committed", 3),
    ("transaction.appended", 5),
    ("transaction.appended", 6),
    ("append.locked", 6),
    ("append.staged", 6),
    ("append.staged", 5),
    ("append.written", 6),
    ("append.published", 5),
    ("append.next_offset", 6),
    ("append.unlocked", 5),
    ("offsets.first_copy", 3),
    ("transaction.offset_stored", 3),
    ("transaction.applied", 3),
    ("roll.renamed", 1),
]


def create(directory: str, durability: str) -> None:
    import pylog

    with pylog.open(directory) as engine:
        engine.create_topic("in", durability="os")
        engine.create_topic("out", partitions=2, segment_bytes=16 << 10, durability=durability)
        engine.append_many("in", [b"%d" % number for number in range(INPUTS)])


def transform(directory: str) -> None:
    """Give each input one output in either partition, in one transaction with the input's offset."""
    import pylog

    with (
        pylog.open(directory) as engine,
        engine.consumer("in", group="g", auto_offset_reset="earliest", timeout=0.3) as consumer,
    ):
        for record in consumer:
            with engine.transaction() as transaction:
                for partition in range(2):
                    transaction.append("out", record.value + b" " * 2000, partition=partition)
                transaction.commit_offsets(consumer)


def found(directory: str) -> dict[str, Any]:
    import pylog

    with pylog.open(directory) as engine, engine.consumer(group="g") as consumer:
        return {
            "committed": consumer.committed(("in", 0)) or 0,
            "outputs": [[int(record.value or b"") for record in engine.read("out", p)] for p in range(2)],
        }


def hold_open(directory: str) -> None:
    """Live, so that the others are not the first to open; and use one partition when told to."""
    import time

    import pylog

    with pylog.open(directory) as engine:
        engine.log_end_offset("out", 0)
        while True:
            time.sleep(0.05)


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Failpoints]:
    made = Failpoints(tmp_path / "points")
    yield made
    made.close()


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, points: Failpoints) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build, Path(__file__).parent], points.environment) as started:
        yield started


def kill_and_go_on(
    zygote: Zygote, points: Failpoints, data: Path, point: str, hit: int, survivor: bool
) -> None:
    """Kill a transformer at a point, look, let another one finish, and look again."""
    job = "test_killed_in_transactions"
    zygote.run(f"{job}:create", directory=data, durability="interval" if survivor else "os")
    living = zygote.start(f"{job}:hold_open", directory=data) if survivor else None
    points.reset()
    points.arm(point, failpoints.KILL, at=hit)
    zygote.start(f"{job}:transform", directory=data).wait_killed_or_done()
    assert points.fired(point).times == 1
    points.disarm(point)

    middle = zygote.run(f"{job}:found", directory=data)
    for outputs in middle["outputs"]:
        assert outputs == list(range(middle["committed"]))
    zygote.run(f"{job}:transform", directory=data)
    assert zygote.run(f"{job}:found", directory=data) == {
        "committed": INPUTS,
        "outputs": [list(range(INPUTS))] * 2,
    }
    if living is not None:
        living.kill()
    assert list(data.glob("redo/*.redo")) == []


@pytest.mark.parametrize("survivor", [False, True], ids=["all die", "one lives on"])
@pytest.mark.parametrize(("point", "hit"), POINTS, ids=[f"{point} {hit}" for point, hit in POINTS])
def test_each_input_has_exactly_one_output_wherever_its_transformer_is_killed(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str, hit: int, survivor: bool
) -> None:
    kill_and_go_on(zygote, points, tmp_path / "data", point, hit, survivor)


def back_up(directory: str, destination: str) -> bool:
    """Back up; False where a committer was in the way for too long."""
    import pylog

    with pylog.open(directory, lock_timeout=0.2) as engine:
        try:
            engine.backup(destination)
        except pylog.LockTimeoutError:
            return False
    return True


def test_a_backup_has_no_half_of_a_transaction_whose_owner_is_stopped_or_was_killed(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    job, data, copy = "test_killed_in_transactions", tmp_path / "data", tmp_path / "copy"
    zygote.run(f"{job}:create", directory=data, durability="os")
    points.reset()
    points.arm("transaction.appended", failpoints.STOP, at=5)
    owner = zygote.start(f"{job}:transform", directory=data)
    assert owner.wait_stopped_or_ended()

    assert not zygote.run(f"{job}:back_up", directory=data, destination=copy)
    assert not copy.exists()
    owner.kill()
    assert zygote.run(f"{job}:back_up", directory=data, destination=copy)
    assert zygote.run(f"{job}:found", directory=copy) == {"committed": 3, "outputs": [[0, 1, 2]] * 2}


def fence(directory: str) -> str:
    """Commit a transaction of a member whose partition went to another one."""
    import pylog

    with pylog.open(directory) as engine:
        options: Any = {"group": "g", "auto_offset_reset": "earliest"}
        zombie = engine.consumer("in", max_poll_interval_ms=100, **options)
        zombie.poll(1)
        transaction = engine.transaction()
        transaction.commit_offsets(zombie)
        other = engine.consumer("in", **options)
        while not other.assignment():
            other.poll(timeout=0.05)
        try:
            transaction.commit()
        except pylog.IllegalGenerationError:
            return "fenced"
        return "committed"


@pytest.mark.parametrize(("bug", "answer"), [("", "fenced"), ("commit_not_fenced", "committed")])
def test_the_harness_sees_a_commit_that_is_not_fenced(
    tmp_path: Path, failpoint_build: Path, bug: str, answer: str
) -> None:
    paths, environment = [failpoint_build, Path(__file__).parent], {"PYLOG_PLANTED_BUG": bug}
    with Zygote(tmp_path / "jobs", paths, environment) as zygote:
        zygote.run("test_killed_in_transactions:create", directory=tmp_path / "data", durability="os")
        assert zygote.run("test_killed_in_transactions:fence", directory=tmp_path / "data") == answer


def append_behind(directory: str) -> list[int]:
    import pylog

    with pylog.open(directory) as engine:
        engine.append("out", b"99", partition=1)
        return [int(record.value or b"") for record in engine.read("out", 1)]


@pytest.mark.parametrize(("bug", "order"), [("", [0, 1, 2, 99]), ("redo_not_applied", [0, 1, 99])])
def test_who_is_told_by_a_lock_writes_the_dead_owners_part_before_its_own_record(
    tmp_path: Path, failpoint_build: Path, points: Failpoints, bug: str, order: list[int]
) -> None:
    data, job = tmp_path / "data", "test_killed_in_transactions"
    paths, environment = [failpoint_build, Path(__file__).parent], {"PYLOG_PLANTED_BUG": bug}
    with Zygote(tmp_path / "jobs", paths, points.environment | environment) as zygote:
        zygote.run(f"{job}:create", directory=data, durability="os")
        zygote.start(f"{job}:hold_open", directory=data)
        points.reset()
        points.arm("append.staged", failpoints.KILL, at=6)
        zygote.start(f"{job}:transform", directory=data).wait_killed_or_done()
        points.disarm("append.staged")
        assert zygote.run(f"{job}:append_behind", directory=data) == order


@pytest.mark.parametrize(("bug", "output"), [("", [0, 1, 2]), ("redo_applied_twice", [0, 1, 2, 2])])
def test_a_part_that_was_appended_is_not_appended_again_by_who_finishes(
    tmp_path: Path, failpoint_build: Path, points: Failpoints, bug: str, output: list[int]
) -> None:
    data, job = tmp_path / "data", "test_killed_in_transactions"
    paths, environment = [failpoint_build, Path(__file__).parent], {"PYLOG_PLANTED_BUG": bug}
    with Zygote(tmp_path / "jobs", paths, points.environment | environment) as zygote:
        zygote.run(f"{job}:create", directory=data, durability="os")
        points.reset()
        points.arm("transaction.applied", failpoints.KILL, at=3)
        zygote.start(f"{job}:transform", directory=data).wait_killed_or_done()
        points.disarm("transaction.applied")
        assert zygote.run(f"{job}:found", directory=data) == {"committed": 3, "outputs": [output] * 2}


def commit_behind(directory: str, standing: str, victim_done: str) -> int | None:
    """Stand in the group's partition while a transaction's owner dies, commit behind it, then finish it."""
    import pylog

    with pylog.open(directory) as engine, engine.consumer(group="g") as consumer:
        consumer.assign([("in", 0)])
        Path(standing).touch()
        while not Path(victim_done).exists():
            time.sleep(0.01)
        consumer.commit({("in", 0): 7})
        return consumer.committed(("in", 0))  # which finishes what the dead left


@pytest.mark.parametrize(("bug", "committed"), [("", 7), ("redo_offset_goes_back", 3)])
def test_finishing_a_transaction_moves_no_later_commit_back(
    tmp_path: Path, failpoint_build: Path, points: Failpoints, bug: str, committed: int
) -> None:
    data, job = tmp_path / "data", "test_killed_in_transactions"
    standing, done = tmp_path / "standing", tmp_path / "done"
    paths, environment = [failpoint_build, Path(__file__).parent], {"PYLOG_PLANTED_BUG": bug}
    with Zygote(tmp_path / "jobs", paths, points.environment | environment) as zygote:
        zygote.run(f"{job}:create", directory=data, durability="os")
        later = zygote.start(f"{job}:commit_behind", directory=data, standing=standing, victim_done=done)
        deadline = time.monotonic() + 60
        while not standing.exists():  # who opens the directory later finishes what the dead left first
            assert time.monotonic() < deadline
            time.sleep(0.001)
        points.reset()
        points.arm("transaction.applied", failpoints.KILL, at=3)
        zygote.start(f"{job}:transform", directory=data).wait_killed_or_done()
        points.disarm("transaction.applied")
        done.touch()
        assert later.result() == committed
