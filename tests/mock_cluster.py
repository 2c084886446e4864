"""A cluster of Apache Kafka within this process: librdkafka's own mock of a broker, and what it lacks.

The wire protocol, groups, offsets and idempotence are librdkafka's; nothing is replaced in the clients. The
mock has no API to make or delete topics or records, so that these calls go to the mock itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient

from pylog.errors import TopicExistsError
from pylog.kafka.engine import KafkaEngine
from pylog.kafka.topics import KafkaTopics
from pylog.records import TopicPartition

QUICK = "enable.idempotence=false"
"""The mock makes each idempotent producer wait half a second for its id."""
PRODUCER = 0
LOG_ERRORS_ONLY = b"3"


def librdkafka() -> ctypes.CDLL:
    """The library that confluent-kafka has loaded already."""
    package = Path(confluent_kafka.__file__).parent
    (path,) = package.parent.glob("confluent_kafka.libs/librdkafka*")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_handle_mock_cluster": (pointer, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_set_controller_id": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_topic_delete": (number, [pointer, text]),
        "rd_kafka_mock_partition_delete_records": (number, [pointer, text, ctypes.c_int32, ctypes.c_int64]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """One broker that keeps its records in memory."""

    def __init__(self) -> None:
        self._library = librdkafka()
        config, error = self._library.rd_kafka_conf_new(), ctypes.create_string_buffer(256)
        for option in ((b"test.mock.num.brokers", b"1"), (b"log_level", LOG_ERRORS_ONLY)):
            assert self._library.rd_kafka_conf_set(config, *option, error, 256) == 0, error.value
        self._client = self._library.rd_kafka_new(PRODUCER, config, error, 256)
        assert self._client, error.value
        self._cluster = self._library.rd_kafka_handle_mock_cluster(self._client)
        self._call("group_initial_rebalance_delay_ms", 0)
        self._call("set_controller_id", 1)
        self.brokers: str = self._call("cluster_bootstraps").decode()

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"rd_kafka_mock_{name}")(self._cluster, *arguments)

    def make_topic(self, name: str, partitions: int) -> None:
        assert self._call("topic_create", name.encode(), partitions, 1) == 0

    def delete_topic(self, name: str) -> None:
        assert self._call("topic_delete", name.encode()) == 0

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        assert self._call("partition_delete_records", topic.encode(), partition, before_offset) == 0

    def go_down(self) -> None:
        assert self._call("broker_set_down", 1) == 0

    def come_up(self) -> None:
        assert self._call("broker_set_up", 1) == 0

    def url(self, options: str = QUICK) -> str:
        return f"kafka://{self.brokers}?{options}"

    def close(self) -> None:
        self._library.rd_kafka_destroy(self._client)


class TopicsOfTheMock(KafkaTopics):
    """Topics where the cluster has no CreateTopics, DeleteTopics, DeleteRecords and DescribeConfigs."""

    cluster: MockCluster

    def _create(self, name: str, partitions: int, config: dict[str, str]) -> None:
        if name in self.names():
            raise TopicExistsError(f"topic {name!r} exists", topic=name)
        self.cluster.make_topic(name, partitions)

    def _delete(self, name: str) -> None:
        self.cluster.delete_topic(name)

    def delete_records(self, place: TopicPartition, before_offset: int) -> None:
        self.cluster.delete_records(*place, before_offset)

    def _config_of(self, name: str) -> dict[str, Any]:
        return {}


class EngineOnTheMock(KafkaEngine):
    """A KafkaEngine that makes its topics in the mock."""

    def __init__(self, cluster: MockCluster, options: str = QUICK) -> None:
        self._cluster = cluster
        super().__init__(cluster.url(options))

    def _topics_of(self, admin: AdminClient, seconds: float) -> KafkaTopics:
        topics = TopicsOfTheMock(admin, seconds)
        topics.cluster = self._cluster
        return topics


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    try:
        yield cluster
    finally:
        cluster.close()
