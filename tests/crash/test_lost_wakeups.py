"""A waiter for a lock is woken and killed before it runs: the wake-up is lost, and nobody may starve for it.

Who got the lock meanwhile does not know that others wait, and wakes nobody when it lets go.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import failpoints
from faults.failpoints import Failpoints
from faults.zygote import Child, Zygote

JOB = "test_lost_wakeups"
APPEND_LOCK = 13056  # of partition 0: the first word of the first slot of the control file
WAITERS = 0x8000_0000
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}
PATIENCE = 30.0


def create(directory: str) -> None:
    import pylog

    with pylog.open(directory) as engine:
        engine.create_topic("t", durability="os")
        engine.append("t", b"first")


def append(directory: str, count: int, lock_timeout: float) -> list[int]:
    import pylog

    with pylog.open(directory, lock_timeout=lock_timeout) as engine:
        return [engine.append("t", b"x").offset for _ in range(count)]


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Failpoints]:
    found = Failpoints(tmp_path / "points")
    yield found
    found.close()


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, points: Failpoints) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build, Path(__file__).parent], points.environment) as started:
        started.run(f"{JOB}:create", directory=tmp_path / "data")
        yield started


class Lock:
    """The lock's word in the control file, and a sleeper who takes one wake-up and does nothing with it."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), 0)
        self._word = ctypes.c_uint32.from_buffer(self._mapping, APPEND_LOCK)
        self._sleeper = threading.Thread(target=self._sleep, args=(self._word.value,), daemon=True)
        self._call = SYS_FUTEX[platform.machine()]

    @property
    def word(self) -> int:
        return self._word.value

    def _sleep(self, seen: int) -> None:
        ctypes.CDLL(None).syscall(self._call, ctypes.byref(self._word), 0, seen, None, None, 0)

    def sleep_on_it(self) -> None:
        """Queue up first; on return the kernel has put the sleeper to sleep."""
        self._sleeper.start()
        address = hex(ctypes.addressof(self._word))
        where = Path(f"/proc/self/task/{self._sleeper.native_id}/syscall")
        wait_until(lambda: address in where.read_text())

    def taken(self) -> bool:
        """Whether the sleeper was woken."""
        self._sleeper.join(PATIENCE)
        return not self._sleeper.is_alive()


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def asleep(child: Child) -> bool:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_a_waiter_whose_wake_up_went_to_a_dead_one_gets_the_lock_all_the_same(
    zygote: Zygote, points: Failpoints, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    points.arm("append.locked", failpoints.STOP)
    holder = zygote.start(f"{JOB}:append", directory=data, count=2, lock_timeout=20.0)
    assert holder.wait_stopped_or_ended()
    lock = Lock(data / "topics" / "t" / "control")
    lock.sleep_on_it()
    waiter = zygote.start(f"{JOB}:append", directory=data, count=1, lock_timeout=3.0)
    wait_until(lambda: lock.word & WAITERS and asleep(waiter))

    points.arm("append.locked", failpoints.STOP, pid=holder.pid)
    holder.signal(signal.SIGCONT)
    assert lock.taken(), "the wake-up went to another one: the test shows nothing"
    holder.wait_stopped_or_ended()
    holder.signal(signal.SIGCONT)
    assert sorted([*holder.result(), *waiter.result()]) == [1, 2, 3]
