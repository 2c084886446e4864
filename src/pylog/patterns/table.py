"""Table: a compacted topic as a mapping in memory, the last value of each key.

Nothing is stored: it is read from the topic when it is opened, and follows it. Invariant: it is the fold of
the records below its positions; a tombstone removes its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from pylog.clock import Clock, Deadline, SystemClock
from pylog.config import check_seconds
from pylog.engine import Engine
from pylog.errors import LogTruncatedError, RequestTimeoutError
from pylog.eventsourcing.projections import Lag, places_of
from pylog.records import TopicPartition
from pylog.serdes import Serde

AT_ONCE = 5000


class Table(Mapping[Any, Any]):
    """The last value of each key of a topic. Belongs to one thread.

    Args:
        engine: Whose topic it is.
        topic: Its name; cleanup_policy="compact" keeps it as small as the table.
        key_serde: "bytes", "str", "json" or an object with serialize and deserialize; keys are hashable.
        value_serde: The same for values.
    """

    def __init__(
        self,
        engine: Engine,
        topic: str,
        *,
        key_serde: str | Serde | None = None,
        value_serde: str | Serde | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.engine, self.topic, self.clock = engine, topic, clock or SystemClock()
        self._rows: dict[Any, Any] = {}
        self._uuid = ""
        self._partitions: list[TopicPartition] = []
        self._consumer = engine.consumer(
            auto_offset_reset="earliest",
            on_truncate="raise",
            key_serde=key_serde,
            value_serde=value_serde,
        )
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def refresh(self, timeout: float | None = 0.0) -> int:
        """Take what is there, waiting up to `timeout` seconds for the first; how many records that were."""
        taken = 0
        self._take_partitions()
        while True:
            try:
                records = self._consumer.poll(AT_ONCE, 0.0 if taken else timeout)
            except LogTruncatedError:  # a power cut took records that rows were made of
                self._rows.clear()
                self._consumer.seek_to_beginning(self._partitions)
                continue
            if not records:
                return taken
            for record in records:
                if record.value is not None:
                    self._rows[record.key] = record.value
                else:
                    self._rows.pop(record.key, None)
            taken += len(records)

    def _take_partitions(self) -> None:
        """Follow the partitions that the topic got since; begin anew where it was made anew."""
        shape = self.engine.describe_topic(self.topic)
        if shape.uuid != self._uuid:
            self._rows.clear()
            self._uuid, self._partitions = shape.uuid, []
        if shape.partitions > len(self._partitions):
            positions = {one: self._consumer.position(one) for one in self._partitions}
            self._partitions = [TopicPartition(self.topic, number) for number in range(shape.partitions)]
            self._consumer.assign(self._partitions)
            self._consumer.seek_to_beginning(self._partitions)
            for partition, offset in positions.items():
                self._consumer.seek(partition, offset)

    def wait_for(self, token: Any, timeout: float | None = None) -> None:
        """Return when the table shows what an append returned. Raises RequestTimeoutError."""
        deadline = Deadline(self.clock, check_seconds(timeout, "timeout"))
        wanted = [(TopicPartition(place.topic, place.partition), place.offset) for place in places_of(token)]
        while any(self._consumer.position(partition) <= offset for partition, offset in wanted):
            if self.refresh(deadline.left(1.0)) == 0 and deadline.passed():
                raise RequestTimeoutError(f"the table over {self.topic} does not show {token!r} in time")

    def lag(self) -> Lag:
        """Return how far the table is behind the topic."""
        records, oldest = 0, None
        for partition, end in self._consumer.end_offsets(self._partitions).items():
            position = self._consumer.position(partition)
            if end > position:
                records += end - position
                first = next(self.engine.read(self.topic, partition.partition, position), None)
                if first is not None and (oldest is None or first.timestamp < oldest):
                    oldest = first.timestamp
        return Lag(records, 0.0 if oldest is None else max(0.0, (self.clock.time_ns() - oldest) / 1e9))

    def __getitem__(self, key: Any) -> Any:
        return self._rows[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def close(self) -> None:
        """Stop following; what is in memory stays."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
