"""The tests' side of src/logcore/failpoints.pxd: arms points, counts hits, lists all points of the source."""

from __future__ import annotations

import mmap
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = 512
ENTRY_BYTES = 128
NAME_BYTES = 64
LAYOUT = struct.Struct("<IIQqIiII")  # state, action, hits, countdown, pid, error, fired, fired_pid
STATE, ACTION, HITS, COUNTDOWN, PID, ERROR, FIRED, FIRED_PID = range(8)

KILL, STOP, EXIT, ABORT, WAIT, ERROR_ONCE, ERROR_ALWAYS = range(1, 8)
NAMED = 2

POINT = re.compile(r"""failpoint\(\s*"([^"]+)"\s*\)""")
ERROR_POINT = re.compile(r"""failpoint_errno\(\s*"([^"]+)"\s*\)""")
PLANTED = re.compile(r"""planted\(\s*"([^"]+)"\s*\)""")


def built() -> Path:
    """Bring the build with failpoints up to date and return its directory, for PYTHONPATH."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import build_failpoints
    finally:
        sys.path.remove(str(ROOT / "tools"))
    directory: Path = build_failpoints.build()
    return directory


def names_in_source(pattern: re.Pattern[str]) -> set[str]:
    """Name every failpoint (or planted bug) that the core places."""
    found: set[str] = set()
    for path in (ROOT / "src" / "logcore").glob("*.p[yx][xd]"):
        if path.name != "failpoints.pxd":
            found.update(pattern.findall(path.read_text()))
    return found


@dataclass(frozen=True)
class Fired:
    times: int
    pid: int


class Failpoints:
    """The table that a build with failpoints counts in and takes its orders from."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self.path = path
        if make:
            path.write_bytes(bytes(ENTRIES * ENTRY_BYTES))
        with path.open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), ENTRIES * ENTRY_BYTES)

    def close(self) -> None:
        self._table.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"PYLOG_FAILPOINTS_FILE": str(self.path)}

    def _entries(self) -> Iterator[tuple[int, str]]:
        for at in range(0, ENTRIES * ENTRY_BYTES, ENTRY_BYTES):
            if LAYOUT.unpack_from(self._table, at + NAME_BYTES)[STATE] == NAMED:
                yield at, self._table[at : at + NAME_BYTES].rstrip(b"\0").decode()

    def _position(self, name: str) -> int:
        free = 0
        for at, found in self._entries():
            if found == name:
                return at
            free = at + ENTRY_BYTES
        self._table[free : free + len(name)] = name.encode()  # before the first process of the test hits it
        struct.pack_into("<I", self._table, free + NAME_BYTES, NAMED)
        return free

    def arm(self, name: str, action: int, *, at: int = 1, pid: int = 0, error: int = 0) -> None:
        """Let the `at`-th hit from now on act (of process `pid`, or of any)."""
        place = self._position(name) + NAME_BYTES
        struct.pack_into("<I", self._table, place + 4, 0)
        struct.pack_into("<qIiII", self._table, place + 16, at, pid, error, 0, 0)
        struct.pack_into("<I", self._table, place + 4, action)

    def disarm(self, name: str) -> None:
        struct.pack_into("<I", self._table, self._position(name) + NAME_BYTES + 4, 0)

    @contextmanager
    def armed(self, name: str, action: int, **options: int) -> Iterator[None]:
        self.arm(name, action, **options)
        try:
            yield
        finally:
            self.disarm(name)

    def fired(self, name: str) -> Fired:
        fields = LAYOUT.unpack_from(self._table, self._position(name) + NAME_BYTES)
        return Fired(fields[FIRED], fields[FIRED_PID])

    def hits(self) -> dict[str, int]:
        """Count hits by name since the last reset()."""
        return {name: LAYOUT.unpack_from(self._table, at + NAME_BYTES)[HITS] for at, name in self._entries()}

    def reset(self) -> None:
        """Disarm everything and count from zero; the names stay, since processes keep their places."""
        for at, _ in self._entries():
            LAYOUT.pack_into(self._table, at + NAME_BYTES, NAMED, 0, 0, 0, 0, 0, 0, 0)
