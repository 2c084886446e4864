"""What putting needs beside an append: headers in any form, many partitions, and puts that are made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pylog.engine import Engine, Headers, Producer
from pylog.errors import FencedError, PartialAppendError, PylogError
from pylog.records import RecordId

LINGER_MS = 60_000.0
"""Each put flushes by itself: nobody else is to be told what became of it."""


class SequencedPuts:
    """Puts of an idempotent producer, each on its own: what failed is not in, and not kept."""

    def __init__(self, engine: Engine, topic: str, producer_id: str) -> None:
        self._engine, self._topic, self._id = engine, topic, producer_id
        self._lock = threading.Lock()
        self._delivered: list[RecordId] = []
        self._producer: Producer | None = None
        self._opened()

    def _opened(self) -> Producer:
        if self._producer is None:
            self._producer = self._engine.producer(
                producer_id=self._id, linger_ms=LINGER_MS, on_delivery=self._note
            )
        return self._producer

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
            producer = self._opened()
            producer.send(self._topic, value, key, partition, headers, None, sequence)
            try:
                producer.flush()
            except FencedError:
                raise  # who has the id now keeps it
            except PylogError:
                # what it keeps would be in with a later one, though its caller was told that it is not
                self._producer = None
                producer.close()  # tries once more, and raises what stands against it
                if not self._delivered:
                    raise  # there was nothing to keep, as of a topic that was deleted
            return self._delivered[0] if self._delivered else None

    def resume_from(self) -> int:
        """Return the first sequence that may be missing."""
        with self._lock:
            return self._opened().resume_from(self._topic)

    def close(self) -> None:
        """End."""
        with self._lock:
            if self._producer is not None:
                self._producer.close()


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
