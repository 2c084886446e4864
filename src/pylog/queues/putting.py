"""What putting needs beside an append: headers in any form, many partitions, and puts that are made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pylog.engine import Engine, Headers
from pylog.errors import PartialAppendError
from pylog.records import RecordId


class SequencedPuts:
    """Puts of an idempotent producer, each on its own."""

    def __init__(self, engine: Engine, topic: str, producer_id: str) -> None:
        self._topic = topic
        self._lock = threading.Lock()
        self._delivered: list[RecordId] = []
        self.producer = engine.producer(producer_id=producer_id, linger_ms=0, on_delivery=self._note)

    def _note(self, ids: Sequence[RecordId], error: BaseException | None) -> None:
        self._delivered = list(ids)

    def put(
        self,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        headers: Headers | None,
        sequence: int,
    ) -> RecordId | None:
        """Append one record; None where its sequence is in already."""
        with self._lock:
            self._delivered = []
            self.producer.send(self._topic, value, key, partition, headers, None, sequence)
            self.producer.flush()
            return self._delivered[0] if self._delivered else None


def put_at(
    engine: Engine,
    topic: str,
    places: Sequence[int | None],
    values: Sequence[Any],
    keys: Sequence[bytes | None] | None,
    headers: Headers | None,
) -> list[RecordId]:
    """Append each record to its partition, with the same headers.

    Raises:
        PartialAppendError: a later partition refused; `appended` has what is in.
    """
    found: dict[int, RecordId] = {}
    for place in dict.fromkeys(places):
        rows = [row for row, where in enumerate(places) if where == place]
        try:
            ids = engine.append_many(
                topic,
                [values[row] for row in rows],
                None if keys is None else [keys[row] for row in rows],
                partition=place,
                headers=None if headers is None else [headers] * len(rows),
            )
        except Exception as error:
            if not found:
                raise
            there = [*found.values(), *getattr(error, "appended", ())]
            raise PartialAppendError(f"{len(there)} records are in: {error}", appended=there) from error
        found.update(zip(rows, ids, strict=True))
    return [found[row] for row in range(len(values))]


def pairs(headers: Headers | None) -> Iterable[tuple[str, bytes | None]]:
    """Return headers as pairs, however they were given."""
    if headers is None:
        return ()
    items: Callable[[], Iterable[tuple[str, bytes | None]]] | None = getattr(headers, "items", None)
    return headers if items is None else items()  # type: ignore[return-value]
