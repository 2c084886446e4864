"""Opens pylog for the suite: one engine with one topic, as a user would have it.

The only place that knows how pylog is imported and how a topic is made; where pylog is not built, every row
of it is skipped with one clear line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.contest import SkippedError
from benchmarks.workload import Workload

TOPIC = "t"


@dataclass(frozen=True)
class TopicShape:
    """How the topic of an operation is made."""

    partitions: int = 1
    codec: Literal["raw", "zstd"] = "raw"
    durability: Literal["os", "interval", "sync"] = "os"
    segment_bytes: int | None = None

    def options(self) -> dict[str, Any]:
        """What create_topic is given."""
        options: dict[str, Any] = {"partitions": self.partitions, "durability": self.durability}
        if self.codec == "zstd":
            options["compression_type"] = "zstd"
        if self.segment_bytes is not None:
            options["segment_bytes"] = self.segment_bytes
        return options


def open_engine(directory: Path) -> Any:
    """pylog.open, or SkippedError where there is no pylog."""
    try:
        import pylog

        return pylog.open(data_directory(directory))
    except ImportError as error:
        raise SkippedError(f"pylog is skipped: it is not built ({error})") from None


def open_producer(engine: Any) -> Any:
    """engine.producer, or SkippedError where that part of pylog is not built."""
    try:
        return engine.producer()
    except ImportError as error:
        raise SkippedError(f"producer.send is skipped: it is not built ({error})") from None


def data_directory(directory: Path) -> Path:
    """Where pylog's data lies within the directory of a turn."""
    return directory / "pylog"


@contextmanager
def engine_with_topic(directory: Path, shape: TopicShape) -> Iterator[Any]:
    """An open engine with a new topic."""
    with open_engine(directory) as engine:
        engine.create_topic(TOPIC, **shape.options())
        yield engine


def write_topic(directory: Path, shape: TopicShape, work: Workload) -> None:
    """Write the whole workload into a new topic and close the engine again."""
    with engine_with_topic(directory, shape) as engine:
        for values, keys in work.calls:
            engine.append_many(TOPIC, values, keys=keys)
