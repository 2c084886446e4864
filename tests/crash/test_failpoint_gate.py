"""The gate: every failpoint of the core times kill, stop and exit; a point that no test reaches fails.

A process on the tour of faults/tour.py meets the fault at the point. Its companion must go on, or be told
whom it waits for; then everything is read back and checked, by a newcomer and, once all are gone, twice more.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checker import Checker, check_no_leftovers, check_same
from faults import failpoints
from faults.failpoints import EXIT, KILL, STOP, Failpoints
from faults.tour import PARTITIONS, SEGMENT_BYTES
from faults.zygote import Child, Zygote

POINTS = sorted(
    point
    for pattern in (failpoints.POINT, failpoints.ERROR_POINT)
    for point in failpoints.names_in_source(pattern)
    # of other topics: test_killed_while_cleaning, _growing and _in_queues stand at those
    if not point.startswith(("compact.", "grow.", "deliveries.", "transaction.delivery_"))
)
OF_RECOVERY = ("control.", "drop.", "lock.", "recovery.", "registry.", "sync.")
FAULTS = {"kill": KILL, "stop": STOP, "exit": EXIT}


class Company:
    """A process that lives beside the one that meets the fault, and goes a round when told to."""

    def __init__(self, world: World) -> None:
        world.place.joinpath("pipes").mkdir()
        paths = [world.place / "pipes" / name for name in ("commands", "answers")]
        for path in paths:
            os.mkfifo(path)
        self._commands, self._answers = (os.open(path, os.O_RDWR) for path in paths)
        self.child = world.start("companion", "companion", commands=paths[0], answers=paths[1])
        assert self._answer() == "ready"

    def round(self, *, commit: bool = False) -> list[int]:
        os.write(self._commands, b"append commit\n" if commit else b"append\n")
        return [int(pid) for pid in self._answer().split()]

    def _answer(self) -> str:
        ready, _, _ = select.select([self._answers], [], [], 40)
        assert ready, f"I16: the companion is stuck{self.child.errors()}"
        return os.read(self._answers, 1000).decode().strip()

    def end(self) -> None:
        os.write(self._commands, b"end\n")
        self.child.result()
        os.close(self._commands)
        os.close(self._answers)


class World:
    """A data directory of its own, and what was promised in it."""

    def __init__(self, zygote: Zygote, points: Failpoints, place: Path) -> None:
        self.zygote, self.points, self.place = zygote, points, place
        points.reset()
        self.directory, self.journal = place / "data", place / "journal"
        self.checker = Checker(self.journal, PARTITIONS)
        self.started = 0
        shape = {"partitions": PARTITIONS, "segment_bytes": SEGMENT_BYTES, "durability": "os"}
        zygote.run("faults.workload:create", directory=self.directory, **shape)

    def start(self, job: str, name: str, module: str = "faults.tour", **arguments: Any) -> Child:
        self.started += 1
        names = {"directory": self.directory, "journal": self.journal, "name": f"{name}{self.started}"}
        return self.zygote.start(f"{module}:{job}", **names, **arguments)

    def tour(self, fault: tuple[str, int, int] | None = None, *, poison: bool = True) -> Child:
        poison = poison and (fault is None or fault[0] != "sync.fdatasync")
        return self.start("tour", "tour", table=self.points.path, fault=fault, poison=poison)

    def company(self, *, orphan: bool = True) -> Company:
        """Somebody who lives on; and a partition whose lock's owner has just died."""
        company = Company(self)
        if orphan:
            with self.points.armed("append.staged", KILL):
                assert self.start("orphan_a_lock", "orphan").wait() == signal.SIGKILL
        return company

    def verify(self, *, others_live: bool) -> dict[str, Any]:
        found: dict[str, Any] = self.start(
            "verify", "verify", "faults.workload", partitions=PARTITIONS, group=True
        ).result()
        self.checker.feed()
        self.checker.check_after_kill(found, writers_live=others_live)
        return found

    def verify_when_all_are_gone(self) -> None:
        found = self.verify(others_live=False)
        for read_only in (False, True):
            again = self.zygote.run(
                "faults.workload:read_again",
                directory=self.directory,
                partitions=PARTITIONS,
                read_only=read_only,
            )
            check_same(found, again)
        check_no_leftovers(self.directory)


@pytest.fixture
def world(zygote: Zygote, points: Failpoints, tmp_path: Path) -> World:
    return World(zygote, points, tmp_path)


