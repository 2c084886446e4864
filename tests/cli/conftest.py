"""A data directory and the command on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Command

import pylog
from pylog.cli import OK


@pytest.fixture
def run(data: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(data, capsysbinary, monkeypatch)


@pytest.fixture
def orders(run: Command) -> Command:
    """A topic of two partitions without records."""
    assert run("create", "orders", "-p", "2")[0] == OK
    return run


@pytest.fixture
def full(data: Path) -> Iterator[Path]:
    with pylog.open(data) as engine:
        engine.create_topic("full", partitions=1)
        engine.append_many("full", [b"value %d" % n for n in range(50_000)])
    yield data
