"""kill -9 at every system call by which creating a topic, rolling and recovery change the disk.

strace counts the calls of a run that meets no fault, then kills one run at each of them.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from checker import Checker, check_no_leftovers, check_same
from faults.failpoints import KILL, Failpoints
from faults.tracing import CannotTraceError, Traced
from faults.zygote import Zygote

PARTITIONS = 2
SEGMENT_BYTES = 32 << 10
SHAPE = {"partitions": PARTITIONS, "segment_bytes": SEGMENT_BYTES, "durability": "os"}


class Scene:
    """A directory and its journal, copied for each run."""

    def __init__(self, zygote: Zygote, points: Failpoints, place: Path) -> None:
        self.zygote, self.points, self.place = zygote, points, place
        self.first = place / "first"
        self.first.mkdir()
        self.runs = 0

    def prepare_topic(self) -> None:
        self.zygote.run("faults.workload:create", directory=self.first / "data", **SHAPE)

    def die_at(self, point: str, at: int = 1) -> None:
        """Leave the directory as a writer left it that was killed at a failpoint."""
        self.points.reset()
        with self.points.armed(point, KILL, at=at):
            child = self.zygote.start("faults.workload:roll_once", **self.names(self.first, "dead"))
            assert child.wait() == signal.SIGKILL
        (self.first / "data" / "topics" / "t" / "control").unlink()  # as on another boot

    def tear_last_batch(self) -> None:
        """Zero the middle of what was written last: it was never acknowledged."""
        path = max((self.first / "data").glob("topics/t/0/*.log"))
        content = bytearray(path.read_bytes())
        end = len(content.rstrip(b"\0"))
        content[end - 1000 : end - 900] = bytes(100)
        with path.open("r+b") as file:
            file.write(content)

    def names(self, place: Path, name: str) -> dict[str, Any]:
        return {"directory": place / "data", "journal": place / "journal", "name": name}

    def run(self, job: str, inject: str = "", **arguments: Any) -> tuple[Traced, Path, int]:
        self.runs += 1
        place = self.place / str(self.runs)
        shutil.copytree(self.first, place)
        try:
            traced = Traced(self.zygote, place / "trace", job, inject, directory=place / "data", **arguments)
        except CannotTraceError as error:
            pytest.skip(str(error))
        return traced, place, traced.run()

    def check(self, place: Path) -> None:
        """Open twice, and find all that was acknowledged both times."""
        checker = Checker(place / "journal", PARTITIONS)
        checker.begin_look()
        names = self.names(place, "verify")
        found = self.zygote.run("faults.workload:verify", partitions=PARTITIONS, **names)
        checker.feed()
        checker.check_after_kill(found)
        again = self.zygote.run("faults.workload:read_again", directory=place / "data", partitions=PARTITIONS)
        check_same(found, again)
        check_no_leftovers(place / "data")


def kill_at_every_call(scene: Scene, job: str, **arguments: Any) -> Any:
    """Return what the run found that nobody killed."""

    def place_of(arguments: dict[str, Any]) -> dict[str, Any]:
        """The journal is copied with the rest."""
        if "name" in arguments:
            return arguments | {"journal": scene.place / str(scene.runs + 1) / "journal"}
        return arguments

    traced, place, status = scene.run(job, **place_of(arguments))
    assert status == 0, traced.child.errors()
    undisturbed = traced.child.result()
    scene.check(place)
    calls = traced.calls()
    assert calls["fsync"] + calls["fdatasync"] > 0, f"strace saw nothing of the job: {calls}"
    killed = 0
    for call, count in sorted(calls.items()):
        for number in range(1, count + 1):
            inject = f"{call}:signal=KILL:when={number}"
            traced, place, status = scene.run(job, inject, **place_of(arguments))
            assert status in (0, signal.SIGKILL), traced.child.errors()
            killed += status == signal.SIGKILL
            try:
                scene.check(place)
            except Exception as error:
                error.add_note(f"killed at call {number} of {call}")
                raise
            shutil.rmtree(place)
    print(f"{job}: killed {killed} times, at {dict(calls)}")
    # a thread that syncs may have been late: then the process was through before it came to that call
    assert killed >= calls.total() * 3 // 4
    return undisturbed


@pytest.fixture
def scene(zygote: Zygote, points: Failpoints, tmp_path: Path) -> Scene:
    return Scene(zygote, points, tmp_path)


def test_killed_at_any_system_call_of_creating_a_topic(scene: Scene) -> None:
    kill_at_every_call(scene, "faults.workload:create", **SHAPE)


def test_killed_at_any_system_call_of_a_roll(scene: Scene) -> None:
    scene.prepare_topic()
    kill_at_every_call(scene, "faults.workload:roll_once", name="w")


def test_killed_at_any_system_call_of_going_on_behind_a_footer(scene: Scene) -> None:
    scene.prepare_topic()
    scene.die_at("roll.footer")
    found = kill_at_every_call(scene, "faults.workload:read_again", partitions=PARTITIONS)
    assert not any(cut for *_, cut in found["reports"])


def test_killed_at_any_system_call_of_cutting_a_torn_tail(scene: Scene) -> None:
    scene.prepare_topic()
    scene.die_at("append.written", at=13)
    scene.tear_last_batch()
    found = kill_at_every_call(scene, "faults.workload:read_again", partitions=PARTITIONS)
    assert any(cut for *_, cut in found["reports"])
