"""Many partitions in a process with few files: each is written and read once.

Notes say what it takes at the most: open files, mappings, disk. A process of its own has the limit.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.contest import Timed, Timing
from benchmarks.processes import children
from benchmarks.suite.opening import TOPIC, TopicShape, data_directory, engine_with_topic
from benchmarks.workload import Workload

FILES = 1024
LOOK_EVERY = 500


@contextmanager
def few_files(directory: Path, work: Workload) -> Iterator[Timed]:
    """One record into each of `work.count` partitions, and back, under `ulimit -n 1024`."""
    with children(1, write_and_read, directory, work) as (process,):

        def timed() -> Timing:
            process.send("go")
            seconds, files, maps = process.receive()
            return Timing(seconds, {"files": files, "maps": maps, "disk_mb": disk_megabytes(directory)})

        yield timed


def write_and_read(number: int, directory: Path, work: Workload, pipe: Connection) -> None:
    """The process with the limit."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    files = maps = 0
    with engine_with_topic(directory, TopicShape(partitions=work.count)) as engine:
        pipe.send("ready")
        pipe.recv()
        started = time.perf_counter()
        for partition in range(work.count):
            engine.append(TOPIC, work.values[partition], partition=partition)
            if partition % LOOK_EVERY == 0:
                files, maps = max(files, open_files()), max(maps, mappings())
        for partition in range(work.count):
            (record,) = engine.read(TOPIC, partition=partition, offset=0)
            if record.value != work.values[partition]:
                raise AssertionError(f"partition {partition} gives another record than was put in")
            if partition % LOOK_EVERY == 0:
                files, maps = max(files, open_files()), max(maps, mappings())
        seconds = time.perf_counter() - started
    pipe.send((seconds, float(files), float(maps)))


def open_files() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def mappings() -> int:
    """Mappings of this process."""
    return len(Path("/proc/self/maps").read_text().splitlines())


def disk_megabytes(directory: Path) -> float:
    """Blocks that the data directory takes."""
    return sum(path.lstat().st_blocks for path in data_directory(directory).rglob("*")) * 512 / 1e6
