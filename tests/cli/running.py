"""The command `pylog` for its tests: run in this process, or as a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from pylog.cli import OK, main


class Terminal(io.TextIOWrapper):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Command:
    """Runs pylog on one data directory in this process."""

    def __init__(
        self, data: Path, capsys: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.data, self.capsys, self.monkeypatch = data, capsys, monkeypatch

    def __call__(self, *arguments: str, stdin: bytes = b"", terminal: bool = False) -> tuple[int, bytes, str]:
        """Return exit code, stdout and stderr."""
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        shown = Terminal(io.BytesIO(), encoding="utf-8", write_through=True)
        if terminal:
            self.monkeypatch.setattr("sys.stdout", shown)
        code = main(["-C", str(self.data), *arguments])
        out, err = self.capsys.readouterr()
        if terminal:
            out = shown.buffer.getvalue()  # type: ignore[attr-defined]
            self.monkeypatch.undo()
        return code, out, err.decode()

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        """Return what a successful command prints with --json."""
        code, out, err = self("--json", *arguments)
        assert code == OK, err
        return [json.loads(line) for line in out.splitlines()]


def command_line(data: Path, *arguments: str) -> list[str]:
    """What starts pylog as a process."""
    return [sys.executable, "-m", "pylog.cli", "-C", str(data), *arguments]


@contextmanager
def started(data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A pylog process with its stdout and stderr; whatever the test finds, it is gone afterwards."""
    with subprocess.Popen(
        command_line(data, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process, process.stdout, process.stderr
        finally:
            process.kill()
