"""A worker that dies, or stops, anywhere in a queue: no record is lost, none comes back that was acked.

The gate of the delivery tables: every failpoint in them, with a survivor that has the table open, and with
nobody left. A worker says what it is about to ack and what it has acked; afterwards somebody else works the
queue until it is empty.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from faults import failpoints
from faults.failpoints import EXIT, KILL, STOP, Failpoints
from faults.zygote import Child, Zygote

JOB = "faults.queue_work"
RECORDS = 400
BURST = 6000  # more slots than a table keeps when it has few records
POINTS = sorted(
    point
    for pattern in (failpoints.POINT, failpoints.ERROR_POINT)
    for point in failpoints.names_in_source(pattern)
    if point.startswith(("deliveries.", "transaction.delivery_"))
)
SHRINKING = {"deliveries.slot_moving", "deliveries.ghosts_gone", "deliveries.shrunk"}
MENDING = {"deliveries.undone", "deliveries.mended"}
OF_THE_FIRST = {"deliveries.session_undone", "deliveries.open_allocate", "deliveries.leases_ended"}


def said(journal: Path) -> dict[str, set[int]]:
    words: dict[str, set[int]] = {"acking": set(), "acked": set(), "moving": set(), "moved": set()}
    for line in journal.read_text().splitlines() if journal.exists() else []:
        word, *offsets = line.split()
        if word != "synced":
            words[word].update(map(int, offsets))
    return words


def check(found: dict[str, Any], journal: Path, records: int) -> None:
    """Nothing is lost, nothing acked comes again, nothing moves twice, and a key keeps its order."""
    words = said(journal)
    came, dead = found["came"], found["dead"]
    assert found["counts"] == [0, 0, 0, 0]
    assert len(set(dead)) == len(dead), "moved twice"
    assert words["moved"] <= set(dead) <= words["moving"]
    assert not set(dead) & set(came), "moved, and delivered again"
    assert not words["acked"] & set(came), "acked, and delivered again"
    assert set(came) | set(dead) | words["acking"] == set(range(records)), "lost"
    assert len(set(came)) == len(came)
    for key in range(50):
        of_key = [offset for offset in came if offset % 3 and offset % 50 == key]
        assert of_key == sorted(of_key)


class World:
    """A queue, its worker, and perhaps somebody who outlives it."""

    def __init__(self, zygote: Zygote, points: Failpoints, place: Path, point: str, survivor: bool) -> None:
        self.zygote, self.points, self.point = zygote, points, point
        self.data, self.journal = place / "data", place / "journal"
        self.records = BURST if point in SHRINKING else RECORDS
        zygote.run(f"{JOB}:create", directory=self.data, records=self.records)
        self.survivor = None
        if survivor:
            self.survivor = zygote.start(f"{JOB}:hold", directory=self.data, ready=place / "ready")
            while not (place / "ready").exists():
                time.sleep(0.005)
        if point in MENDING:
            self.kill_one_at("deliveries.slot_half_written")
        points.reset()

    def worker(self) -> Child:
        most = 5000 if self.point in SHRINKING else 200
        return self.zygote.start(f"{JOB}:work", directory=self.data, journal=self.journal, most=most)

    def kill_one_at(self, point: str) -> None:
        with self.points.armed(point, KILL, at=100):
            assert self.worker().wait() == signal.SIGKILL

    def meet(self, fault: int, hit: int) -> Child:
        self.points.arm(self.point, fault, at=hit)
        return self.worker()

    def drain_and_check(self) -> None:
        self.points.disarm(self.point)
        check(self.zygote.run(f"{JOB}:drain", directory=self.data), self.journal, self.records)
        if self.survivor is not None:
            self.survivor.kill()
        again = self.zygote.run(f"{JOB}:drain", directory=self.data)
        assert again["came"] == []
        assert list(self.data.glob("redo/*.redo")) == []


CASES = [
    (point, survivor)
    for point in POINTS
    for survivor in (False, True)
    if not (survivor and point in OF_THE_FIRST) and not (not survivor and point in MENDING)
]


@pytest.mark.parametrize(
    ("point", "survivor"), CASES, ids=[f"{p}-{'one lives on' if s else 'all die'}" for p, s in CASES]
)
def test_1c_a_worker_is_killed_anywhere_and_nothing_is_lost_or_comes_twice(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str, survivor: bool
) -> None:
    world = World(zygote, points, tmp_path, point, survivor)
    world.meet(KILL, 1).wait_killed_or_done()
    assert points.fired(point).times == 1, f"no worker comes past {point}"
    world.drain_and_check()


@pytest.mark.parametrize("point", ["deliveries.slot_half_written", "deliveries.leased", "deliveries.marked"])
def test_a_stopped_holder_is_named_and_goes_on(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str
) -> None:
    world = World(zygote, points, tmp_path, point, survivor=False)
    stopped = world.meet(STOP, 9)
    assert stopped.wait_stopped_or_ended()
    other = zygote.run(f"{JOB}:drain", directory=world.data, lock_timeout=0.2)
    assert other == {"stuck": stopped.pid}
    stopped.signal(signal.SIGCONT)
    stopped.result()
    world.drain_and_check()


@pytest.mark.soak
@pytest.mark.parametrize("fault", [KILL, EXIT], ids=["kill", "exit"])
@pytest.mark.parametrize("survivor", [False, True], ids=["all die", "one lives on"])
@pytest.mark.parametrize("hit", [2, 7, 31, 150, 400])
@pytest.mark.parametrize("point", sorted(set(POINTS) - MENDING - OF_THE_FIRST))
def test_a_fault_at_a_later_hit(
    zygote: Zygote, points: Failpoints, tmp_path: Path, point: str, hit: int, survivor: bool, fault: int
) -> None:
    world = World(zygote, points, tmp_path, point, survivor)
    world.meet(fault, hit).wait_killed_or_done()
    world.drain_and_check()
