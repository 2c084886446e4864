"""Engines that the contract suite runs against: each opens the same log as often as it is asked to.

A new engine is one more entry in ENGINES, and nothing else in this directory knows which one it has. What an
engine says it cannot do is asked of its `capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import pylog
from pylog.engine import Capability

Opener = Callable[[], pylog.Engine]


@contextmanager
def embedded(place: Path) -> Iterator[Opener]:
    yield lambda: pylog.open(place / "data")


@contextmanager
def kafka(place: Path) -> Iterator[Opener]:
    from mock_cluster import EngineOnTheMock, mock_cluster  # loads librdkafka: not for the others

    with mock_cluster() as cluster:
        yield lambda: EngineOnTheMock(cluster)


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Opener]]] = {"embedded": embedded, "kafka": kafka}
NOT_IN_THE_MOCK = {
    "test_a_topic_gets_more_partitions_and_never_fewer": "librdkafka's mock cluster adds no partitions",
    "test_seeking_by_time": "librdkafka's mock cluster answers no question about timestamps",
    "test_times_are_answered": "librdkafka's mock cluster answers no question about timestamps",
}
"""Tests that a real cluster would pass and the one that stands in for it cannot."""


@pytest.fixture(params=sorted(ENGINES))
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same log each time it is called."""
    if request.param == "kafka" and request.node.originalname in NOT_IN_THE_MOCK:
        pytest.skip(NOT_IN_THE_MOCK[request.node.originalname])
    with ENGINES[request.param](tmp_path) as opener:
        yield opener


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
