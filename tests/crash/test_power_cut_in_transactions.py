"""Power cuts while transactions commit: with "interval" and "sync" each is there as a whole, or not at all.

The members of a group consume, transform and produce under the shim of faults/powercut.c, beside somebody who
appends plainly. Each state of the disk is opened under another boot id, judged by the dict that
faults/transform_workload.py checks against, worked on, and cut again, in some cases in the middle of
recovery; in the end all is done, once. For "os" it is documented that a power cut may halve a transaction.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.failpoints import KILL, Failpoints
from faults.journal import read_journal
from faults.powercut import PowerCut, write_boot_id
from faults.transform_workload import check
from faults.zygote import Child, Zygote

JOBS = "faults.transform_workload"


class Disk:
    """A disk on which transactions commit, and those that it may be after a power cut."""

    def __init__(self, zygote: Zygote, place: Path, rng: random.Random, bug: str = "") -> None:
        self.zygote, self.place, self.rng, self.bug = zygote, place, rng, bug
        place.mkdir()
        self.data, self.journal = place / "data", place / "journal"
        self.boot_id = write_boot_id(place / "boot_id", rng)
        self.environment = {"PYLOG_BOOT_ID_FILE": str(self.boot_id), "PYLOG_PLANTED_BUG": bug}
        self.cut: PowerCut | None = None
        self.lives = 0

    def watch(self, stop_at: int) -> None:
        self.cut = PowerCut(self.data, self.place / "trace")
        self.environment |= self.cut.environment(self.boot_id, stop_at)

    def start(self, job: str, **arguments: Any) -> Child:
        self.lives += 1
        return self.zygote.start(
            f"{JOBS}:{job}", environment=self.environment, directory=self.data, **arguments
        )

    def live(self, members: int, stop_at: int, records: int) -> None:
        """Let a group work until the power goes, or until all is done."""
        self.watch(stop_at)
        names = [f"{self.place.name}-{number}" for number in range(members)]
        children = [
            self.start("transform", name=name, journal=self.journal, records=records, size=700)
            for name in names
        ]
        children.append(self.start("append_plainly", steps=30, seed=self.rng.getrandbits(30)))
        for child in children:
            child.wait_killed_or_done()

    def acknowledged(self) -> frozenset[int]:
        """Return the inputs whose transactions had returned when the power went."""
        if not self.journal.exists():
            return frozenset()
        lines, _ = read_journal(self.journal)
        return frozenset(number for line in lines if line["what"] == "done" for number in line["numbers"])

    def after_power_cut(self, number: int) -> Disk:
        assert self.cut is not None
        after = Disk(self.zygote, self.place.with_name(f"{self.place.name}.{number}"), self.rng, self.bug)
        self.cut.state(self.rng, after.data)
        if self.journal.exists():
            shutil.copyfile(self.journal, after.journal)
        return after

    def judge(self) -> int:
        """Open, and look at what is there."""
        return check(self.start("found").result(), self.acknowledged())


def first_disk(zygote: Zygote, place: Path, rng: random.Random, durability: str, records: int) -> Disk:
    disk = Disk(zygote, place, rng)
    disk.start("create", durability=durability, records=records).result()
    disk.live(rng.randint(1, 2), stop_at=rng.randint(1, 12 * records), records=records)
    return disk


def cut_again_and_again(first: Disk, states: int, records: int) -> None:
    for number in range(states):
        second = first.after_power_cut(number)
        if second.rng.random() < 0.5:
            second.judge()
        second.live(1, stop_at=second.rng.randint(1, 8 * records), records=records)
        third = second.after_power_cut(0)
        third.judge()
        third.start("transform", name="last", records=records).result()
        assert third.judge() == records, "I11: an input was left"
        assert not list(third.data.glob("redo/*.redo"))
        for disk in (second, third):
            shutil.rmtree(disk.place)


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, shim: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build], {"LD_PRELOAD": str(shim)}) as started:
        yield started


@pytest.mark.parametrize("durability", ["interval", "sync"])
def test_a_power_cut_leaves_each_transaction_as_a_whole_or_not_at_all(
    zygote: Zygote, tmp_path: Path, rng: random.Random, durability: str
) -> None:
    disk = first_disk(zygote, tmp_path / "d", rng, durability, 20)
    cut_again_and_again(disk, 4, 20)


@pytest.mark.parametrize(("durability", "bug"), [("interval", "redo_not_synced"), ("os", "")])
def test_the_harness_sees_a_transaction_of_which_the_power_cut_left_a_half(
    tmp_path: Path, failpoint_build: Path, shim: Path, durability: str, bug: str
) -> None:
    """Either a bug, or what is documented of "os"; the power goes right behind a part of the third one."""
    rng, points = random.Random(durability), Failpoints(tmp_path / "points")
    points.arm("transaction.appended", KILL, at=8)
    environment = points.environment | {"LD_PRELOAD": str(shim)}
    with Zygote(tmp_path / "jobs", [failpoint_build], environment) as zygote:
        disk = Disk(zygote, tmp_path / "d", rng, bug)
        disk.start("create", durability=durability, records=20).result()
        disk.live(1, stop_at=0, records=20)
        assert points.fired("transaction.appended").times == 1
        with pytest.raises(AssertionError, match=r"half|I[156]"):
            for number in range(40):
                disk.after_power_cut(number).judge()
    points.close()


@pytest.mark.soak
@pytest.mark.parametrize("life", range(100))
def test_power_cuts_in_transactions_for_long(
    zygote: Zygote, tmp_path: Path, rng: random.Random, life: int
) -> None:
    disk = first_disk(zygote, tmp_path / "d", rng, ["interval", "sync"][life % 2], 40)
    cut_again_and_again(disk, 20, 40)
