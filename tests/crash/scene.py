"""A directory in a certain state, copied for each run of a job under strace, and checked after it."""

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

    def run(
        self, job: str, inject: str = "", begun: Path | None = None, **arguments: Any
    ) -> tuple[Traced, Path, int]:
        """Run a job on a copy, or on what a run before left; what strace saw, the place, the exit status."""
        self.runs += 1
        place = self.place / str(self.runs)
        shutil.copytree(begun or self.first, place, ignore=shutil.ignore_patterns("trace"))
        if "name" in arguments:  # the journal is copied with the rest
            arguments["journal"] = place / "journal"
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
