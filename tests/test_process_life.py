"""Forks out of threads, parents that die first, clocks that jump, file systems that cannot be trusted."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

import pytest
from children import Child

import pylog
from pylog.embedded import filesystems
from pylog.errors import UnsupportedError

YEAR_NS = 365 * 86_400 * 1_000_000_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t")
    return tmp_path / "data"


def values(data: Path) -> list[bytes | None]:
    with pylog.open(data) as engine:
        return [record.value for record in engine.read("t")]


def test_9c_a_fork_while_other_threads_append_leaves_both_sides_working(data: Path) -> None:
    with pylog.open(data) as engine:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                engine.append("t", b"parent")

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(5):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    signal.alarm(60)  # a child that hangs fails
                    engine.append("t", b"child", durability="sync")
                    engine.close()
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 5
        stop.set()
        for thread in threads:
            thread.join()
        engine.append("t", b"parent", durability="sync")
    assert values(data).count(b"child") == 5


PARENT_THAT_DIES = """
import os, signal, sys, pylog
engine = pylog.open(sys.argv[1])
engine.append("t", b"parent")
ready, go = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(go[0], 1)
    engine.append("t", b"orphan")
    engine.close()
    print("written", flush=True)
    os._exit(0)
print("forked", flush=True)
sys.stdin.readline()
os.write(go[1], b"x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_goes_on_when_its_parent_was_killed_first(data: Path) -> None:
    with Child(PARENT_THAT_DIES, data) as parent:
        assert parent.says() == "forked"
        parent.tell()
        assert parent.says() == "written"
    assert values(data) == [b"parent", b"orphan"]


# ---- clocks ----------------------------------------------------------------------------------------------

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
APPENDS = """
import os, sys, pylog
with pylog.open(sys.argv[1]) as engine:
    for n in range(3):
        engine.append("t", sys.argv[2].encode(), durability="interval")
    engine.sync()
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        print(len(consumer.poll(timeout=5.0)), flush=True)
        consumer.commit()
"""


@pytest.mark.skipif(FAKETIME is None, reason="Debian's package libfaketime is not installed")
def test_a_clock_that_jumps_by_a_year_in_either_direction_loses_and_hides_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["+0", "+365d", "-365d", "+0", "+730d", "-730d"]
    for step in steps:
        monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
        monkeypatch.setenv("FAKETIME", step)
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        with Child(APPENDS, data, step) as child:
            assert child.says() == "3"
            assert child.ends() == 0
        monkeypatch.delenv("LD_PRELOAD")
    with pylog.open(data) as engine:
        records = list(engine.read("t"))
        assert [record.offset for record in records] == list(range(18))
        assert [record.value for record in records] == [step.encode() for step in steps for _ in range(3)]
        ahead, behind = records[3].timestamp, records[6].timestamp
        assert ahead - behind > YEAR_NS  # timestamps are as they were stamped
        with engine.consumer() as consumer:
            consumer.assign([("t", 0)])
            consumer.seek_to_time(ahead)
            assert consumer.position(("t", 0)) == 3
            consumer.seek_to_time(records[12].timestamp)
            assert consumer.position(("t", 0)) == 12


# ---- file systems ----------------------------------------------------------------------------------------

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw
31 22 0:40 / /mnt/my\\040share rw - nfs4 server:/export rw
32 22 0:41 / /mnt/fuse rw - fuse.sshfs host:/ rw
33 22 8:2 / /mnt/disk rw - xfs /dev/sdb1 rw
34 33 0:42 / /mnt/disk rw - cifs //server/over rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/user/data", "ext4"),
        ("/dev/shm/data", "tmpfs"),
        ("/dev/shmaller", "ext4"),
        ("/mnt/my share/data", "nfs4"),
        ("/mnt/fuse", "fuse.sshfs"),
        ("/mnt/disk/data", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_and_latest_mount(path: str, kind: str) -> None:
    assert filesystems.filesystem_type(path, MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse", "fuse.sshfs", "fuseblk"])
def test_a_network_file_system_is_refused_with_the_remedy(
    data: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "filesystem_type", lambda path, mounts: kind)
    with pytest.raises(UnsupportedError, match=f"lies on {kind}.*use a local file system"):
        pylog.open(data)


def test_a_file_system_in_memory_is_warned_about(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(filesystems, "filesystem_type", lambda path, mounts: "tmpfs")
    with caplog.at_level(logging.WARNING, logger="pylog"):
        pylog.open(data).close()
    assert "lies on tmpfs: a reboot takes all of it" in caplog.text
