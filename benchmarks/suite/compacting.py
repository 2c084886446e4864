"""Compaction of a topic, beside a copy of the files that it reads: what the machine can do at most.

Either is on disk in the end. `megabytes_per_s` counts what is read; where each key has one record all of it
is written again, else next to nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contest import Contest, Contestant, Goal, Operation, Row, Timed, Timing
from benchmarks.suite.opening import TOPIC, data_directory, open_engine
from benchmarks.workload import Workload, workload
from logcore.key_map import KeyMap

SEGMENT_BYTES = 16 << 20
COPY_BYTES = 1 << 20
MAP_BYTES = 1 << 30


@contextmanager
def written(directory: Path, work: Workload, *, own_keys: bool) -> Iterator[Any]:
    """An engine with a topic to be compacted, all in sealed segments but for the last."""
    with open_engine(directory) as engine:
        options: dict[str, Any] = {"cleanup_policy": "compact", "min_compaction_lag_ms": 3_600_000}
        engine.create_topic(TOPIC, durability="os", segment_bytes=SEGMENT_BYTES, **options)
        number = 0
        for values, keys in work.calls:
            given = [b"%08d" % key for key in range(number, number + len(keys))] if own_keys else keys
            engine.append_many(TOPIC, values, keys=given)
            number += len(keys)
        engine.sync()
        yield engine


def log_files(directory: Path) -> list[Path]:
    """All segments, in order."""
    return sorted((data_directory(directory) / "topics" / TOPIC / "0").glob("*.log"))


def timing(started: float, size: int) -> Timing:
    """Seconds, and how many megabytes each took."""
    seconds = time.perf_counter() - started
    return Timing(seconds, {"megabytes_per_s": size / seconds / 1e6})


def compact(*, own_keys: bool) -> Operation:
    """engine.clean(now=True): the active segment too."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with written(directory, work, own_keys=own_keys) as engine:
            size = sum(path.stat().st_size for path in log_files(directory))

            def timed() -> Timing:
                started = time.perf_counter()
                engine.clean(TOPIC, now=True)
                return timing(started, size)

            yield timed

    return operation


@contextmanager
def copy(directory: Path, work: Workload) -> Iterator[Timed]:
    """Read each segment and write it to another file, which is synced."""
    with written(directory, work, own_keys=False):
        paths = log_files(directory)
        size = sum(path.stat().st_size for path in paths)

        def timed() -> Timing:
            started = time.perf_counter()
            for path in paths:
                copied = path.with_suffix(".copy")
                with path.open("rb", buffering=0) as source, copied.open("xb", buffering=0) as target:
                    while piece := source.read(COPY_BYTES):
                        target.write(piece)
                    os.fsync(target.fileno())
            return timing(started, size)

        yield timed


def map_keys(*, own_keys: bool) -> Operation:
    """The first pass of compaction by itself: a map made, and each record's key put into it with its offset.

    The batches were read and verified before.
    """

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with written(directory, work, own_keys=own_keys) as engine:
            with engine.consumer(TOPIC, auto_offset_reset="earliest") as consumer:
                batches = list(consumer.batches(timeout=0))

            def timed() -> Timing:
                started = time.perf_counter()
                keys = KeyMap(work.count, MAP_BYTES)
                for batch in batches:
                    keys.put_batch(batch)
                seconds = time.perf_counter() - started
                return Timing(seconds, {"keys": keys.count})

            yield timed

    return operation


def key_map(count: int) -> Contest:
    """Few keys, whose entries stay in the cache, and a key for each record, whose entries are fetched."""
    work = workload(100, count)
    goal = Goal(least=15e6)
    return Contest(
        name="key map",
        size=100,
        codec="raw",
        durability="-",
        contestants=(
            Contestant("few keys", map_keys(own_keys=False), work),
            Contestant("a key each", map_keys(own_keys=True), work),
        ),
        rows=(
            Row("compaction's key map, 10,000 keys", "few keys", goal=goal),
            Row("compaction's key map, a key for each record", "a key each", goal=goal),
        ),
    )


def compacting(count: int) -> Contest:
    """Few keys, of which 1 % of the records stay, and a key for each record, of which all stay."""
    work = workload(100, count)
    return Contest(
        name="compaction",
        size=100,
        codec="raw",
        durability="os",
        contestants=(
            Contestant("copy of the files", copy, work),
            Contestant("few keys", compact(own_keys=False), work),
            Contestant("a key each", compact(own_keys=True), work),
        ),
        rows=(
            Row("compact, 10,000 keys", "few keys", "copy of the files"),
            Row("compact, a key for each record", "a key each", "copy of the files"),
        ),
        rounds=3,
        warm_up=False,
    )
