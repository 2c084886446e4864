"""Synced appends: one at a time, and eight writers at once as threads and as processes.

Every writer appends to the same partition, so group commit is what is measured. Writers are started and
ready before the clock; it runs from the start signal to the last writer's end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.contest import Timed
from benchmarks.processes import children
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic, open_engine
from benchmarks.workload import Workload

WRITERS = 8
SHAPE = TopicShape()


def write(engine: Any, values: list[bytes], keys: list[bytes]) -> None:
    """What each writer does: on disk on return, record by record."""
    append = engine.append
    for key, value in zip(keys, values, strict=True):
        append(TOPIC, value, key=key, durability="sync")


@contextmanager
def one_writer(directory: Path, work: Workload) -> Iterator[Timed]:
    """`engine.append(durability="sync")`, one record at a time."""
    values, keys = work.values, work.keys
    with engine_with_topic(directory, SHAPE) as engine:
        yield lambda: write(engine, values, keys)


@contextmanager
def eight_threads(directory: Path, work: Workload) -> Iterator[Timed]:
    """Eight threads of one engine."""
    with engine_with_topic(directory, SHAPE) as engine:
        start = threading.Barrier(WRITERS + 1)

        def writer(number: int) -> None:
            part = share_of(number, work)
            start.wait()
            write(engine, work.values[part], work.keys[part])

        threads = [threading.Thread(target=writer, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()

        def timed() -> None:
            start.wait()
            for thread in threads:
                thread.join()

        yield timed


@contextmanager
def eight_processes(directory: Path, work: Workload) -> Iterator[Timed]:
    """Eight processes, an engine each."""
    with (
        engine_with_topic(directory, SHAPE),
        children(WRITERS, writing_process, directory, work) as writers,
    ):

        def timed() -> None:
            for writer in writers:
                writer.send("go")
            for writer in writers:
                writer.receive()

        yield timed


def share_of(number: int, work: Workload) -> slice:
    """The records of one of the eight writers."""
    share = work.count // WRITERS
    return slice(number * share, (number + 1) * share)


def writing_process(number: int, directory: Path, work: Workload, pipe: Connection) -> None:
    """One of the eight processes: ready, go, done."""
    values, keys = work.values[share_of(number, work)], work.keys[share_of(number, work)]
    with open_engine(directory) as engine:
        engine.log_end_offset(TOPIC, 0)
        pipe.send("ready")
        pipe.recv()
        write(engine, values, keys)
        pipe.send("done")
