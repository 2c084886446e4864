"""What goes wrong at a cluster is an error of pylog that says why, and nothing sent is lost in silence."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from mock_cluster import EngineOnTheMock, MockCluster

import pylog
from pylog.kafka.failures import failure_of, failures


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, pylog.UnknownTopicError),
        (KafkaError.TOPIC_ALREADY_EXISTS, pylog.TopicExistsError),
        (KafkaError.MSG_SIZE_TOO_LARGE, pylog.RecordTooLargeError),
        (KafkaError._AUTO_OFFSET_RESET, pylog.OffsetOutOfRangeError),
        (KafkaError.ILLEGAL_GENERATION, pylog.IllegalGenerationError),
        (KafkaError.FENCED_INSTANCE_ID, pylog.FencedError),
        (KafkaError._MSG_TIMED_OUT, pylog.RequestTimeoutError),
        (KafkaError._UNSUPPORTED_FEATURE, pylog.UnsupportedError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, pylog.PylogError),
    ],
)
def test_errors_are_translated_with_their_cause(code: int, error: type[pylog.PylogError]) -> None:
    failure = failure_of(KafkaError(code), "trying")
    assert type(failure) is error
    assert str(failure).startswith("trying: ")
    cause = KafkaException(KafkaError(code))
    with pytest.raises(error) as raised, failures("trying"):
        raise cause
    assert raised.value.__cause__ is cause


def test_a_cluster_that_does_not_answer_is_a_timeout(cluster: MockCluster) -> None:
    cluster.go_down()
    with pytest.raises(pylog.RequestTimeoutError, match=cluster.brokers):
        pylog.open(cluster.url("socket.timeout.ms=200"))


def test_a_failed_flush_keeps_the_records(cluster: MockCluster, engine: EngineOnTheMock) -> None:
    with engine.producer() as producer:
        producer.send("t", b"0", partition=0)
        producer.flush()
        cluster.go_down()
        producer.send("t", b"1", partition=0)
        with pytest.raises(pylog.RequestTimeoutError):
            producer.flush(timeout=0.05)
        cluster.come_up()
        producer.flush()
        assert [record.value for record in engine.read("t", 0)] == [b"0", b"1"]


def test_what_failed_is_reported_kept_and_sent_again(cluster: MockCluster) -> None:
    reported: list[BaseException | None] = []
    with EngineOnTheMock(cluster, "enable.idempotence=false&delivery.timeout.ms=300") as engine:
        engine.create_topic("t")
        with engine.producer(on_delivery=lambda ids, error: reported.append(error)) as producer:
            engine.append("t", b"0")
            cluster.go_down()
            producer.send("t", b"1")
            with pytest.raises(pylog.RequestTimeoutError) as raised:
                producer.flush()
            assert reported == [raised.value]
            assert producer.metrics()["kept_records"] == 1
            cluster.come_up()
        assert [record.value for record in engine.read("t")] == [b"0", b"1"]
        assert reported[1:] == [None]


def test_a_full_buffer_raises_or_blocks(cluster: MockCluster, engine: EngineOnTheMock) -> None:
    small = {"buffer_bytes": 64 << 10, "batch_bytes": 64 << 10, "linger_ms": 3_600_000}
    value = bytes(10_000)
    producer = engine.producer(when_full="raise", **small)  # type: ignore[arg-type]
    with producer, pytest.raises(pylog.BufferFullError):
        for _ in range(100):
            producer.send("t", value, partition=0)
    with engine.producer(when_full="block", **small) as producer:  # type: ignore[arg-type]
        for _ in range(20):
            producer.send("t", value, partition=1)
    assert engine.log_end_offset("t", 1) == 20


def test_members_share_and_hand_over(engine: EngineOnTheMock) -> None:
    engine.append_many("t", [b"%d" % n for n in range(5)], partition=0)
    told: list[tuple[str, list[pylog.TopicPartition]]] = []
    with engine.consumer(
        "t",
        group="g",
        auto_offset_reset="earliest",
        on_assign=lambda places: told.append(("got", sorted(places))),
        on_revoke=lambda places, left: told.append(("gave", sorted(places))),
    ) as consumer:
        assert [record.offset for record in islice(consumer, 3)] == [0, 1, 2]
        consumer.commit({("t", 0): pylog.OffsetAndMetadata(3, b"note")})
        assert consumer.committed_with_metadata(("t", 0)) == (3, b"note")  # type: ignore[attr-defined]
        with pytest.raises(pylog.UnsupportedError):
            consumer.commit({("t", 0): pylog.OffsetAndMetadata(3, b"\xff")})
        with pytest.raises(pylog.ConfigError):
            consumer.commit({("t", 9): 3})
    both = [("t", 0), ("t", 1)]
    assert told == [("got", both), ("gave", both)]


def test_topics_are_found_by_patterns(engine: EngineOnTheMock) -> None:
    engine.create_topic("orders.eu")
    engine.append("orders.eu", b"x")
    engine.append("t", b"no")
    with engine.consumer("orders.*", group="p", auto_offset_reset="earliest") as consumer:
        assert [record.topic for record in islice(consumer, 1)] == ["orders.eu"]
    with engine.consumer("orders.*", auto_offset_reset="earliest") as consumer:
        assert [record.topic for record in islice(consumer, 1)] == ["orders.eu"]

def threads() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


def test_closing_an_engine_ends_its_threads(cluster: MockCluster) -> None:
    with EngineOnTheMock(cluster) as first:
        first.create_topic("t")
        first.append("t", b"x")  # the mock has all of its own from here on
        before = threads()
        with EngineOnTheMock(cluster) as engine:
            engine.append("t", b"x")
            ours = threads() - before
            assert ours
        assert not ours & threads()
        with pytest.raises(pylog.ClosedError):
            engine.append("t", b"x")
