"""Consume, transform, produce in transactions, by a group whose members are killed and stopped all the time.

They are killed anywhere, and at the failpoints of a commit. In the end each input has exactly one output in
every partition where it shall have one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.failpoints import KILL, STOP, Failpoints, names_in_source
from faults.failpoints import POINT as PATTERN
from faults.transform_workload import INPUTS, check
from faults.zygote import Child, Zygote

WORKERS = 5
POINTS = sorted(
    point
    for point in names_in_source(PATTERN)
    if point.startswith(("transaction.", "append.", "offsets.", "roll.", "lock."))
)
JOBS = "faults.transform_workload"


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Failpoints]:
    made = Failpoints(tmp_path / "points")
    yield made
    made.close()


class Storm:
    """The workers, and what is done to them."""

    def __init__(
        self, place: Path, build: Path, points: Failpoints, rng: random.Random, bug: str = ""
    ) -> None:
        self.rng, self.points, self.data = rng, points, place / "data"
        for point in POINTS:  # gets its place in the table before any process looks for it
            points.disarm(point)
        environment = points.environment | {"PYLOG_PLANTED_BUG": bug}
        self.zygote = Zygote(place / "jobs", [build], environment)
        self.workers: list[Child] = []
        self.stopped: list[Child] = []
        self.lives = 0

    def join(self) -> None:
        self.lives += 1
        options: Any = {"session_timeout_ms": 150, "rebalance_timeout_ms": 500}
        self.workers.append(
            self.zygote.start(
                f"{JOBS}:transform", directory=self.data, name=f"w{self.lives}", size=400, **options
            )
        )

    def disturb(self) -> None:
        """Kill or stop a worker, anywhere or at a failpoint, and see to it that there are enough."""
        action = self.rng.choice(["kill", "kill at", "kill at", "stop", "stop at", "resume"])
        worker = self.rng.choice(self.workers)
        if action == "kill":
            self.bury(worker, at_once=True)
        elif action in ("kill at", "stop at"):
            self.points.arm(
                self.rng.choice(POINTS), KILL if action == "kill at" else STOP, at=self.rng.randint(1, 4)
            )
        elif action == "stop" and len(self.stopped) < 2:
            worker.signal(signal.SIGSTOP)
            self.stopped.append(worker)
        self.look()
        while len(self.stopped) > 1 or (self.stopped and action == "resume"):
            self.stopped.pop(0).signal(signal.SIGCONT)
        while len(self.workers) < WORKERS:
            self.join()

    def bury(self, worker: Child, *, at_once: bool) -> None:
        if at_once:
            worker.kill()
        else:
            worker.wait_killed_or_done()
        self.workers.remove(worker)
        if worker in self.stopped:
            self.stopped.remove(worker)

    def look(self) -> None:
        """Find out who met a failpoint."""
        for worker in list(self.workers):
            state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                self.bury(worker, at_once=False)
            elif state == "T" and worker not in self.stopped:
                self.stopped.append(worker)

    def live(self, seconds: float, records: int, durability: str) -> int:
        """Work and die for so long, then let one finish all; how many workers there were."""
        with self.zygote:
            self.zygote.run(
                f"{JOBS}:create", timeout=120, directory=self.data, durability=durability, records=records
            )
            for _ in range(WORKERS):
                self.join()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(self.rng.random() * 0.1)
                self.disturb()
            self.points.reset()
            for worker in self.workers:
                worker.signal(signal.SIGCONT)
                worker.kill()
            last: Any = {"name": "last", "records": records, "batch": 50}
            self.zygote.run(f"{JOBS}:transform", timeout=120, directory=self.data, **last)
            found = self.zygote.run(f"{JOBS}:found", timeout=60, directory=self.data)
        assert check(found) == records, "I11: an input was left"
        assert sum(found["committed"]) == records
        assert not list(self.data.glob("redo/*.redo"))
        return self.lives


@pytest.mark.parametrize("durability", ["os", "interval"])
@pytest.mark.parametrize("seed", [int(os.environ.get("PYLOG_TEST_SEED", "0")) or random.getrandbits(32)])
def test_each_input_has_its_outputs_exactly_once_whoever_is_killed_and_stopped(
    tmp_path: Path, failpoint_build: Path, points: Failpoints, seed: int, durability: str
) -> None:
    storm = Storm(tmp_path, failpoint_build, points, random.Random(seed))
    assert storm.live(2.0, 400, durability) > WORKERS


def test_the_storm_sees_an_offset_that_a_survivor_does_not_store(
    tmp_path: Path, failpoint_build: Path, points: Failpoints
) -> None:
    with pytest.raises(AssertionError, match=r"half|I6"):
        for life in range(10):
            (tmp_path / str(life)).mkdir()
            rng, bug = random.Random(life), "redo_offset_not_stored"
            Storm(tmp_path / str(life), failpoint_build, points, rng, bug).live(2.0, 100 * INPUTS, "os")


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_a_storm_of_minutes(tmp_path: Path, failpoint_build: Path, points: Failpoints, part: int) -> None:
    storm = Storm(tmp_path, failpoint_build, points, random.Random(part))
    storm.live(60.0, 30_000, ["os", "interval", "sync"][part % 3])
