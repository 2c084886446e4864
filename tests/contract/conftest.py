"""Engines that the contract suite runs against: each is a function from a directory of its own to an Engine.

A new engine is one more entry in ENGINES, and nothing else in this directory knows which one it has. What an
engine says it cannot do is asked of its `capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pylog
from pylog.engine import Capability

Opener = Callable[[], pylog.Engine]


def embedded(place: Path) -> pylog.Engine:
    return pylog.open(place / "data")


ENGINES: dict[str, Callable[[Path], pylog.Engine]] = {"embedded": embedded}


@pytest.fixture(params=sorted(ENGINES))
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same log each time it is called."""
    make = ENGINES[request.param]
    return lambda: make(tmp_path)


@pytest.fixture
def engine(open_engine: Opener) -> Iterator[pylog.Engine]:
    with open_engine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def able(request: pytest.FixtureRequest) -> None:
    """Leave out a test marked `needs("capability")` where the engine lacks it, and say so."""
    marker = request.node.get_closest_marker("needs")
    if marker is None:
        return
    needed: Capability = marker.args[0]
    if needed not in request.getfixturevalue("engine").capabilities:
        pytest.skip(f"this engine has no {needed}")
