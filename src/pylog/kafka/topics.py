"""Topics of a cluster: making, describing, altering and deleting them, and how many partitions each has.

Asks the cluster each time but for the number of partitions, which only grows. Invariant: what Kafka has no
place for is refused before anything is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from confluent_kafka import KafkaError, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from pylog.config import (
    ALTERABLE,
    MAX_PARTITIONS,
    Compression,
    IfExists,
    Partitioner,
    TopicConfig,
    check_choice,
    check_count,
    check_name,
    config_differences,
    topic_config,
)
from pylog.errors import (
    ConfigError,
    RequestTimeoutError,
    TopicConfigError,
    TopicExistsError,
    UnknownTopicError,
    UnsupportedError,
)
from pylog.kafka.failures import failure_of, failures
from pylog.records import TopicDescription
from pylog.records import TopicPartition as Place

INTERNAL = frozenset(
    {"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"}
)
LOOK_AGAIN_SECONDS = 0.02
BATCH_OVERHEAD = 12
"""By how much max.message.bytes exceeds max_record_bytes: as Kafka's default exceeds 1 MiB."""
KAFKA_KEYS = {
    "segment_bytes": "segment.bytes",
    "compression_type": "compression.type",
    "max_record_bytes": "max.message.bytes",
    "cleanup_policy": "cleanup.policy",
    "retention_ms": "retention.ms",
    "retention_bytes": "retention.bytes",
    "min_cleanable_dirty_ratio": "min.cleanable.dirty.ratio",
    "min_compaction_lag_ms": "min.compaction.lag.ms",
    "delete_retention_ms": "delete.retention.ms",
}
CLEANING: dict[str, Callable[[str], object]] = {
    "cleanup_policy": str,
    "retention_ms": int,
    "retention_bytes": int,
    "min_cleanable_dirty_ratio": float,
    "min_compaction_lag_ms": int,
    "delete_retention_ms": int,
}
"""Options that mean the same on both sides, and what reads them."""
STORED_RAW = frozenset({"uncompressed", "producer"})
NO_SUCH_PROMISE = frozenset({"durability", "sync_interval_ms", "max_unsynced_bytes"})
"""Options of a topic that speak of syncing, which Kafka leaves to its brokers."""
WAITS_FOR_NOBODY = frozenset({"retention_groups", "retention_groups_max_bytes"})


