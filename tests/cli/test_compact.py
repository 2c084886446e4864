"""compact: a plan first, and what was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pylog
from pylog.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with pylog.open(tmp_path) as engine:
        engine.create_topic("kept")
        engine.create_topic("t", cleanup_policy="compact")
        engine.append_many("t", [b"1", b"2", b"3"], [b"a", b"b", b"a"])
    return tmp_path


def rows(data: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["-C", str(data), "--json", "compact", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def offsets(data: Path) -> list[int]:
    with pylog.open(data, read_only=True) as engine:
        return [record.offset for record in engine.read("t")]


def test_without_execute_only_the_plan_is_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(data, capsys, "--now")
    assert (row["topic"], row["removed_records"], row["done"]) == ("t", None, False)
    assert offsets(data) == [0, 1, 2]


def test_with_execute_it_is_done(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(data, capsys, "t", "--now", "--execute")
    assert (row["removed_records"], row["done"], row["error"]) == (1, True, None)
    assert offsets(data) == [1, 2]


def test_a_topic_that_keeps_everything_has_nothing_to_clean(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows(data, capsys, "kept", "--execute") == []


def test_a_partition_that_cannot_be_cleaned_is_an_error(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows(data, capsys, "t", "--now", "--execute")
    with pylog.open(data) as engine:
        engine.append_many("t", [b"1", b"2"], [b"a", b"b"])
    segment = sorted((data / "topics" / "t" / "0").glob("*.log"))[0]
    content = bytearray(segment.read_bytes())
    content[4300] ^= 1
    segment.write_bytes(content)
    assert main(["-C", str(data), "compact", "--now", "--execute"]) == 1
    assert segment.name in capsys.readouterr().out
