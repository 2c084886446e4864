"""kill -9 at every system call by which creating a topic, rolling and recovery change the disk.

strace counts the calls of a run that meets no fault, then kills one run at each of them.
"""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from faults.failpoints import Failpoints
from faults.zygote import Zygote
from scene import PARTITIONS, SHAPE, Scene


def kill_at_every_call(scene: Scene, job: str, **arguments: Any) -> Any:
    """Return what the run found that nobody killed."""
    traced, place, status = scene.run(job, **arguments)
    assert status == 0, traced.child.errors()
    undisturbed = traced.child.result()
    scene.check(place)
    calls = traced.calls()
    assert calls["fsync"] + calls["fdatasync"] > 0, f"strace saw nothing of the job: {calls}"
    killed = 0
    for call, count in sorted(calls.items()):
        for number in range(1, count + 1):
            inject = f"{call}:signal=KILL:when={number}"
            traced, place, status = scene.run(job, inject, **arguments)
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


def test_killed_in_recovery_from_a_kill_in_recovery(scene: Scene, rng: random.Random) -> None:
    scene.prepare_topic()
    scene.die_at("append.written", at=13)
    scene.tear_last_batch()
    job, arguments = "faults.workload:read_again", {"partitions": PARTITIONS}
    calls = sorted(scene.run(job, **arguments)[0].calls().elements())
    for first, second in zip(calls, rng.sample(calls, len(calls)), strict=True):
        _, place, _ = scene.run(job, f"{first}:signal=KILL:when=1", **arguments)
        _, place, _ = scene.run(job, f"{second}:signal=KILL:when=1", begun=place, **arguments)
        scene.check(place)
