"""What Kafka cannot do raises when it is asked for or built, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from mock_cluster import EngineOnTheMock, MockCluster

import pylog


@pytest.mark.parametrize(
    "use",
    [
        lambda engine: engine.transaction(),
        lambda engine: engine.queue("q"),
        lambda engine: engine.event_store("s"),
        lambda engine: engine.synced_offset("t", 0),
        lambda engine: engine.sync(),
        lambda engine: engine.recover("t", 0),
        lambda engine: engine.backup("there"),
        lambda engine: engine.append("t", b"x", durability="sync"),
        lambda engine: engine.append("t", b"x", timestamp=1_700_000_000_000_000_001),
        lambda engine: engine.append("t", b"x", timestamp=0),
        lambda engine: engine.append_many("t", [b"x"], durability="os"),
        lambda engine: engine.append("t", b"x", key=b"k", guard=-1),
        lambda engine: engine.append_many("t", [b"x"], [b"k"], guard={b"k": -1}),
        lambda engine: engine.read_key("t", b"k"),
        lambda engine: engine.read("t", isolation="synced"),
        lambda engine: engine.producer(producer_id="p"),
        lambda engine: engine.producer(durability="sync"),
        lambda engine: engine.consumer("t", isolation="synced"),
        lambda engine: engine.consumer("t", on_truncate="raise"),
        lambda engine: engine.consumer("t", group="g", assignor="weighted"),
        lambda engine: engine.consumer("t", group="g", capacity=2.0),
        lambda engine: engine.consumer("t", group="g", rebalance_timeout_ms=1000),
        lambda engine: engine.consumer("t").batches(),
        lambda engine: engine.create_topic("new", durability="sync"),
        lambda engine: engine.create_topic("new", sync_interval_ms=5),
        lambda engine: engine.create_topic("new", retention_groups=["billing"]),
        lambda engine: engine.alter_topic("t", retention_groups_max_bytes=1 << 30),
        lambda engine: engine.copy_topic("t", "new"),
        lambda engine: engine.create_topic("new", partitioner="xxh3"),
        lambda engine: engine.alter_topic("t", durability="os"),
    ],
)
def test_it_raises_at_once(engine: EngineOnTheMock, use: Callable[[Any], object]) -> None:
    with pytest.raises(pylog.UnsupportedError):
        use(engine)
    assert list(engine.read("t")) == []
    assert engine.list_topics() == ["t"]


def test_a_producer_takes_no_sequence(engine: EngineOnTheMock) -> None:
    with engine.producer() as producer:
        with pytest.raises(pylog.UnsupportedError):
            producer.send("t", b"x", sequence=1)
    assert list(engine.read("t")) == []


def test_a_broker_without_an_api_says_so(cluster: MockCluster) -> None:
    with pylog.open(cluster.url()) as engine:
        with pytest.raises(pylog.UnsupportedError) as raised:
            engine.create_topic("t")
    assert raised.value.__cause__ is not None


def test_what_is_for_directories_is_refused(cluster: MockCluster) -> None:
    for options in ({"read_only": True}, {"create": False}, {"lock_timeout": 1.0}):
        with pytest.raises(pylog.UnsupportedError):
            pylog.open(cluster.url(), **options)  # type: ignore[arg-type]


def test_a_missing_client_names_the_extra() -> None:
    program = """
import sys
sys.modules["confluent_kafka"] = None
import pylog
try:
    pylog.open("kafka://host")
except pylog.UnsupportedError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'pylog-engine[kafka]'" in told
