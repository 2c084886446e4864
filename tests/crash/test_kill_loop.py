"""kill -9 of any processes at any instant: nothing acknowledged is lost, and the others go on.

A directory lives through many cycles: writers, readers and consumers work, some or all of them are killed,
and what is there is checked against what they said.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checker import Checker, check_no_leftovers, check_same
from faults.journal import read_journal
from faults.zygote import Child, Zygote

PARTITIONS = 3
WRITERS, READERS = 4, 2
SEGMENT_BYTES = 32 << 10


class World:
    """A directory and the processes that work in it."""

    def __init__(self, zygote: Zygote, tmp_path: Path, rng: random.Random) -> None:
        self.zygote, self.rng = zygote, rng
        self.directory, self.journal = tmp_path / "data", tmp_path / "journal"
        self.checker = Checker(self.journal, PARTITIONS)
        self.living: dict[str, Child] = {}
        self.lives = 0
        zygote.run(
            "faults.workload:create",
            directory=self.directory,
            partitions=PARTITIONS,
            segment_bytes=SEGMENT_BYTES,
            durability="interval",
        )

    def fill(self) -> None:
        """Start whoever is missing."""
        roles: dict[str, Callable[[str], Child]] = {f"writer{i}": self._writer for i in range(WRITERS)}
        roles |= {f"reader{i}": self._reader for i in range(READERS)}
        roles |= {"consumer0": self._consumer, "consumer1": self._consumer}
        for name, start in roles.items():
            if name not in self.living:
                self.lives += 1
                self.living[name] = start(f"{name}.{self.lives}")

    def _writer(self, name: str) -> Child:
        durability = self.rng.choice(["os", "interval", "sync", None])
        return self._start(
            "write", name, seed=self.rng.getrandbits(32), partitions=PARTITIONS, durability=durability
        )

    def _reader(self, name: str) -> Child:
        isolation = "synced" if name.startswith("reader1") else "published"
        return self._start("read", name, partitions=PARTITIONS, isolation=isolation)

    def _consumer(self, name: str) -> Child:
        return self._start("consume", name, own=[0, 1] if name.startswith("consumer0") else [2])

    def _start(self, job: str, name: str, **arguments: Any) -> Child:
        place = {"directory": self.directory, "journal": self.journal, "name": name}
        return self.zygote.start(f"faults.workload:{job}", **place, **arguments)

    def work(self, seconds: float) -> None:
        """Let them work for a while: the instant of the kill is what is random, nothing waits for it."""
        time.sleep(seconds)
        for name, child in self.living.items():
            assert child.zygote.ask(wait=child.pid, timeout=0, stopped=False) is None, (
                f"{name} ended by itself{child.errors()}"
            )

    def kill(self, names: list[str]) -> None:
        for name in names:
            self.living[name].signal(9)
        for name in names:
            self.living.pop(name).kill()

    def survivors_write_on(self) -> None:
        """I16: whoever was in nobody's way appends again."""
        writers = {child_name for child_name in self.living if child_name.startswith("writer")}
        since, deadline = time.monotonic_ns(), time.monotonic() + 40
        position = self.checker.read_to
        while writers:
            assert time.monotonic() < deadline, f"I16: {writers} are stuck after the kill"
            lines, position = read_journal(self.journal, position)
            for line in lines:
                if line["what"] == "ack" and line["at"] > since:
                    writers.discard(line["by"].split(".")[0])
            time.sleep(0.01)

    def verify(self) -> dict[str, Any]:
        arguments = {"directory": self.directory, "journal": self.journal, "partitions": PARTITIONS}
        self.lives += 1
        self.checker.begin_look()
        found: dict[str, Any] = self.zygote.run(
            "faults.workload:verify", **arguments, name=f"verify.{self.lives}", group=True
        )
        self.checker.feed()
        self.checker.check_after_kill(found, writers_live=bool(self.living))
        return found

    def verify_when_all_are_dead(self) -> None:
        found = self.verify()
        again = self.zygote.run("faults.workload:read_again", directory=self.directory, partitions=PARTITIONS)
        check_same(found, again)
        check_no_leftovers(self.directory)


def run_cycles(world: World, cycles: int) -> None:
    rng = world.rng
    for _ in range(cycles):
        world.fill()
        world.work(rng.choice([0.02, 0.1, 0.2, 0.3]) * rng.random() + 0.02)
        everybody = sorted(world.living)
        doomed = (
            everybody if rng.random() < 0.5 else rng.sample(everybody, rng.randint(1, len(everybody) - 1))
        )
        world.kill(doomed)
        if world.living:
            world.survivors_write_on()
            world.verify()
        else:
            world.verify_when_all_are_dead()
    world.kill(list(world.living))
    world.verify_when_all_are_dead()


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path) -> Any:
    with Zygote(tmp_path / "jobs", [failpoint_build]) as started:
        yield started


def test_kill_9_of_any_processes_at_any_instant_loses_nothing_acknowledged(
    zygote: Zygote, tmp_path: Path, rng: random.Random
) -> None:
    run_cycles(World(zygote, tmp_path, rng), 30)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(40))
def test_kill_9_loop_for_long(zygote: Zygote, tmp_path: Path, rng: random.Random, part: int) -> None:
    run_cycles(World(zygote, tmp_path, rng), 50)
