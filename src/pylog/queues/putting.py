"""What put() needs beside an append: headers in any form, and puts that an idempotent producer makes once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from pylog.engine import Engine, Headers
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


def pairs(headers: Headers | None) -> Iterable[tuple[str, bytes | None]]:
    """Return headers as pairs, however they were given."""
    if headers is None:
        return ()
    items: Callable[[], Iterable[tuple[str, bytes | None]]] | None = getattr(headers, "items", None)
    return headers if items is None else items()  # type: ignore[return-value]
