"""What a queue keeps on disk, in `queues/<queue>/`: options, floor, and a delivery table for each partition.

Not leasing. Invariant: the options are stored whole before the first table is made, and they never change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from logcore.deliveries import DeliveryTable
from logcore.offsets import OffsetTable
from logcore.topic_log import TopicLog
from logcore.whole_files import locked_directory, make_directory, open_plain, place_file
from pylog.embedded.directory import check_real_directory
from pylog.embedded.topic import checksum_of
from pylog.errors import CorruptionError, PylogError, TopicConfigError, UnknownTopicError
from pylog.queue_options import QueueConfig, queue_config, queue_differences

if TYPE_CHECKING:
    from pylog.embedded.opened import OpenDirectory

LARGEST_DOCUMENT = 1 << 20


class QueueDocument(NamedTuple):
    """What is stored with a queue."""

    topic: str
    config: QueueConfig
    notes: dict[str, Any]


class QueueFiles:
    """The directory of one queue."""

    def __init__(self, engine: OpenDirectory, queue: str) -> None:
        self._engine = engine
        self.queue = queue
        self.directory = f"{engine.path}/queues/{queue}"
        self._path = f"{self.directory}/queue.json"

    def load(self) -> QueueDocument | None:
        """Return what is stored, None where the queue was never opened. Raises CorruptionError."""
        return load_queue(self._engine.path, self.queue)

    def open(
        self, topic: str | None, given: Mapping[str, object], notes: Mapping[str, Any] | None
    ) -> QueueDocument:
        """Return what is stored where it agrees with what is given; else store that.

        Raises:
            TopicConfigError: it is stored otherwise.
            UnknownTopicError: there is no such topic.
        """
        stored = self.load()
        if stored is None and self._engine.read_only:
            raise UnknownTopicError(f"there is no queue {self.queue!r}")
        if stored is None:
            make_directory(self.directory)
            with locked_directory(self.directory) as fd:
                stored = self.load()
                if stored is None:
                    return self._store(fd, topic or self.queue, queue_config(given), dict(notes or {}))
        differences = queue_differences(stored.config, given)
        if topic is not None and topic != stored.topic:
            differences["topic"] = (stored.topic, topic)
        for name, value in (notes or {}).items():
            if stored.notes.get(name) != value:
                differences[name] = (stored.notes.get(name), value)
        if differences:
            said = ", ".join(f"{name}={was!r}, not {is_!r}" for name, (was, is_) in differences.items())
            raise TopicConfigError(
                f"queue {self.queue!r} has {said}: leave an option out to take what is stored",
                topic=stored.topic,
                differences=differences,
            )
        return stored

    def _store(self, fd: int, topic: str, config: QueueConfig, notes: dict[str, Any]) -> QueueDocument:
        self._engine._log(topic)
        content = {"topic": topic, "config": asdict(config), "notes": notes}
        text = json.dumps({**content, "checksum": checksum_of(content)}, indent=1)
        place_file(fd, "queue.json", text.encode() + b"\n", self._path)
        return QueueDocument(topic, config, notes)

    def floors(self, log: TopicLog) -> OffsetTable:
        """Open the table of offsets below which all records are finished: where a lost table begins again."""
        return OffsetTable(
            floor_path(self._engine.path, self.queue), log.uuid, log.partitions, self._engine._registry
        )

    def table(self, log: TopicLog, partition: int, config: QueueConfig, floors: OffsetTable) -> DeliveryTable:
        """Open the delivery table of a partition."""
        floor = None
        with suppress(CorruptionError):  # both copies: begin at the beginning
            committed = floors.committed(partition)
            floor = None if committed is None else (committed[0], committed[1])
        return DeliveryTable(
            f"{self.directory}/{partition}.deliveries",
            log,
            partition,
            self._engine._registry,
            by_key=config.order == "key",
            floor=floor,
            visibility_timeout=config.visibility_timeout,
            max_processing=config.max_processing,
        )


def load_queue(root: str, queue: str) -> QueueDocument | None:
    """Return what is stored with a queue, None where it was never opened.

    Raises:
        CorruptionError: it is damaged.
    """
    directory = f"{root}/queues/{queue}"
    check_real_directory(f"{root}/queues")
    check_real_directory(directory)
    path = f"{directory}/queue.json"
    try:
        fd = open_plain(None, path, path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        content = os.read(fd, LARGEST_DOCUMENT)
    finally:
        os.close(fd)
    try:
        found = json.loads(content)
        if found.pop("checksum") != checksum_of(found):
            raise ValueError("its checksum does not fit")
        return QueueDocument(str(found["topic"]), queue_config(found["config"]), dict(found["notes"]))
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError, PylogError) as error:
        raise CorruptionError(f"{path} is damaged: {error}", path=path) from None


def floor_path(root: str, queue: str) -> str:
    """Return where it stands below which offsets a queue has finished everything."""
    return f"{root}/queues/{queue}/floor.offsets"


def commit_floor(floors: OffsetTable, table: DeliveryTable) -> None:
    """Note how far everything of a partition is finished."""
    offset, epoch = table.floor()
    try:
        if floors.committed(table.partition) == (offset, epoch, b""):
            return
    except CorruptionError:
        floors.forget(table.partition)
    floors.commit(table.partition, offset, epoch, 0)


def queue_with_levels(root: str, topic: str) -> str | None:
    """Return a queue over a topic whose partitions are its priority levels, None where there is none."""
    for queue in list_queues(root):
        with suppress(CorruptionError):  # of that one nobody knows what it works
            found = load_queue(root, queue)
            if found is not None and found.topic == topic and found.config.priorities > 1:
                return queue
    return None


def list_queues(root: str) -> list[str]:
    """Return the names of the queues of a data directory, sorted."""
    try:
        return sorted(path.parent.name for path in Path(root, "queues").glob("*/queue.json"))
    except FileNotFoundError:
        return []
