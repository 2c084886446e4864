"""The command as a process: pipes, signals, closed streams, damaged and read-only directories."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from running import command_line, started

import pylog
from pylog.cli import CORRUPT, ERROR, OK


def test_a_reader_that_has_enough_ends_cat_quietly(full: Path) -> None:
    with started(full, "cat", "full", "-e") as (process, out, err):
        assert out.readline() == b"value 0\n"
        out.close()
        assert err.read() == b""
        assert process.wait() == OK


def test_cat_follows_until_ctrl_c(full: Path) -> None:
    with pylog.open(full) as engine:
        engine.append("full", b"old")
        with started(full, "cat", "full", "-o", "end") as (process, out, err):
            assert b"reached the end" in err.readline()
            engine.append("full", b"new")
            assert out.readline() == b"new\n"
            process.send_signal(signal.SIGINT)
            assert b"Traceback" not in err.read()
            assert process.wait() == 130


def test_cat_of_a_damaged_topic_says_where_and_ends_with_4(full: Path) -> None:
    segment = next((full / "topics" / "full" / "0").glob("*.log"))
    with segment.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)
    with started(full, "cat", "full", "-e") as (process, _, _):
        said = process.communicate()[1]
        assert process.returncode == CORRUPT
        assert segment.name.encode() in said
        assert b"offset" in said
        assert said.count(b"\n") == 1


def test_a_read_only_directory_can_be_looked_into(full: Path) -> None:
    full.chmod(0o500)
    try:
        with started(full, "cat", "full", "-o", "-1", "-e") as (process, _, _):
            assert process.communicate()[0] == b"value 49999\n"
    finally:
        full.chmod(0o700)


def test_cat_into_a_full_disk_is_one_clear_line(full: Path) -> None:
    with Path("/dev/full").open("wb") as disk:
        done = subprocess.run(
            command_line(full, "cat", "full", "-e"), stdout=disk, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == ERROR
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_the_shell_closed_is_nobody_s_file(full: Path, closed: str) -> None:
    before = sorted((path, path.stat().st_size) for path in full.rglob("*.log"))
    for command in (["topics"], ["cat", "full", "-e"], ["put", "full"]):
        script = f'"$@" {closed}'
        shell = ["sh", "-c", script, "sh", *command_line(full, *command)]
        assert (
            subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == OK
        )
    assert sorted((path, path.stat().st_size) for path in full.rglob("*.log")) == before


def test_put_from_a_file_and_cat_into_one_are_whole(full: Path, tmp_path: Path) -> None:
    printed, again = tmp_path / "printed", tmp_path / "again"
    with printed.open("wb") as file:
        subprocess.run(command_line(full, "cat", "full", "-e", "-J"), stdout=file, check=True)
    subprocess.run(command_line(tmp_path / "copy", "create", "full"), check=True, capture_output=True)
    subprocess.run(
        command_line(tmp_path / "copy", "put", "-J", "full", str(printed)), check=True, capture_output=True
    )
    with again.open("wb") as file:
        subprocess.run(command_line(tmp_path / "copy", "cat", "full", "-e", "-J"), stdout=file, check=True)
    assert again.read_bytes() == printed.read_bytes()
