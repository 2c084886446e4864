"""What the tests of event sourcing share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pylog

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[pylog.Engine]:
    with pylog.open(tmp_path / "data") as engine:
        yield engine
