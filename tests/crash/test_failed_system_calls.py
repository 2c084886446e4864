"""One system call of a roll, of recovery or of a first opening fails (EIO, ENOSPC), each in its turn.

Whoever made it is told or does without; nothing that was acknowledged is lost, and the next one goes on. A
sync that fails is another matter: test_failed_sync.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.failpoints import Failpoints
from faults.zygote import Zygote
from scene import PARTITIONS, SHAPE, Scene

FAILING = {
    "pread64": "EIO", "pwrite64": "EIO", "fallocate": "ENOSPC", "rename": "EIO", "renameat": "EIO",
    "unlink": "EIO", "unlinkat": "EIO", "mkdir": "ENOSPC",
}  # fmt: skip


@pytest.fixture
def scene(zygote: Zygote, points: Failpoints, tmp_path: Path) -> Scene:
    return Scene(zygote, points, tmp_path)


def rolling(scene: Scene) -> tuple[str, dict[str, Any]]:
    scene.prepare_topic()
    return "faults.workload:roll_once", {"name": "w"}


def cutting(scene: Scene) -> tuple[str, dict[str, Any]]:
    scene.prepare_topic()
    scene.die_at("append.written", at=13)
    scene.tear_last_batch()
    return "faults.workload:read_again", {"partitions": PARTITIONS}


def creating(scene: Scene) -> tuple[str, dict[str, Any]]:
    return "faults.workload:create", dict(SHAPE)


@pytest.mark.parametrize("prepare", [rolling, cutting, creating])
def test_a_call_that_fails_is_told_and_loses_nothing(
    scene: Scene, prepare: Callable[[Scene], tuple[str, dict[str, Any]]]
) -> None:
    job, arguments = prepare(scene)
    calls = scene.run(job, **arguments)[0].calls(",".join(FAILING))
    failed = 0
    for call, error in FAILING.items():
        for number in range(1, calls[call] + 1):
            inject = f"{call}:error={error}:when={number}"
            traced, place, status = scene.run(job, inject, **arguments)
            failed += status != 0
            assert status == 0 or "Error" in traced.child.errors()
            try:
                scene.check(place)
            except Exception as found:
                found.add_note(f"call {number} of {call} failed with {error}")
                raise
    assert failed > 0
