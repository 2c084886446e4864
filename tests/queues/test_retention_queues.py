"""19a: retention can be told to wait for a queue, as it waits for groups."""

from __future__ import annotations

from pathlib import Path

from taking import AT_ONCE

import pylog

SEGMENT_BYTES = 16 << 10


def topic_of(engine: pylog.Engine, *groups: str) -> None:
    """A topic of 100 records of 1000 bytes, in several segments."""
    engine.create_topic("orders", segment_bytes=SEGMENT_BYTES, retention_groups=groups)
    for n in range(100):
        engine.append("orders", b"%03d" % n + bytes(997))
    engine.sync()


def finish(engine: pylog.Engine, queue: str, count: int) -> None:
    with engine.queue(queue, topic="orders", retry=AT_ONCE) as jobs:
        batch = jobs.get_many(count, 0)
        jobs.ack_many(batch)


def log_start(engine: pylog.Engine) -> int:
    engine.clean("orders")
    return engine.log_start_offset("orders", 0)


def test_19a_what_a_queue_has_not_finished_stays(engine: pylog.Engine) -> None:
    topic_of(engine, "shipping")
    assert log_start(engine) == 0
    finish(engine, "shipping", 40)
    first = log_start(engine)
    assert 20 < first <= 40
    with engine.queue("shipping") as shipping:
        held = shipping.get(0)
        assert held is not None
        shipping.ack_many(shipping.get_many(100, 0))
        held.nack(3600.0)
        assert shipping.qsize() == 1
    assert log_start(engine) <= 40, "one that is delayed is waited for"


def test_19a_queues_and_groups_are_waited_for_alike(engine: pylog.Engine) -> None:
    topic_of(engine, "shipping", "billing")
    finish(engine, "shipping", 100)
    assert log_start(engine) == 0
    with engine.consumer("orders", group="billing", auto_offset_reset="earliest", timeout=0) as consumer:
        assert len(list(consumer)) == 100
        consumer.commit()
    assert log_start(engine) > 60


def test_19a_a_queue_of_that_name_over_another_topic_counts_for_nothing(
    engine: pylog.Engine, data: Path
) -> None:
    topic_of(engine, "shipping")
    with engine.queue("shipping") as other:
        other.put(b"a")
        other.purge()
    assert log_start(engine) == 0
    assert (data / "queues" / "shipping" / "floor.offsets").exists()
