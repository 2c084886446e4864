"""The command as such: help, usage, exit codes, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import Command

from pylog.cli import ERROR, OK, USAGE, main

HEAVY = ("numpy", "zstandard", "rich", "logcore.scan", "logcore.batch", "pylog.embedded", "xxhash")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = f"""
import sys, time
begun = time.perf_counter()
from pylog.cli import main
assert main(["--help"]) == 0
took = time.perf_counter() - begun
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"{{heavy}} {{took}}" if heavy or took > 3 else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("topics", "describe", "create", "delete", "put", "cat", "dump", "verify", "bench"):
        assert main([command, "--help"]) == OK
        assert f"pylog {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [[], ["nonsense"], ["cat"], ["create", "t", "-p", "many"], ["topics", "extra"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["describe", "nothing"], ERROR, "nothing"),
        (["cat", "nothing", "-e"], ERROR, "nothing"),
        (["put", "nothing"], ERROR, "nothing"),
        (["delete", "nothing", "--execute"], ERROR, "nothing"),
        (["dump", "nothing"], ERROR, "nothing"),
        (["verify", "nothing"], ERROR, "nothing"),
        (["create", "-x"], USAGE, "topic"),
        (["create", ".hidden"], USAGE, ".hidden"),
        (["create", "../up"], USAGE, "../up"),
        (["create", "t", "-c", "nonsense=1"], USAGE, "nonsense"),
        (["create", "t", "-c", "segment_bytes"], USAGE, "KEY=VALUE"),
        (["create", "t", "-c", "segment_bytes=big"], USAGE, "segment_bytes is an int"),
        (["create", "t", "-c", "durability=3"], USAGE, "durability"),
        (["create", "t", "-p", "0"], USAGE, "partitions"),
        (["cat", "orders", "-o", "yesterday"], USAGE, "yesterday"),
        (["cat", "orders", "-o", "99", "-e"], ERROR, "99"),
        (["cat", "orders", "-o", "s@99999999999999999", "-e"], USAGE, "s@9999"),
        (["cat", "orders", "-o", "9" * 5000, "-e"], USAGE, "beyond"),
        (["cat", "orders", "-p", "7", "-e"], USAGE, "7"),
        (["cat", "orders", "-f", "%q", "-e"], USAGE, "%q"),
        (["put", "orders", "-J", "-k", "x"], USAGE, "-J"),
        (["put", "orders", "missing-file"], ERROR, "missing-file"),
        (["put"], USAGE, "which topic"),
    ],
)
def test_bad_input_is_one_clear_line(orders: Command, arguments: list[str], code: int, said: str) -> None:
    got, out, err = orders(*arguments)
    assert (got, out) == (code, b"")
    assert said in err
    assert "Traceback" not in err
    assert "mistake" not in err
    assert err.startswith("pylog")


def test_looking_into_a_directory_that_is_not_there_does_not_make_it(run: Command, data: Path) -> None:
    for command in (["topics"], ["cat", "t", "-e"], ["put", "t"], ["describe", "t"]):
        assert run(*command)[0] == USAGE
        assert not data.exists()


def test_options_stand_before_or_behind_the_command(orders: Command, data: Path) -> None:
    assert main(["topics", "-C", str(data), "--json"]) == OK
    assert json.loads(orders.capsys.readouterr()[0])["topic"] == "orders"


@pytest.mark.parametrize("command", ["verify", "dump"])
@pytest.mark.parametrize("content", [b"", b"2026-01-01 a line of some program's log\n" * 500])
def test_a_file_of_something_else_is_called_no_segment_and_not_corrupt(
    run: Command, tmp_path: Path, command: str, content: bytes
) -> None:
    path = tmp_path / "program.log"
    path.write_bytes(content)
    code, out, err = run(command, str(path))
    assert (code, out) == (ERROR, b"")
    assert "program.log is not a pylog segment" in err
    assert len(err.splitlines()) == 1


def test_verify_takes_the_directory_and_no_topic_that_is_called_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for topic in ("data", "orders"):
        assert main(["-C", "data", "create", topic]) == OK
        assert main(["-C", "data", "put", topic, __file__]) == OK
    assert main(["-C", "data", "verify"]) == OK
    assert "of 2 partitions" in capsys.readouterr().err


def test_verify_says_nothing_of_a_directory_of_a_newer_release(orders: Command, data: Path) -> None:
    path = data / "format"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    code, _, err = orders("verify")
    assert (code, len(err.splitlines())) == (ERROR, 1)
    assert "needs a newer pylog" in err
