"""Reading a topic to its end, in no group.

Invariant: what was appended after the call is not yielded, so that every reading ends.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from pylog.errors import ClosedError, ConfigError
from pylog.kafka.failures import failure_of, failures
from pylog.kafka.record import KafkaRecord
from pylog.records import TopicPartition as Place

if TYPE_CHECKING:
    from pylog.kafka.engine import KafkaEngine

RECORDS_AT_ONCE = 1000
POLL_SECONDS = 0.1


def read_to_end(engine: KafkaEngine, topic: str, partition: int | None, offset: int | None) -> Iterator[Any]:
    """Check the arguments now, and return the iterator over what is there now."""
    count = engine._topics.look(topic)
    if partition is None:
        if offset is not None and count > 1:
            raise ConfigError(f"offset={offset} needs a partition: topic {topic!r} has {count}")
        places = [Place(topic, p) for p in range(count)]
    else:
        places = [Place(topic, engine._topics.check_partition(topic, partition))]
    if offset is not None:
        engine._offsets.check(places[0], offset)
    first = dict.fromkeys(places, offset) if offset is not None else engine._offsets.beginnings(places)
    ends = engine._offsets.ends(places)
    spans = {place: (first[place] or 0, ends[place]) for place in places}
    return records_of(engine, spans)


def records_of(engine: KafkaEngine, spans: dict[Place, tuple[int, int]]) -> Iterator[KafkaRecord]:
    """Yield the records of each partition from where to where."""
    wanted = {place: span for place, span in spans.items() if span[0] < span[1]}
    if not wanted:
        return
    with failures("reading"):
        client = Consumer(engine._consuming({"enable.partition.eof": True, "group.id": nobody()}))
    try:
        for place, (first, end) in wanted.items():
            client.assign([TopicPartition(place.topic, place.partition, first)])
            yield from until(engine, client, place, end)
    finally:
        client.close()


def until(engine: KafkaEngine, client: Any, place: Place, end: int) -> Iterator[KafkaRecord]:
    """Yield what the client reads of the one partition that it is assigned, up to an offset."""
    while True:
        if engine.closed:
            raise ClosedError("the engine was closed while it was read")
        # one that is there, with what else is there: to wait for a thousand would be to wait at the end
        first = client.poll(POLL_SECONDS)
        if first is None:
            continue
        for message in [first, *client.consume(RECORDS_AT_ONCE, 0)]:
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise failure_of(error, f"reading {place.topic}-{place.partition}")
                # the end of the log, that may hold fewer records than offsets
                if message.offset() >= end:
                    return
                continue
            if message.offset() >= end:
                return
            yield KafkaRecord(message)
            if message.offset() + 1 == end:
                return


def nobody() -> str:
    """Return the name of a group that no other client has: librdkafka wants one from every consumer."""
    return f"pylog-{uuid.uuid4().hex}"
