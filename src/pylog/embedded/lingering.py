"""The one Python thread of an engine: flushes producers whose oldest record has waited for linger_ms.

It starts with the first record that lingers and ends with the engine. Invariant: it keeps no producer alive.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
import weakref
from itertools import count
from typing import Protocol

logger = logging.getLogger("pylog")

FIRST_RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 1.0


class Flushable(Protocol):
    """What the thread asks of a producer."""

    def flush_lingering(self) -> bool:
        """Flush, keep what goes wrong for the next call of the user, and return whether all was written."""


class Lingering:
    """When which producer is to be flushed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, float, weakref.ref[Flushable]]] = []
        self._turns = count()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def expect(self, producer: Flushable, seconds: float, retry: float = FIRST_RETRY_SECONDS) -> None:
        """Flush `producer` in so many seconds; where that fails, again after `retry` and ever longer."""
        entry = (time.monotonic() + seconds, next(self._turns), retry, weakref.ref(producer))
        with self._changed:
            if self._stopping:
                return
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:
                    # no thread left, or the interpreter is ending: flush, close and exit still write it
                    self._thread = None
                    logger.warning("no thread can be started to flush lingering records: %s", error)
            elif self._due[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        self._flush_until(None)

    def serve(self, seconds: float) -> bool:
        """Flush what is due now and in so many seconds: what long work on the thread calls between its steps.

        Returns False when the engine closes.
        """
        self._flush_until(time.monotonic() + seconds)
        return not self._stopping

    def _flush_until(self, until: float | None) -> None:
        while (due := self._next(until)) is not None:
            retry, found = due
            producer = found()
            if producer is not None and not producer.flush_lingering():
                self.expect(producer, retry, min(2 * retry, LONGEST_RETRY_SECONDS))
            del producer

    def _next(self, until: float | None) -> tuple[float, weakref.ref[Flushable]] | None:
        """Wait for the next producer that is due; None when the engine closes, or the time is up."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    _, _, retry, producer = heapq.heappop(self._due)
                    return retry, producer
                ends = [at for at in (until, self._due[0][0] if self._due else None) if at is not None]
                if until is not None and until <= now:
                    return None
                self._changed.wait(min(ends) - now if ends else None)
            return None

    def stop(self) -> None:
        """End the thread, after what it is doing now."""
        with self._changed:
            self._stopping = True
            self._due.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
