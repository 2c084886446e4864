"""A user's program type-checks under mypy --strict, and a user's mistakes are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def mypy(name: str, cache: Path) -> str:
    """What mypy --strict says of a program that uses the installed pylog."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", name]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout


def test_a_program_is_typed_and_mistakes_are_found(tmp_path: Path) -> None:
    assert mypy("program.py", tmp_path).startswith("Success")
    lines = (HERE / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    said = mypy("wrong.py", tmp_path)
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert found == wrong, said
