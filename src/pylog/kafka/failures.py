"""What librdkafka reports, as the errors of pylog.

Invariant: no KafkaException leaves the engine; what it was is the cause of the error that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from pylog.errors import (
    BufferFullError,
    ConfigError,
    FencedError,
    IllegalGenerationError,
    OffsetOutOfRangeError,
    PylogError,
    RecordTooLargeError,
    RequestTimeoutError,
    TopicExistsError,
    UnknownTopicError,
    UnsupportedError,
)

NAMES: dict[type[PylogError], tuple[str, ...]] = {
    UnknownTopicError: (
        "UNKNOWN_TOPIC_OR_PART",
        "UNKNOWN_TOPIC_ID",
        "_UNKNOWN_TOPIC",
        "_UNKNOWN_PARTITION",
    ),
    TopicExistsError: ("TOPIC_ALREADY_EXISTS",),
    RecordTooLargeError: ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"),
    OffsetOutOfRangeError: ("OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET", "_NO_OFFSET"),
    IllegalGenerationError: ("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS"),
    FencedError: ("FENCED_INSTANCE_ID", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "_FENCED"),
    BufferFullError: ("_QUEUE_FULL",),
    UnsupportedError: ("_UNSUPPORTED_FEATURE", "UNSUPPORTED_VERSION", "_NOT_IMPLEMENTED"),
    ConfigError: (
        "_INVALID_ARG",
        "INVALID_CONFIG",
        "INVALID_PARTITIONS",
        "INVALID_REPLICATION_FACTOR",
        "INCONSISTENT_GROUP_PROTOCOL",
        "INVALID_SESSION_TIMEOUT",
        "POLICY_VIOLATION",
        "TOPIC_EXCEPTION",
    ),
    RequestTimeoutError: (
        "_TIMED_OUT",
        "_MSG_TIMED_OUT",
        "_TIMED_OUT_QUEUE",
        "_TRANSPORT",
        "_ALL_BROKERS_DOWN",
        "_WAIT_COORD",
        "REQUEST_TIMED_OUT",
        "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION",
        "COORDINATOR_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "NOT_COORDINATOR",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    ),
}
ERRORS = {getattr(KafkaError, name): error for error, names in NAMES.items() for name in names}


def failure_of(error: KafkaError, doing: str) -> PylogError:
    """Return the error of pylog for one of Kafka's, which is its cause."""
    kind = ERRORS.get(error.code(), PylogError)
    failure = kind(f"{doing}: {error.str()} ({error.name()})")
    failure.__cause__ = KafkaException(error)
    return failure


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Raise what Kafka raises within the block as an error of pylog that says what was being done."""
    try:
        yield
    except KafkaException as exception:
        failure = failure_of(exception.args[0], doing)
        raise failure from exception
