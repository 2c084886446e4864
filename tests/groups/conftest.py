"""What the tests of groups share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pylog


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        yield engine
