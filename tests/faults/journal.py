"""What processes say that they do and see, in a file that outlives them: the checker's only witness.

A line is one write to an O_APPEND file. A kill may end that write between two pages, so a line begins with a
newline: what a dead process did not finish saying stands on a line of its own, and was not said. Times are
CLOCK_MONOTONIC, the same for all processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Journal:
    """Appends lines; `writer` names this process in them."""

    def __init__(self, path: Path, writer: str) -> None:
        self.writer = writer
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(self, what: str, **facts: Any) -> None:
        line = {"what": what, "by": self.writer, "at": time.monotonic_ns()} | facts
        os.write(self._fd, b"\n" + json.dumps(line, separators=(",", ":")).encode() + b"\n")


def read_journal(path: Path, position: int = 0) -> tuple[list[Line], int]:
    """Return what was said as a whole from a byte position on, and the position behind it."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        lines = file.read().split(b"\n")[:-1]
    said = [parse(line) for line in lines]
    return [line for line in said if line], position + sum(len(line) + 1 for line in lines)


def parse(line: bytes) -> Line:
    """Return what a line says; a line between two, and what a kill cut off, says nothing."""
    try:
        found: Line = json.loads(line)
    except ValueError:
        return {}
    return found


def value_of(batch: str, index: int, count: int, size: int) -> bytes:
    """Return the value of a batch's record: it names itself, and every byte of it follows from the name."""
    head = f"{batch} {index} {count} {size} ".encode()
    filler = hashlib.sha256(head).digest()
    return head + (filler * (size // 32 + 1))[:size]


def name_of(value: bytes | None) -> tuple[str, int, int]:
    """Return (batch, index, count) of a value. Raises ValueError where it is not one of ours, whole."""
    if value is None:
        raise ValueError("a null value, which nobody wrote")
    parts = value.split(b" ", 4)
    if len(parts) != 5:
        raise ValueError(f"a value that nobody wrote: {value[:60]!r}")
    try:
        batch, index, count, size = parts[0].decode(), int(parts[1]), int(parts[2]), int(parts[3])
    except ValueError:
        raise ValueError(f"a value that nobody wrote: {value[:60]!r}") from None
    if value != value_of(batch, index, count, size):
        raise ValueError(f"a value of {batch} with other bytes")
    return batch, index, count
