"""Workers: threads that handle a queue's deliveries, log what fails and go on, and drain when told to stop.

Not a scheduler: which record is next is the source's business. Invariant: run() returns when every delivery
that was begun has ended, and what was not begun burnt no attempt.
"""

from __future__ import annotations

import inspect
import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from logcore.direct_queue import Delivery
from pylog.config import check_count, check_seconds
from pylog.errors import CircuitOpenError, ClosedError, LeaseLostError, PylogError
from pylog.queues.queue import BREAKER_SECONDS, Queue

logger = logging.getLogger("pylog")

Handler = Callable[[Delivery], object]

LOOK_SECONDS = 0.25
"""How often a worker that waits for a record looks whether it is to stop."""
LONGEST_REST_SECONDS = 3600.0
TROUBLE_SECONDS = 1.0
"""The pause after the queue itself failed, as on a full disk."""


def rest_after(refused: CircuitOpenError) -> float:
    """Return the seconds that a worker rests whose handler was refused: some, also while a call is tried."""
    return min(max(refused.retry_after, BREAKER_SECONDS), LONGEST_REST_SECONDS)


class Workers:
    """The worker threads of one queue in one process. run() may be called once.

    Args:
        handler: Called with each Delivery, which ends as its block would: by return or by exception.
    """

    def __init__(self, queue: Queue, handler: Handler, *, workers: int = 1, prefetch: int = 1) -> None:
        if not callable(handler):
            raise TypeError(f"the handler is a function, not {type(handler).__name__}")
        if inspect.iscoroutinefunction(handler):
            raise TypeError(f"{handler.__qualname__} is async: nothing would await it; see pylog.aio")
        self._queue = queue
        self._handler = handler
        self._workers = check_count(workers, "workers", 1, 1024)
        self._prefetch = check_count(prefetch, "prefetch", 1, 1 << 16)
        self._stopping = threading.Event()
        self._done = threading.Semaphore(0)
        self._idled = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._in_flight = 0
        self._last = time.monotonic()
        self.handled = self.failed = 0

    def run(self, *, idle: float | None = None) -> None:
        """Handle deliveries until stop(), SIGTERM, SIGINT, or `idle` seconds without anything to do.

        In the main thread SIGTERM drains and returns, Ctrl-C drains and raises KeyboardInterrupt.
        """
        if self._stopping.is_set():
            raise ClosedError("workers run once")
        self._last = time.monotonic()
        tick = LOOK_SECONDS if idle is None else min(LOOK_SECONDS, check_seconds(idle, "idle") or 0.0)
        threads = [
            threading.Thread(
                target=self._work, args=(tick, idle), name=f"pylog-{self._queue.name}-{number}", daemon=True
            )
            for number in range(self._workers)
        ]
        previous = self._listen()
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                # not for ever: a signal that came just before would be seen when this returns
                while not self._done.acquire(timeout=LOOK_SECONDS):
                    pass
        finally:
            try:
                self._stopping.set()
                for thread in threads:
                    while thread.is_alive():
                        thread.join(LOOK_SECONDS)
            finally:  # a second Ctrl-C leaves without those that do not end
                if previous is not None:
                    signal.signal(signal.SIGTERM, previous)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Have run() finish what was begun and return; any thread, or a signal handler, may call it."""
        self._stopping.set()

    def _listen(self) -> Any:
        """Drain on SIGTERM, where this is the main thread; returns what was done before."""
        if threading.current_thread() is not threading.main_thread():
            return None

        def drain(number: int, frame: FrameType | None) -> None:
            self._stopping.set()

        return signal.signal(signal.SIGTERM, drain)

    # ---- a worker ---------------------------------------------------------------------------------------

    def _work(self, tick: float, idle: float | None) -> None:
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    deliveries = self._next(tick)
                except ClosedError:
                    break
                except PylogError:
                    logger.exception("queue %r", self._queue.name)
                    self._stopping.wait(TROUBLE_SECONDS)
                    continue
                if not deliveries:
                    # each leaves when it found nothing itself: what another one ends may make more ready
                    self._idled |= idle is not None and self._quiet_for(began) >= idle
                    if self._idled:
                        return
                    continue
                for delivery in deliveries:
                    if self._stopping.is_set():
                        delivery.release()
                    else:
                        self._handle(delivery)
        except BaseException as error:
            self._failure = self._failure or error
            self._stopping.set()
        finally:
            self._done.release()

    def _next(self, timeout: float) -> list[Delivery]:
        if self._prefetch > 1:
            return self._queue.get_many(self._prefetch, timeout)
        delivery = self._queue.get(timeout)
        return [] if delivery is None else [delivery]

    def _quiet_for(self, until: float) -> float:
        """Return the seconds for which nothing was done before `until`; negative where something is."""
        with self._lock:
            return -1.0 if self._in_flight else until - self._last

    def _handle(self, delivery: Delivery) -> None:
        with self._lock:
            self._in_flight += 1
        try:
            with delivery:
                self._handler(delivery)
            good = True
        except CircuitOpenError as refused:
            # what is behind the handler rests: so does this worker, and no attempt is burnt
            logger.info("%r: %s", delivery, refused)
            self._stopping.wait(rest_after(refused))
            good = False
        except LeaseLostError as lost:
            logger.warning("%r: %s", delivery, lost)
            good = False
        except Exception:
            logger.exception("%r failed", delivery)
            good = False
        finally:
            with self._lock:
                self._in_flight -= 1
                self._last = time.monotonic()
        with self._lock:
            self.handled += good
            self.failed += not good
