"""What the processes of the group chaos test do: produce, and consume as members of one group."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pylog
from faults.journal import Journal

TOPIC, GROUP = "t", "g"


def create(directory: str, partitions: int) -> None:
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, partitions=partitions, durability="os")


def produce(directory: str, journal: str, name: str, records: int) -> None:
    """Append so many records, each with a name of its own, and say so once they are in."""
    said, rng = Journal(Path(journal), name), random.Random(name)
    with pylog.open(directory) as engine:
        for number in range(records):
            value = f"{name}-{number}"
            engine.append(TOPIC, value.encode(), key=b"%d" % rng.randrange(1000))
            said.say("sent", value=value)
            time.sleep(0.001)


def consume(
    directory: str,
    journal: str,
    name: str,
    idle: float | None = None,
    busy: float = 0.05,
    **options: Any,
) -> None:
    """Handle records, then commit them, until killed, or until nothing came for `idle` seconds.

    SIGTERM makes it leave in good order. The work on what one poll gave takes `busy` seconds.
    """
    said = Journal(Path(journal), name)
    told_to_leave: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told_to_leave.append(number))

    def assigned(places: list[pylog.TopicPartition]) -> None:
        for place in places:
            generation, position = consumer._coordinator.held[place], consumer.position(place)
            said.say("assigned", p=place.partition, generation=generation, position=position)

    with pylog.open(directory) as engine:
        consumer: Any = engine.consumer(
            group=GROUP, auto_offset_reset="earliest", on_assign=assigned, **options
        )
        consumer.subscribe(TOPIC)
        said.say("joined", pid=os.getpid())
        last = time.monotonic()
        while not told_to_leave and (idle is None or time.monotonic() - last < idle):
            try:
                records = consumer.poll(20, timeout=0.05)
            except pylog.LockTimeoutError:  # a stopped member holds the group: ask again
                continue
            if records:
                last = time.monotonic()
                work(consumer, said, records, busy)
        consumer.close()


def work(consumer: Any, said: Journal, records: list[pylog.Record], busy: float) -> None:
    held = dict(consumer._coordinator.held)
    handled = [
        [r.partition, r.offset, held[TOPIC, r.partition], (r.value or b"").decode()] for r in records
    ]
    said.say("handled", records=handled)
    time.sleep(busy)  # the work: whoever is stopped in it wakes up as a zombie that is about to commit
    offsets = {place: consumer.position(place) for place in held if place in consumer.assignment()}
    try:
        consumer.commit(offsets)
    except pylog.IllegalGenerationError:
        said.say("fenced")
        return
    committed = [[place.partition, offset, held[place]] for place, offset in offsets.items()]
    said.say("committed", offsets=committed)
