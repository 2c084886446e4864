"""What tests share; none of them fails because the machine is busy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks import TurnedClock
from hypothesis import HealthCheck, settings

import pylog

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory to be."""
    return tmp_path / "data"


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    """An engine with a topic "t" of one partition and a topic "four" of four."""
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=1)
        engine.create_topic("four", partitions=4)
        yield engine
