"""QueueFace: a durable queue that looks like queue.Queue, for programs that use one already.

Items go in and out as values; what was got is acked by task_done(). Other processes see the same items.
Invariant: an item that was got is in flight until task_done(), close(), or the death of the process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pylog.config import check_count
from pylog.errors import PylogError, SerializationError
from pylog.serdes import Serde, serde_for

if TYPE_CHECKING:
    from logcore.direct_queue import Delivery
    from pylog.queues.queue import Queue

FULL_SECONDS = 0.02
"""How often somebody who waits for room looks: a get in another process wakes nobody."""


class QueueFace:
    """Made by Queue.as_queue(). May be shared by threads.

    Args:
        maxsize: put() waits, or raises queue.Full, where so many items wait; 0: no limit. Several processes
            may exceed it by one item each.
    """

    def __init__(self, queue: Queue, maxsize: int = 0, serde: str | Serde | None = None) -> None:
        self._queue = queue
        self.maxsize = max(0, check_count(maxsize, "maxsize", -(1 << 62), 1 << 62))
        self._serde = serde_for(serde, "serde")
        self._room = threading.Condition()
        self._got: defaultdict[int, deque[Delivery]] = defaultdict(deque)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; raises queue.Full where there is no room (in time)."""
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        data = item if self._serde is None or item is None else self._serde.serialize(item)
        with self._room:
            until = None if timeout is None else time.monotonic() + timeout
            while self.full():
                left = FULL_SECONDS if until is None else min(FULL_SECONDS, until - time.monotonic())
                if not block or left <= 0:
                    raise queue.Full
                self._room.wait(left)
            self._queue.put(data)

    def put_nowait(self, item: Any) -> None:
        """Put an item without waiting for room."""
        self.put(item, block=False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next item; raises queue.Empty where there is none (in time)."""
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        delivery = self._queue.get(timeout if block else 0.0)
        if delivery is None:
            raise queue.Empty
        item = delivery.value
        if self._serde is not None and item is not None:
            try:
                item = self._serde.deserialize(item)
            except Exception as error:
                delivery.reject("undecodable", error)
                raise SerializationError(f"{delivery!r}: {error}", part="value") from error
        self._got[threading.get_ident()].append(delivery)
        with self._room:
            self._room.notify()
        return item

    def get_nowait(self) -> Any:
        """Return the next item without waiting for one."""
        return self.get(block=False)

    def task_done(self) -> None:
        """Ack the oldest item that this thread got; ValueError where there is none."""
        got = self._got[threading.get_ident()]
        if not got:
            raise ValueError("task_done() called too many times")
        got.popleft().ack()

    def join(self) -> None:
        """Wait until every item that was put is done, in all processes."""
        self._queue.join()

    def qsize(self) -> int:
        """Return how many items wait."""
        return self._queue.qsize()

    def empty(self) -> bool:
        """Return whether none waits."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Return whether maxsize items wait."""
        return 0 < self.maxsize <= self.qsize()

    def close(self) -> None:
        """Give back what was got and is not done: no attempt is burnt."""
        for got in self._got.values():
            while got:
                with suppress(PylogError):  # the engine was closed: it is given back anyhow
                    got.popleft().release()
