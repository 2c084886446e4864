from __future__ import annotations

from collections.abc import Iterator

import pytest
from mock_cluster import EngineOnTheMock, MockCluster, mock_cluster


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as cluster:
        yield cluster


@pytest.fixture
def engine(cluster: MockCluster) -> Iterator[EngineOnTheMock]:
    with EngineOnTheMock(cluster) as engine:
        engine.create_topic("t", partitions=2)
        yield engine
