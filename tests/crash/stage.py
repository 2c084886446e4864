"""A data directory with a topic of one partition, processes that do what they are told, and a checker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checker import Checker, check_no_leftovers, check_same
from faults.puppet import Puppet
from faults.zygote import Zygote

SEGMENT_BYTES = 16 << 10


class Stage:
    """`directory` is somewhere else than in `place` where the test brought a disk of its own."""

    def __init__(
        self,
        zygote: Zygote,
        place: Path,
        durability: str = "os",
        *,
        directory: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.zygote, self.place = zygote, place
        self.environment = environment or {}
        self.directory, self.journal = directory or place / "data", place / "journal"
        self.checker = Checker(self.journal, 1)
        shape = {"partitions": 1, "segment_bytes": SEGMENT_BYTES, "durability": durability}
        self.run("create", **shape)

    def run(self, job: str, **arguments: Any) -> Any:
        """Do a job of the workload in a process of its own."""
        options: Any = {"environment": self.environment, "directory": self.directory}
        return self.zygote.run(f"faults.workload:{job}", **options, **arguments)

    def process(self, name: str, **options: Any) -> Puppet:
        paths = {"directory": self.directory, "journal": self.journal}
        return Puppet(self.zygote, self.place, name, environment=self.environment, **paths, **options)

    def look(self) -> dict[str, Any]:
        """Open, read all there is, append and read again; the checker has been fed with what was said."""
        self.checker.begin_look()
        found: dict[str, Any] = self.run("verify", journal=self.journal, partitions=1)
        self.checker.feed()
        return found

    def look_again(self, found: dict[str, Any]) -> None:
        """Open once more and find the same, and nothing half made."""
        check_same(found, self.run("read_again", partitions=1))
        check_no_leftovers(self.directory)
