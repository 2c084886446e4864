"""Appending without a sync: send, append, append_many of lists and of columns.

The Python loop is the same as the ceiling's and the peers': same zip, same keyword, records of the same
lists. Opening and closing are outside the clock; flushing is inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contest import Operation, SkippedError, Timed
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic, open_producer
from benchmarks.workload import Columns, Workload


def send(shape: TopicShape) -> Operation:
    """`Producer.send` record by record, and the flush that makes the last of them visible."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        values, keys = work.values, work.keys
        with engine_with_topic(directory, shape) as engine, open_producer(engine) as producer:

            def timed() -> None:
                send = producer.send
                for key, value in zip(keys, values, strict=True):
                    send(TOPIC, value, key=key)
                producer.flush()

            yield timed

    return operation


def append(shape: TopicShape) -> Operation:
    """`engine.append`, one record visible on each return."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        values, keys = work.values, work.keys
        with engine_with_topic(directory, shape) as engine:

            def timed() -> None:
                append = engine.append
                for key, value in zip(keys, values, strict=True):
                    append(TOPIC, value, key=key)

            yield timed

    return operation


def append_many(shape: TopicShape) -> Operation:
    """`engine.append_many` of lists."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        calls = work.calls
        with engine_with_topic(directory, shape) as engine:

            def timed() -> None:
                append_many = engine.append_many
                for values, keys in calls:
                    append_many(TOPIC, values, keys=keys)

            yield timed

    return operation


def append_columns(shape: TopicShape) -> Operation:
    """`engine.append_many` of numpy columns: offsets i32[n+1] and bytes."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        calls = work.columns
        with engine_with_topic(directory, shape) as engine:

            def timed() -> None:
                append_many = engine.append_many
                for values, keys in calls:
                    append_many(TOPIC, values, keys=keys)

            yield timed

    return operation


def append_arrow(shape: TopicShape) -> Operation:
    """`engine.append_many` of pyarrow BinaryArrays over the same columns."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        calls = [(arrow(values), arrow(keys)) for values, keys in work.columns]
        with engine_with_topic(directory, shape) as engine:

            def timed() -> None:
                append_many = engine.append_many
                for values, keys in calls:
                    append_many(TOPIC, values, keys=keys)

            yield timed

    return operation


def arrow(columns: Columns) -> object:
    """A BinaryArray that views the given columns."""
    try:
        import pyarrow  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise SkippedError("Arrow columns are skipped: the package `pyarrow` is not installed") from None
    offsets, data = columns
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(data)]
    return pyarrow.Array.from_buffers(pyarrow.binary(), len(offsets) - 1, buffers)
