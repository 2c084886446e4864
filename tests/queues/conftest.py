"""What the tests of queues share: an engine, and a queue in it that gives back at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taking import AT_ONCE, Opened

import pylog


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        yield engine


@pytest.fixture
def opened(engine: pylog.Engine) -> Opened:
    """Opens queues whose retries do not wait."""

    def open_queue(name: str = "jobs", **options: Any) -> pylog.Queue:
        return engine.queue(name, **{"retry": AT_ONCE, **options})

    return open_queue
