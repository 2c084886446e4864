"""One producing client of librdkafka, shared by the threads that wait for its reports.

librdkafka batches, compresses, retries and keeps the order; this calls it and waits. Invariant: each report
is handed to its record once, by whichever thread polls, and whoever waits for it is woken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException, Producer

from pylog.kafka.failures import failure_of, failures

POLL_SECONDS = 0.1

Report = Callable[[Any, Any], None]
"""Called with the KafkaError or None, and the message."""


class Deliveries:
    """Produces records. Threads may share it."""

    def __init__(self, options: dict[str, Any]) -> None:
        with failures("opening a producer"):
            self._client: Any = Producer(options)
        self._turn = threading.Condition()
        self._polling = False

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        headers: list[tuple[str, bytes | None]],
        timestamp: int,
        report: Report,
    ) -> None:
        """Hand a record to librdkafka. Raises BufferError where its buffer is full."""
        try:
            self._client.produce(
                topic, value, key, partition, on_delivery=report, timestamp=timestamp, headers=headers
            )
        except KafkaException as exception:
            raise failure_of(exception.args[0], f"producing to {topic!r}") from exception

    def serve(self) -> None:
        """Hand over the reports that are there."""
        self._client.poll(0)

    def wait(self, done: Callable[[], bool]) -> None:
        """Return when `done`, which a report makes true; each record has one within its delivery timeout."""
        with self._turn:
            while not done():
                if self._polling:
                    # who polls wakes all, since it may have served the report of another
                    self._turn.wait()
                    continue
                self._polling = True
                self._turn.release()
                try:
                    self._client.poll(POLL_SECONDS)
                finally:
                    self._turn.acquire()
                    self._polling = False
                    self._turn.notify_all()

    def flush(self, seconds: float) -> int:
        """Send what lingers, wait for reports for so long at most, and return how many are still out."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            # in slices, so that Ctrl-C is served
            out: int = self._client.flush(max(0.0, min(left, POLL_SECONDS)))
            if not out or left <= POLL_SECONDS:
                return out

    def drop(self) -> None:
        """Give up on what was not delivered."""
        with failures("closing a producer"):
            self._client.purge()
        self._client.poll(0)
