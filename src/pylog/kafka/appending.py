"""append and append_many: produce, and wait until the brokers have said where each record is.

Invariant: all records of a call are checked before the first is produced.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pylog.errors import ConfigError, PartialAppendError, PylogError
from pylog.kafka.deliveries import Deliveries
from pylog.kafka.failures import failure_of
from pylog.kafka.record import check_bytes, header_list, milliseconds_of
from pylog.kafka.topics import KafkaTopics
from pylog.records import RecordId

if TYPE_CHECKING:
    from pylog.engine import Headers, Values

FULL_SECONDS = 0.1

Checked = tuple[bytes | None, bytes | None, int, list[tuple[str, bytes | None]], int]
"""(value, key, partition or -1, headers, milliseconds)."""


class Appender:
    """The producing client of an engine, made when it is first needed. Threads may share it."""

    def __init__(self, topics: KafkaTopics, options: dict[str, Any]) -> None:
        self._topics = topics
        self._options = options
        self._lock = threading.Lock()
        self._client: Deliveries | None = None
        self.appended = 0

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        headers: Headers | None,
        timestamp: int | None,
    ) -> RecordId:
        """Append one record; see KafkaEngine.append."""
        place = self._place(topic, partition)
        record = (
            check_bytes(value, "value"), check_bytes(key, "key"), place,
            header_list(headers), milliseconds_of(timestamp),
        )  # fmt: skip
        (found,) = self._delivered(topic, [record])
        if isinstance(found, PylogError):
            raise found
        return found

    def append_many(
        self,
        topic: str,
        values: Values,
        keys: Values | None,
        partition: int | None,
        timestamps: Any,
        headers: Sequence[Headers | None] | None,
    ) -> list[RecordId]:
        """Append many records; see KafkaEngine.append_many."""
        place = self._place(topic, partition)
        column = listed(values, "values")
        count = len(column)
        aligned = [
            [None] * count if given is None else listed(given, name)
            for given, name in ((keys, "keys"), (headers, "headers"), (timestamps, "timestamps"))
        ]
        for given, name in zip(aligned, ("keys", "headers", "timestamps"), strict=True):
            if len(given) != count:
                raise ValueError(f"{name} has {len(given)} entries for {count} values")
        records = [
            (
                check_bytes(value, "value"), check_bytes(key, "key"), place,
                header_list(pairs), milliseconds_of(time),
            )
            for value, key, pairs, time in zip(column, *aligned, strict=True)
        ]  # fmt: skip
        found = self._delivered(topic, records)
        failed = [one for one in found if isinstance(one, PylogError)]
        appended = [one for one in found if isinstance(one, RecordId)]
        if failed and appended:
            raise PartialAppendError(
                f"{len(failed)} of {count} records are not in: {failed[0]}", appended=appended
            ) from failed[0]
        if failed:
            raise failed[0]
        return appended

    def _place(self, topic: str, partition: int | None) -> int:
        if partition is not None:
            return self._topics.check_partition(topic, partition)
        self._topics.partitions_of(topic)
        return -1

    def _delivered(self, topic: str, records: Sequence[Checked]) -> list[RecordId | PylogError]:
        """Produce all and wait for a report of each: its place, or why it is not in."""
        client = self._ready()
        found: dict[int, RecordId | PylogError] = {}

        def report(number: int, error: Any, message: Any) -> None:
            if error is None:
                found[number] = RecordId(topic, message.partition(), message.offset())
            else:
                found[number] = failure_of(error, f"appending to {topic!r}")

        for number, record in enumerate(records):
            while True:
                try:
                    client.produce(topic, *record, partial(report, number))
                    break
                except BufferError:
                    client.flush(FULL_SECONDS)
                except PylogError as error:
                    found[number] = error
                    break
        client.wait(lambda: len(found) == len(records))
        self.appended += sum(isinstance(one, RecordId) for one in found.values())
        return [found[number] for number in range(len(records))]

    def _ready(self) -> Deliveries:
        with self._lock:
            if self._client is None:
                self._client = Deliveries(self._options)
            return self._client


def listed(given: Any, name: str) -> list[Any]:
    """Return a column of any kind as a list.

    Raises:
        TypeError: it is neither a sequence, nor a pair of columns, nor an array.
        ConfigError: the offsets of a pair of columns do not fit its bytes.
    """
    if isinstance(given, str | bytes):
        raise TypeError(f"{name} is a list, a pair of columns or an array, not {type(given).__name__}")
    if (
        isinstance(given, tuple)
        and len(given) == 2
        and not all(isinstance(one, bytes | None) for one in given)
    ):
        offsets, data = memoryview(given[0]).tolist(), memoryview(given[1]).cast("B")
        if not offsets or offsets[0] < 0 or offsets[-1] > len(data) or sorted(offsets) != offsets:
            raise ConfigError(f"the offsets of {name} rise from 0 to the number of bytes, {len(data)}")
        return [bytes(data[a:b]) for a, b in pairwise(offsets)]
    for convert in ("to_pylist", "to_list", "tolist"):
        if hasattr(given, convert):
            return list(getattr(given, convert)())
    try:
        return list(given)
    except TypeError:
        raise TypeError(
            f"{name} is a list, a pair of columns or an array, not {type(given).__name__}"
        ) from None
