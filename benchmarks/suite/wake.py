"""How long until a sleeping process has the record: from just before the append to its poll's return.

The value carries the writer's CLOCK_MONOTONIC, which all processes of a machine share. The pause between
two records is slept or burned, as the bare futex's is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import probe
from benchmarks.contest import Operation, Timed, Timing
from benchmarks.probe.operations import PING_INTERVAL, percentiles
from benchmarks.processes import children
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic, open_engine
from benchmarks.workload import Workload


def wake_up(busy: bool) -> Operation:
    """A consumer in another process sleeps in poll() and is woken by `engine.append`."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        pause = probe.load("waits").spin if busy else time.sleep
        padding = bytes(work.size - 8)
        with (
            engine_with_topic(directory, TopicShape()) as engine,
            children(1, sleeping_consumer, directory, work.count) as (sleeper,),
        ):

            def timed() -> Timing:
                append, clock = engine.append, time.monotonic_ns
                for _ in range(work.count):
                    pause(PING_INTERVAL)
                    append(TOPIC, clock().to_bytes(8, "little") + padding)
                return percentiles(sleeper.receive())

            yield timed

    return operation


def sleeping_consumer(number: int, directory: Path, count: int, pipe: Connection) -> None:
    """The other process: poll, note the delay, poll again."""
    delays: list[float] = []
    clock = time.monotonic_ns
    with open_engine(directory) as engine, engine.consumer() as consumer:
        consumer.assign([(TOPIC, 0)])
        consumer.seek_to_beginning()
        pipe.send("ready")
        while len(delays) < count:
            records = consumer.poll(10, timeout=5.0)
            now = clock()
            delays += [(now - int.from_bytes(record.value[:8], "little")) / 1e9 for record in records]
        pipe.send(delays)
