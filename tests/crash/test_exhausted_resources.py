"""A full disk (ENOSPC), a file size limit (EFBIG) and no more descriptors (EMFILE), at each step of a roll.

The error says what it is, nothing half done is visible, others read on, and the same engine goes on by itself
as soon as there is room again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.puppet import Puppet, Refused
from faults.zygote import Zygote
from stage import SEGMENT_BYTES, Stage

PAGE = 4096
DISK_BYTES = 2 << 20
SIZE = 900  # of a value: a segment takes seventeen
MOST = 60  # appends: three rolls


class Account:
    """What a process appended, as it was told; the journal is not used, since the limits would hit it too."""

    def __init__(self, stage: Stage, process: Puppet) -> None:
        self.stage, self.process = stage, process
        self.acked: list[str] = []

    def append(self) -> None:
        self.acked.append(self.process.do("append", size=SIZE))

    def append_until_refused(self) -> Refused | None:
        for _ in range(MOST):
            try:
                self.append()
            except Refused as refused:
                return refused
        return None

    def check(self, reader: Puppet) -> None:
        """Nothing is missing, nothing is there of what was refused."""
        assert names(reader.do("read")) == self.acked

    def check_closed(self) -> None:
        """All are gone: open again, twice."""
        found = self.stage.run("read_again", partitions=1)
        assert names(found) == self.acked
        self.stage.look_again(found)


def names(found: dict[str, Any]) -> list[str]:
    return [name for _, _, _, name, _, _ in found["records"]]


def open_account(stage: Stage) -> tuple[Account, Puppet]:
    """A writer that has appended, and somebody else who reads and writes beside it."""
    stage.journal = Path(os.devnull)
    writer, other = stage.process("writer"), stage.process("other")
    account = Account(stage, writer)
    account.append()
    account.acked.append(other.do("append", size=SIZE))
    account.check(other)
    return account, other


def goes_on(account: Account, other: Puppet) -> None:
    """There is room again: both write on, over a roll, without opening again."""
    for _ in range(SEGMENT_BYTES // SIZE + 1):
        account.append()
        account.acked.append(other.do("append", size=SIZE))
    account.check(other)
    account.check(account.process)
    account.process.close()
    other.close()
    account.check_closed()


# ---- ENOSPC -----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of our own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "pylog-test", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no permission to mount a small file system: {getattr(error, 'stderr', None) or error}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@contextlib.contextmanager
def filled(disk: Path, room: int) -> Iterator[None]:
    """Leave so many bytes free, until the end of the block."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - room)
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.parametrize("pages", range(13))
def test_2d_a_full_disk_at_any_step_of_a_roll_is_told_and_passes(
    zygote: Zygote, tmp_path: Path, disk: Path, pages: int
) -> None:
    account, other = open_account(Stage(zygote, tmp_path, directory=disk / "data"))
    with filled(disk, pages * PAGE):
        for _ in range(2):
            refused = account.append_until_refused()
            assert refused is not None and refused.kind == "DiskFullError", refused
            account.check(other)
        with pytest.raises(Refused, match="DiskFullError"):
            other.do("append", size=SIZE)
        account.check(account.process)
    goes_on(account, other)


@pytest.fixture
def copying_disk(tmp_path: Path) -> Iterator[Path]:
    """A small btrfs: what is written again there needs space again."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    try:
        for command in (["mkfs.btrfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no btrfs can be made and mounted here: {getattr(error, 'stderr', None) or error}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_2d_a_full_disk_that_copies_on_write_is_an_error_and_no_signal(
    zygote: Zygote, tmp_path: Path, copying_disk: Path
) -> None:
    account, other = open_account(Stage(zygote, tmp_path, directory=copying_disk / "data"))
    os.sync()  # what is stored again now is copied
    ballast = copying_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(os.urandom(size))
        file.write(bytes(4096))
    refused = account.append_until_refused()
    assert refused is not None and refused.kind == "DiskFullError", refused
    account.check(other)
    account.check(account.process)
    ballast.unlink()
    os.sync()
    goes_on(account, other)


@pytest.mark.parametrize("pages", range(4))
def test_no_topic_is_half_made_on_a_full_disk(zygote: Zygote, tmp_path: Path, disk: Path, pages: int) -> None:
    account, other = open_account(Stage(zygote, tmp_path, directory=disk / "data"))
    with filled(disk, pages * PAGE):
        with contextlib.suppress(Refused):
            account.process.do("create_topic", topic="new")
        there = account.process.do("topics")
        assert there == other.do("topics")
    if "new" not in there:
        account.process.do("create_topic", topic="new")
    assert other.do("topics") == ["new", "t"]
    goes_on(account, other)


def test_closing_on_a_full_disk_loses_nothing(zygote: Zygote, tmp_path: Path, disk: Path) -> None:
    account, other = open_account(Stage(zygote, tmp_path, directory=disk / "data"))
    with filled(disk, 0):
        assert account.append_until_refused() is not None
        other.close()
        with contextlib.suppress(AssertionError):  # it may say that it could not leave all as it should
            account.process.close()
    account.check_closed()


# ---- EFBIG and EMFILE -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, PAGE, 2 * PAGE, 3 * PAGE, SEGMENT_BYTES - 1])
def test_a_limit_of_file_size_at_any_step_of_a_roll_is_told_and_passes(
    zygote: Zygote, tmp_path: Path, limit: int
) -> None:
    account, other = open_account(Stage(zygote, tmp_path))
    account.process.do("limit", what="FSIZE", soft=limit)
    for _ in range(2):
        refused = account.append_until_refused()
        assert refused is not None and refused.kind == "DiskFullError", refused
        assert refused.errno == errno.EFBIG
        account.check(other)
        account.check(account.process)
    account.process.do("limit", what="FSIZE", soft=-1)
    goes_on(account, other)


@pytest.mark.parametrize("further", range(8))
@pytest.mark.parametrize("durability", ["os", "sync"])
def test_too_few_descriptors_at_any_step_of_a_roll_are_told_and_pass(
    zygote: Zygote, tmp_path: Path, durability: str, further: int
) -> None:
    account, other = open_account(Stage(zygote, tmp_path, durability))
    account.process.do("limit", what="NOFILE", soft=account.process.do("open_files") + further)
    refused = account.append_until_refused()
    assert refused is not None or further > 0
    if refused is not None:
        assert (refused.kind, refused.errno) == ("OSError", errno.EMFILE), refused
    there = names(other.do("read"))
    # one that was to be synced may have been published before the sync was refused
    assert there[: len(account.acked)] == account.acked
    assert len(there) <= len(account.acked) + (durability == "sync" and refused is not None)
    account.acked = there
    account.process.do("limit", what="NOFILE", soft=-1)
    goes_on(account, other)
