"""What the tests of groups share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pylog


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine(data_dir: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data_dir) as engine:
        yield engine
