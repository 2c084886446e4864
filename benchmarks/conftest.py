"""Where the micro benchmarks write: next to the table's results, so on the same file system."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory of this test alone."""
    RESULTS.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="data-", dir=RESULTS))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