@pytest.fixture(scope="module")
def hits(
    zygote: Zygote, points: Failpoints, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, int]]:
    """Hits of each point by a tour that meets no fault: alone, and in company."""
    counted = {}
    for how in ("company", "alone"):
        world = World(zygote, points, tmp_path_factory.mktemp(how))
        company = world.company() if how == "company" else None
        points.reset()
        world.tour().result()
        counted[how] = points.hits()
        if company is not None:
            company.end()
        world.verify_when_all_are_gone()
    return counted


def test_every_failpoint_of_the_source_is_reached(hits: dict[str, dict[str, int]]) -> None:
    for point in POINTS:
        alone, in_company = (hits[how].get(point, 0) for how in ("alone", "company"))
        print(f"{point:24} {alone:6} alone {in_company:6} in company")

    unhit = [point for point in POINTS if not any(counts.get(point) for counts in hits.values())]
    assert not unhit, f"no test stands at {unhit}"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("point", POINTS)
def test_a_fault_at_a_failpoint_loses_nothing_and_stops_nobody(
    world: World, hits: dict[str, dict[str, int]], point: str, fault: str
) -> None:
    in_company = bool(hits["company"].get(point))
    assert meet(world, point, FAULTS[fault], in_company=in_company), f"the tour did not meet {point}"


def fresh_worlds(zygote: Zygote, points: Failpoints, place: Path, count: int) -> Iterator[World]:
    for number in range(count):
        (place / str(number)).mkdir()
        yield World(zygote, points, place / str(number))
        shutil.rmtree(place / str(number))


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("point", POINTS)
def test_a_fault_at_any_hit_of_a_failpoint(
    zygote: Zygote,
    points: Failpoints,
    tmp_path: Path,
    hits: dict[str, dict[str, int]],
    rng: random.Random,
    point: str,
    fault: str,
) -> None:
    how = "company" if hits["company"].get(point) else "alone"
    met = 0
    for world in fresh_worlds(zygote, points, tmp_path, 50):
        at = rng.randint(1, hits[how][point])
        print(f"hit {at} of {point}")
        met += meet(world, point, FAULTS[fault], in_company=how == "company", at=at)
    # a seal is synced by the thread that syncs, or by an append that comes before it: not as often each time
    assert met > 25


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_kills_in_the_recovery_from_kills(
    zygote: Zygote,
    points: Failpoints,
    tmp_path: Path,
    hits: dict[str, dict[str, int]],
    rng: random.Random,
    part: int,
) -> None:
    """Three deep: the tour is killed, its recovery, and the recovery from that. None poisons: that stays."""
    for world in fresh_worlds(zygote, points, tmp_path, 50):
        point = rng.choice([name for name in POINTS if hits["alone"].get(name)])
        first = (point, KILL, rng.randint(1, hits["alone"][point]))
        world.tour(first, poison=False).wait_killed_or_done()
        for _ in range(2):
            inner = rng.choice([name for name in POINTS if name.startswith(OF_RECOVERY)])
            print(f"{first}, then {inner}")
            with points.armed(inner, KILL, at=rng.randint(1, 2)):
                child = world.start("verify", "nested", "faults.workload", partitions=PARTITIONS, group=True)
                child.wait_killed_or_done()
        world.verify_when_all_are_gone()


def meet(world: World, point: str, fault: int, *, in_company: bool, at: int = 1) -> bool:
    """Let a tour meet the fault at the `at`-th hit, and check what all others find; whether it met it."""
    company = world.company() if in_company else None
    victim = world.tour((point, fault, at))
    if fault == STOP:
        stopped(world, victim, company, point)
    else:
        victim.wait_killed_or_done()
    met = world.points.fired(point).times == 1
    assert not met or fault != KILL or victim.status == signal.SIGKILL
    world.points.disarm(point)
    if company is not None:
        assert company.round(commit=True) == [0, 0], "a dead process keeps a lock"
        world.verify(others_live=True)
        company.end()
    world.verify_when_all_are_gone()
    return met


def stopped(world: World, victim: Child, company: Company | None, point: str) -> None:
    """The victim has stopped: others go on or are told its pid, and it goes on itself when it may."""
    if not victim.wait_stopped_or_ended():
        victim.result()
        return
    newcomer = None
    if company is not None:
        stuck = company.round()
        assert set(stuck) <= {0, victim.pid}, f"{victim.pid} is stopped at {point}, but {stuck} were named"
    else:
        newcomer = world.start("verify", "newcomer", "faults.workload", partitions=PARTITIONS)
    victim.signal(signal.SIGCONT)
    victim.result()
    if newcomer is not None:
        newcomer.result()
