"""Opening a topic of many sealed segments: after a clean close, after kill -9, and with all state rebuilt.

The clock runs from `pylog.open` until the end offset is known. What a reboot leaves behind is imitated by a
copy of the directory: its control file has another identity, so everything is recomputed from the batches.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from benchmarks.contest import Operation, Timed, Timing
from benchmarks.processes import children
from benchmarks.suite.opening import (
    TOPIC,
    TopicShape,
    data_directory,
    engine_with_topic,
    open_engine,
    write_topic,
)
from benchmarks.workload import Workload

SEGMENTS = 100
Ending = Literal["closed", "killed", "copied"]


def shape_of(work: Workload) -> TopicShape:
    """A topic that the workload cuts into about SEGMENTS sealed segments."""
    return TopicShape(segment_bytes=max(1 << 18, work.payload_bytes // SEGMENTS))


def open_after(ending: Ending) -> Operation:
    """Open the topic after the given ending and ask for its end offset."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        if ending == "closed":
            write_topic(directory, shape_of(work), work)
        else:
            write_and_die(directory, work)
        if ending == "copied":
            original = data_directory(directory)
            shutil.copytree(original, directory / "copy", symlinks=True)
            shutil.rmtree(original)
            (directory / "copy").rename(original)
        opened = []

        def timed() -> Timing:
            started = time.perf_counter()
            engine = open_engine(directory)
            end = engine.log_end_offset(TOPIC, 0)
            seconds = time.perf_counter() - started
            opened.append(engine)
            if end < work.count:
                raise AssertionError(f"{end} of {work.count} records after the topic was {ending}")
            return Timing(seconds, {"segments": count_segments(directory)})

        try:
            yield timed
        finally:
            for engine in opened:
                engine.close()

    return operation


def count_segments(directory: Path) -> float:
    """Segment files that were there to open."""
    return float(len(list(data_directory(directory).rglob("*.log"))))


def write_and_die(directory: Path, work: Workload) -> None:
    """Write the workload in a process that is then killed, by its id, while its engine is open."""
    with children(1, write_and_wait, directory, work) as (writer,):
        writer.kill()


def write_and_wait(number: int, directory: Path, work: Workload, pipe: Connection) -> None:
    """The process that is killed: it says ready when all is written, and stays."""
    with engine_with_topic(directory, shape_of(work)) as engine:
        for values, keys in work.calls:
            engine.append_many(TOPIC, values, keys=keys)
        pipe.send("ready")
        pipe.recv()