class KafkaTopics:
    """The topics of one cluster. Threads may share it."""

    def __init__(self, admin: AdminClient, seconds: float) -> None:
        self._admin = admin
        self._seconds = seconds
        self._partitions: dict[str, int] = {}

    # ---- what there is ----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of all topics but Kafka's own, sorted."""
        with failures("listing topics"):
            found = self._admin.list_topics(timeout=self._seconds).topics
        return sorted(name for name, topic in found.items() if name not in INTERNAL and topic.error is None)

    def partitions_of(self, name: str) -> int:
        """Return how many partitions a topic has. Raises UnknownTopicError."""
        return self._partitions.get(name) or self.look(name)

    def check_partition(self, name: str, partition: object) -> int:
        """Return `partition` if the topic has it; UnknownTopicError, TypeError or ConfigError otherwise."""
        count = self.partitions_of(name)
        if isinstance(partition, int) and partition >= count:
            count = self.look(name)  # it may have grown
        return check_count(partition, "partition", 0, count - 1)

    def look(self, name: str) -> int:
        """Ask the cluster for the number of partitions of a topic. Raises UnknownTopicError."""
        check_name(name, "topic")
        doing = f"looking for topic {name!r}"
        with failures(doing):
            topic = self._admin.list_topics(name, timeout=self._seconds).topics.get(name)
        count = 0 if topic is None else len(topic.partitions)
        if topic is not None and topic.error is not None and topic.error.code() not in GONE:
            raise failure_of(topic.error, doing)
        if count == 0:
            self._partitions.pop(name, None)
            raise UnknownTopicError(f"there is no topic {name!r}")
        self._partitions[name] = count
        return count

    def describe(self, name: str) -> TopicDescription:
        """Return a topic's shape and configuration; of syncing Kafka says nothing, which is "os" here."""
        count = self.look(name)
        with failures(f"describing topic {name!r}"):
            asked = self._admin.describe_topics(TopicCollection([name]), request_timeout=self._seconds)
            found = asked[name].result().topic_id
        bits = (found.get_most_significant_bits() % (1 << 64), found.get_least_significant_bits() % (1 << 64))
        config = TopicConfig(**{"durability": "os", **self._config_of(name)})
        return TopicDescription(name, f"{bits[0]:016x}{bits[1]:016x}", count, "murmur2", config)

    # ---- what changes -----------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        partitions: int | None,
        partitioner: Partitioner | None,
        config: Mapping[str, object],
        if_exists: IfExists,
    ) -> TopicDescription:
        """Make a topic; see Engine.create_topic."""
        check_name(name, "topic")
        check_choice(if_exists, "if_exists", get_args(IfExists))
        if partitions is not None:
            check_count(partitions, "partitions", 1, MAX_PARTITIONS)
        if (
            partitioner is not None
            and check_choice(partitioner, "partitioner", get_args(Partitioner)) == "xxh3"
        ):
            raise UnsupportedError('on Kafka keys choose partitions by "murmur2" only')
        topic_config(config)
        refuse_promises(config)
        try:
            self._create(name, partitions or 1, kafka_config(config))
        except TopicExistsError as error:
            if if_exists == "raise":
                raise TopicExistsError(f"topic {name!r} exists", topic=name) from error
            return self._compared(name, partitions, config)
        self._wait_until(lambda: self._is_there(name), f"topic {name!r} was made, but no broker knows it yet")
        return self.describe(name)

    def _compared(self, name: str, partitions: int | None, config: Mapping[str, object]) -> TopicDescription:
        found = self.describe(name)
        differences = config_differences(found.config, config)
        if partitions is not None and partitions != found.partitions:
            differences["partitions"] = (found.partitions, partitions)
        if differences:
            shown = ", ".join(
                f"{key} is {has!r}, not {wanted!r}" for key, (has, wanted) in differences.items()
            )
            raise TopicConfigError(f"topic {name!r} exists: {shown}", topic=name, differences=differences)
        return found

    def alter(self, name: str, config: Mapping[str, object]) -> TopicDescription:
        """Change configuration that may be changed; see Engine.alter_topic."""
        topic_config(config)
        refuse_promises(config)
        for option in config:
            if option not in ALTERABLE:
                raise ConfigError(f"{option} is fixed when a topic is made")
        self.look(name)
        if config:
            self._alter(name, kafka_config(config))
        return self.describe(name)

    def grow(self, name: str, partitions: int) -> TopicDescription:
        """Give a topic more partitions; see Engine.create_partitions."""
        check_count(partitions, "partitions", 1, MAX_PARTITIONS)
        count = self.look(name)
        if partitions < count:
            raise ConfigError(f"topic {name!r} has {count} partitions: they are never taken away")
        if partitions > count:
            self._grow(name, partitions)
            self._wait_until(
                lambda: self.look(name) == partitions, f"topic {name!r} grows, but no broker knows it yet"
            )
        return self.describe(name)

    def delete(self, name: str) -> None:
        """Delete a topic with all its records. Raises UnknownTopicError."""
        self.look(name)
        self._delete(name)
        self._wait_until(
            lambda: not self._is_there(name), f"topic {name!r} is being deleted, but is still there"
        )

    def delete_records(self, place: Place, before_offset: int) -> None:
        """Delete the records of a partition before an offset that it has."""
        wanted = TopicPartition(*place, before_offset)
        with failures(f"deleting records of {place.topic}-{place.partition}"):
            self._admin.delete_records([wanted], request_timeout=self._seconds)[wanted].result()

    # ---- one call of Kafka's each -----------------------------------------------------------------------

    def _create(self, name: str, partitions: int, config: dict[str, str]) -> None:
        wanted = NewTopic(name, num_partitions=partitions, config=config)
        with failures(f"making topic {name!r}"):
            self._admin.create_topics([wanted], request_timeout=self._seconds)[name].result()

    def _delete(self, name: str) -> None:
        with failures(f"deleting topic {name!r}"):
            self._admin.delete_topics([name], request_timeout=self._seconds)[name].result()

    def _grow(self, name: str, partitions: int) -> None:
        with failures(f"adding partitions to topic {name!r}"):
            wanted = [NewPartitions(name, partitions)]
            self._admin.create_partitions(wanted, request_timeout=self._seconds)[name].result()

    def _alter(self, name: str, config: dict[str, str]) -> None:
        changes = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=changes)
        with failures(f"altering topic {name!r}"):
            asked = self._admin.incremental_alter_configs([resource], request_timeout=self._seconds)
            asked[resource].result()

    def _config_of(self, name: str) -> dict[str, Any]:
        resource = ConfigResource(ResourceType.TOPIC, name)
        with failures(f"describing topic {name!r}"):
            asked = self._admin.describe_configs([resource], request_timeout=self._seconds)
            entries = asked[resource].result()
        return stored_config({key: entry.value for key, entry in entries.items()})

    # ---- waiting for the cluster ------------------------------------------------------------------------

    def _is_there(self, name: str) -> bool:
        try:
            self.look(name)
        except UnknownTopicError:
            return False
        return True

    def _wait_until(self, true: Callable[[], bool], otherwise: str) -> None:
        """Ask until brokers have heard from their controller."""
        end = time.monotonic() + self._seconds
        while not true():
            if time.monotonic() > end:
                raise RequestTimeoutError(otherwise)
            time.sleep(LOOK_AGAIN_SECONDS)


GONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)


def refuse_promises(config: Mapping[str, object]) -> None:
    """Refuse what Kafka's topics have no place for."""
    for option in sorted(NO_SUCH_PROMISE & config.keys()):
        raise UnsupportedError(
            f"Kafka has no {option}: a record is acknowledged by all in-sync replicas, and brokers sync by "
            "their own configuration"
        )
    for option in sorted(WAITS_FOR_NOBODY & config.keys()):
        raise UnsupportedError(f"Kafka has no {option}: its retention waits for no group")
    if "fixed_partitions" in config:
        raise UnsupportedError("Kafka has no fixed_partitions: whoever administers it may add some")


def kafka_config(config: Mapping[str, object]) -> dict[str, str]:
    """Return options of a topic under Kafka's names."""
    found = {}
    for option, value in config.items():
        if option == "compression_type" and value == "none":
            value = "uncompressed"
        elif option == "max_record_bytes":
            value = cast(int, value) + BATCH_OVERHEAD
        found[KAFKA_KEYS[option]] = str(value)
    return found


def stored_config(entries: Mapping[str, str | None]) -> dict[str, Any]:
    """Return Kafka's configuration of a topic under our names; codecs that only Kafka has keep theirs."""
    found: dict[str, Any] = {}
    segment, codec = entries.get("segment.bytes"), entries.get("compression.type")
    most = entries.get("max.message.bytes")
    if segment is not None:
        found["segment_bytes"] = int(segment)
    if codec is not None:
        found["compression_type"] = cast(Compression, "none" if codec in STORED_RAW else codec)
    if most is not None:
        found["max_record_bytes"] = int(most) - BATCH_OVERHEAD
    for option, read in CLEANING.items():
        text = entries.get(KAFKA_KEYS[option])
        if text is not None:
            found[option] = read(text)
    return found
