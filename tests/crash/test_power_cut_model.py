"""The power-cut model itself: a wrong program must lose data in it, a right one never.

Not about pylog: small programs write files with and without the syncs that they need.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from faults.powercut import PAGE, PowerCut, write_boot_id

PROLOGUE = """
import mmap, os, sys
os.chdir(sys.argv[1])
def sync_directory(path="."):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY); os.fsync(fd); os.close(fd)
def write(name, data, sync=True):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600); os.write(fd, data)
    if sync: os.fsync(fd)
    os.close(fd)
"""
REPLACE = """
write('f.tmp', b'b' * 9000, {sync_file}); os.rename('f.tmp', 'f')
if {sync_directory}: sync_directory()
"""
MAPPED = """
fd = os.open('f', os.O_RDWR); m = mmap.mmap(fd, 8192)
m[0:4] = b'kept'; os.fdatasync(fd); m[5000:5004] = b'free'
"""


class Disk:
    """Runs a program on a directory and collects what may be left of it."""

    def __init__(self, tmp_path: Path, shim: Path, rng: random.Random) -> None:
        self.tmp_path, self.shim, self.rng = tmp_path, shim, rng
        self.root = tmp_path / "data"
        self.root.mkdir()
        self.boot_id = write_boot_id(tmp_path / "boot_id", rng)

    def run(self, program: str, *, stop_at: int = 0) -> PowerCut:
        cut = PowerCut(self.root, self.tmp_path / "trace")
        environment = os.environ | {"LD_PRELOAD": str(self.shim)} | cut.environment(self.boot_id, stop_at)
        done = subprocess.run(
            [sys.executable, "-c", PROLOGUE + program, str(self.root)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or stop_at, done.stderr
        return cut

    def states(self, cut: PowerCut, count: int = 60) -> list[dict[str, bytes]]:
        found = []
        for i in range(count):
            target = self.tmp_path / f"state-{i}"
            cut.state(self.rng, target)
            files = [path for path in target.rglob("*") if path.is_file()]
            found.append({str(path.relative_to(target)): path.read_bytes() for path in files})
        return found


@pytest.fixture
def disk(tmp_path: Path, shim: Path, rng: random.Random) -> Disk:
    return Disk(tmp_path, shim, rng)


def test_a_synced_file_in_a_synced_directory_is_always_there(disk: Disk) -> None:
    cut = disk.run("write('f', b'a' * 9000); sync_directory()")

    assert all(state == {"f": b"a" * 9000} for state in disk.states(cut))


def test_without_a_directory_sync_the_name_may_be_missing(disk: Disk) -> None:
    cut = disk.run("write('f', b'a' * 9000)")

    assert {len(state) for state in disk.states(cut)} == {0, 1}


def test_unsynced_pages_reach_the_disk_in_any_combination(disk: Disk) -> None:
    (disk.root / "f").write_bytes(b"a" * 4 * PAGE)
    cut = disk.run(f"write('f', b'b' * {4 * PAGE}, sync=False)")

    seen = {state["f"][::PAGE] for state in disk.states(cut)}
    assert {b"aaaa", b"bbbb"} < seen
    assert any(pages.startswith(b"a") and b"b" in pages for pages in seen), "a hole"


def test_stores_through_a_mapping_are_seen_and_covered_by_fdatasync_of_the_file(disk: Disk) -> None:
    (disk.root / "f").write_bytes(bytes(2 * PAGE))
    cut = disk.run(MAPPED)

    states = disk.states(cut)
    assert {state["f"][:4] for state in states} == {b"kept"}
    assert {state["f"][5000:5004] for state in states} == {b"free", bytes(4)}


@pytest.mark.parametrize(("sync_file", "sync_directory"), [(True, True), (True, False), (False, True)])
def test_a_replaced_file_is_whole_only_if_it_was_synced_before_the_rename(
    disk: Disk, sync_file: bool, sync_directory: bool
) -> None:
    (disk.root / "f").write_bytes(b"a" * 9000)
    cut = disk.run(REPLACE.format(sync_file=sync_file, sync_directory=sync_directory))

    seen = {state["f"] for state in disk.states(cut)}
    assert (b"a" * 9000 in seen) == (not sync_directory)
    assert seen <= {b"a" * 9000, b"b" * 9000} if sync_file else b"" in seen


def test_an_unsynced_unlink_may_come_back_with_its_content(disk: Disk) -> None:
    (disk.root / "f").write_bytes(b"a" * 9000)
    cut = disk.run("os.unlink('f'); write('g', b'', sync=False)")

    states = disk.states(cut)
    assert any("f" in state for state in states)
    assert all(state.get("f", b"a" * 9000) == b"a" * 9000 for state in states)
    assert not any("g" in state and "f" in state for state in states), "a directory is written in order"


def test_a_directory_may_vanish_with_all_that_was_synced_in_it(disk: Disk) -> None:
    cut = disk.run("os.mkdir('d'); write('d/f', b'a'); sync_directory('d')")

    assert {tuple(state) for state in disk.states(cut)} == {(), ("d/f",)}


def test_a_kill_between_a_call_and_its_line_in_the_log_is_reconciled(disk: Disk) -> None:
    cut = disk.run("write('f', b'a'); sync_directory(); os.rename('f', 'g')")
    log = cut.trace / "log"
    lines = log.read_text().splitlines(keepends=True)
    assert lines[-1].startswith("rename")
    log.write_text("".join(lines[:-1]))

    assert {tuple(state) for state in disk.states(cut)} == {("f",), ("g",)}


def test_the_power_goes_before_the_event_that_was_asked_for(disk: Disk) -> None:
    program = "write('f', b'a'); sync_directory(); os.rename('f', 'g')"
    cut = disk.run(program, stop_at=4)

    assert cut.events == 4, "create, sync, directory sync, and the rename that was not made"
    assert {tuple(state) for state in disk.states(cut)} == {("f",)}


def test_another_boot_id_is_read_through_the_shim(disk: Disk, tmp_path: Path) -> None:
    disk.run("write('id', open('/proc/sys/kernel/random/boot_id', 'rb').read())")

    assert (disk.root / "id").read_bytes() == disk.boot_id.read_bytes()
