"""A group whose members join, leave, are killed, stopped and resumed while producers write.

Every record is handled, none by two members of one generation, no zombie's commit takes effect, and once
nothing is done to it the group settles: how soon is printed (`-rP` shows it).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.group_workload import GROUP
from faults.journal import Line, read_journal
from faults.zygote import Child, Zygote

import pylog

PARTITIONS, MEMBERS, PRODUCERS = 8, 6, 4
PATIENCE = 20.0
"""Seconds that settling may take: twenty times the promise, since tests share the machine."""
SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [SOURCES]) as started:
        yield started


class Group:
    """The processes, and what is done to them."""

    def __init__(self, zygote: Zygote, place: Path, rng: random.Random) -> None:
        self.zygote, self.rng, self.place = zygote, rng, place
        self.lives = 0
        self.members: list[Child] = []
        self.stopped: set[Child] = set()
        self.leaving: list[Child] = []
        self.settled_ms: list[int] = []
        self.stopped_with_the_lock = 0
        self.run("create", partitions=PARTITIONS)

    @property
    def where(self) -> dict[str, Any]:
        return {"directory": self.place / "data"}

    def run(self, job: str, **arguments: Any) -> None:
        self.zygote.run(f"faults.group_workload:{job}", **self.where, **arguments)

    def start(self, job: str, **arguments: Any) -> Child:
        self.lives += 1
        name, journal = f"{job}{self.lives}", self.place / "journal"
        return self.zygote.start(
            f"faults.group_workload:{job}", **self.where, journal=journal, name=name, **arguments
        )

    def join(self) -> None:
        self.members.append(self.start("consume", session_timeout_ms=500, rebalance_timeout_ms=1000))

    def disturb(self) -> None:
        """Do one thing to one member."""
        member = self.rng.choice(self.members)
        others_run = any(other not in self.stopped for other in self.members if other is not member)
        action = self.rng.choice(["kill", "leave", "stop", "resume", "join"])
        if action == "kill" and others_run:
            self.members.remove(member)
            self.stopped.discard(member)
            member.kill()
        elif action == "leave" and others_run and member not in self.stopped:
            self.members.remove(member)
            self.leaving.append(member)
            member.signal(signal.SIGTERM)
        elif action == "stop" and others_run:
            self.stopped.add(member)
            member.signal(signal.SIGSTOP)
        elif action == "resume" and self.stopped:
            self.resume(self.rng.choice(sorted(self.stopped, key=lambda child: child.pid)))
        elif len(self.members) < MEMBERS:
            self.join()

    def resume(self, member: Child) -> None:
        self.stopped.discard(member)
        member.signal(signal.SIGCONT)

    def settle(self, engine: pylog.Engine) -> None:
        """Do nothing to the group until those who run have all partitions, and note how long that took.

        Who is stopped while it holds the group's lock stops the group: its lock is never broken, and the
        others are told by LockTimeoutError. Such a one is woken here, and counted.
        """
        began = time.monotonic()
        while not self.settled(engine.describe_group(GROUP)):
            waited = time.monotonic() - began
            assert waited < PATIENCE, f"I16: {engine.describe_group(GROUP)}"
            if waited > PATIENCE / 2 and self.stopped:
                self.stopped_with_the_lock += 1
                for member in list(self.stopped):
                    self.resume(member)
            time.sleep(0.01)
        self.settled_ms.append(int(1000 * (time.monotonic() - began)))

    def settled(self, found: pylog.GroupDescription) -> bool:
        running = {member.pid for member in self.members if member not in self.stopped}
        places = [place for member in found.members for place in member.assignment]
        return (
            found.state == "stable"
            and {member.pid for member in found.members} == running
            and len(set(places)) == len(places) == PARTITIONS
        )

    def end(self, engine: pylog.Engine) -> None:
        """Wake the stopped, kill them all, and let one last member finish."""
        for member in list(self.stopped):
            self.resume(member)
        for member in self.leaving:
            # one that was told before it had begun to listen is simply gone
            assert member.wait(timeout=60) in (0, signal.SIGTERM), member.errors()
        for member in self.members:
            member.kill()
        self.start("consume", idle=1.0, busy=0.0).result(timeout=120)
        lag = sum(row.lag for row in engine.describe_group(GROUP).partitions)
        assert lag == 0, f"I12: the last member committed all, and {lag} records are behind it"


def check(lines: list[Line]) -> dict[str, int]:
    """Hold the journal against the promises; how often what happened."""
    sent: set[str] = set()
    handled: set[str] = set()
    by_whom: dict[tuple[int, int, int], set[str]] = defaultdict(set)
    committed: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    began: dict[int, dict[int, int]] = defaultdict(dict)
    fenced = 0
    for line in lines:
        if line["what"] == "sent":
            sent.add(line["value"])
        elif line["what"] == "assigned":
            began[line["p"]][line["generation"]] = line["position"]
        elif line["what"] == "handled":
            for partition, offset, generation, value in line["records"]:
                handled.add(value)
                by_whom[partition, offset, generation].add(line["by"])
        elif line["what"] == "committed":
            for partition, offset, generation in line["offsets"]:
                committed[partition][generation] = max(committed[partition][generation], offset)
        elif line["what"] == "fenced":
            fenced += 1
    assert sent <= handled, f"I11: never handled: {sorted(sent - handled)[:5]}"
    twice = {place: members for place, members in by_whom.items() if len(members) > 1}
    assert not twice, f"I10: handled by two members of one generation: {list(twice.items())[:3]}"
    for partition, starts in began.items():
        for generation, position in starts.items():
            before = [offset for older, offset in committed[partition].items() if older < generation]
            last = max(before, default=0)
            assert position >= last, (
                f"I12: generation {generation} of {partition} began at {position}, committed was {last}"
            )
    return {"sent": len(sent), "generations": max(max(starts) for starts in began.values()), "fenced": fenced}


def live_through(group: Group, rounds: int, seconds: float) -> dict[str, int]:
    """So many rounds of `seconds` of chaos, with peace behind each until the group has settled."""
    records = int(rounds * seconds * 250)
    producers = [group.start("produce", records=records) for _ in range(PRODUCERS)]
    for _ in range(MEMBERS // 2):
        group.join()
    with pylog.open(group.place / "data") as engine:
        for _ in range(rounds):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(group.rng.random() * 0.15)
                group.disturb()
            group.settle(engine)
        for producer in producers:
            producer.result(timeout=120)
        group.end(engine)
    figures = check(read_journal(group.place / "journal")[0])
    locked = group.stopped_with_the_lock
    print(f"{figures}, settled after {sorted(group.settled_ms)} ms, {locked} were stopped with the lock")
    return figures


@pytest.mark.parametrize("seed", [int(os.environ.get("PYLOG_TEST_SEED", "0")) or random.getrandbits(32)])
def test_members_that_die_stop_leave_and_come_back_lose_no_record_and_fence_each_other(
    zygote: Zygote, tmp_path: Path, seed: int
) -> None:
    figures = live_through(Group(zygote, tmp_path, random.Random(seed)), rounds=4, seconds=1.0)
    assert figures["sent"] == PRODUCERS * 1000
    assert figures["generations"] > 5


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(10))
def test_chaos_for_minutes(zygote: Zygote, tmp_path: Path, part: int) -> None:
    figures = live_through(Group(zygote, tmp_path, random.Random(part)), rounds=20, seconds=6.0)
    assert figures["fenced"] > 0, "no zombie ever tried to commit"
