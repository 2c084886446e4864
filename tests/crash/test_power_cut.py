"""Power cuts: what was synced is there, what is there is a prefix, and recovering again changes nothing.

The processes run under the shim of faults/powercut.c; states are drawn from what the disk may hold. Each
state is opened under another boot id, checked, appended to, and cut again; in some the power goes during
recovery.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checker import Checker, check_no_leftovers, check_same
from faults.powercut import PowerCut, write_boot_id
from faults.zygote import Zygote

PARTITIONS = 2
SEGMENT_BYTES = 32 << 10


class Machine:
    """A lineage of disks: each is what the one before may have held when the power went."""

    def __init__(
        self, zygote: Zygote, place: Path, rng: random.Random, checker: Checker | None = None
    ) -> None:
        self.zygote, self.place, self.rng = zygote, place, rng
        place.mkdir()
        self.directory = place / "disk"
        self.journal = place / "journal"
        self.boot_id = write_boot_id(place / "boot_id", rng)
        self.checker = checker or Checker(self.journal, PARTITIONS)
        self.cut: PowerCut | None = None

    def watch(self, stop_at: int = 0) -> dict[str, str]:
        """Begin to watch the disk as it is now; the environment of its processes."""
        self.cut = PowerCut(self.directory, self.place / "trace")
        return self.cut.environment(self.boot_id, stop_at)

    def after_power_cut(self, number: int) -> Machine:
        """Return a machine with one disk that may be left."""
        assert self.cut is not None
        place = self.place.parent / f"{self.place.name}.{number}"
        checker = copy.deepcopy(self.checker)
        checker.journal = place / "journal"
        machine = Machine(self.zygote, place, self.rng, checker)
        shutil.copyfile(self.journal, machine.journal)
        checker.note_power_cut()
        self.cut.state(self.rng, machine.directory)
        return machine

    # ---- what runs on it --------------------------------------------------------------------------

    def first_life(self, writers: int, stop_at: int) -> None:
        self.directory.mkdir(mode=0o700)
        environment = self.watch(stop_at)
        durability = self.rng.choice(["os", "interval", "sync"])
        shape = {"partitions": PARTITIONS, "segment_bytes": SEGMENT_BYTES, "durability": durability}
        self.zygote.start(
            "faults.workload:create", environment=environment, directory=self.directory, **shape
        ).wait_killed_or_done()
        children = [self.writer(environment, f"w{i}", self.rng.randint(1, 80)) for i in range(writers)]
        arguments = {"directory": self.directory, "journal": self.journal, "partitions": PARTITIONS}
        reader = self.zygote.start("faults.workload:read", environment=environment, name="r", **arguments)
        for child in children:
            child.wait_killed_or_done()
        reader.kill()

    def writer(self, environment: dict[str, str], name: str, steps: int) -> Any:
        return self.zygote.start(
            "faults.workload:write",
            environment=environment,
            directory=self.directory,
            journal=self.journal,
            partitions=PARTITIONS,
            name=name,
            seed=self.rng.getrandbits(32),
            durability=self.rng.choice(["sync", "interval", None]),
            steps=steps,
        )

    def recover(self, environment: dict[str, str], *, killed: bool = False) -> dict[str, Any]:
        """Open, check what is there, append and close."""
        child = self.zygote.start(
            "faults.workload:verify",
            environment=environment,
            directory=self.directory,
            journal=self.journal,
            partitions=PARTITIONS,
            name=f"verify.{self.place.name}",
        )
        if killed:
            child.wait_killed_or_done()
            return {}
        found: dict[str, Any] = child.result()
        self.checker.feed()
        self.checker.check_after_power_cut(found)
        return found

    def open_again(self) -> dict[str, Any]:
        environment = {"PYLOG_BOOT_ID_FILE": str(self.boot_id)}
        found: dict[str, Any] = self.zygote.run(
            "faults.workload:read_again",
            environment=environment,
            directory=self.directory,
            partitions=PARTITIONS,
        )
        return found

    def second_life(self) -> None:
        """Recover, append, and lose the power again: in a third of the cases in the middle of recovery."""
        rng = self.rng
        if rng.random() < 1 / 3:
            self.recover(self.watch(stop_at=rng.randint(1, 40)), killed=True)
            return
        environment = self.watch()
        self.recover(environment)
        self.writer(environment, f"w.{self.place.name}", rng.randint(1, 12)).wait_killed_or_done()


def cut_again_and_again(first: Machine, states: int) -> None:
    for number in range(states):
        second = first.after_power_cut(number)
        second.second_life()
        third = second.after_power_cut(0)
        found = third.recover({"PYLOG_BOOT_ID_FILE": str(third.boot_id)})
        check_same(found, third.open_again())
        check_no_leftovers(third.directory)
        shutil.rmtree(second.place)
        shutil.rmtree(third.place)


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, shim: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build], {"LD_PRELOAD": str(shim)}) as started:
        yield started


@pytest.mark.parametrize("life", range(6))
def test_2a_a_power_cut_takes_nothing_that_was_synced_and_leaves_a_prefix(
    zygote: Zygote, tmp_path: Path, rng: random.Random, life: int
) -> None:
    machine = Machine(zygote, tmp_path / "m", rng)
    machine.first_life(writers=1 + life % 2, stop_at=rng.randint(10, 300))
    cut_again_and_again(machine, 10)


@pytest.mark.soak
@pytest.mark.parametrize("life", range(250))
def test_power_cuts_for_long(zygote: Zygote, tmp_path: Path, rng: random.Random, life: int) -> None:
    machine = Machine(zygote, tmp_path / "m", rng)
    machine.first_life(writers=1 + life % 3, stop_at=rng.randint(1, 1000))
    cut_again_and_again(machine, 20)
