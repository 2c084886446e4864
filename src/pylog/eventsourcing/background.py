"""Work that nobody waits for, in a thread that lives while there is some."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger("pylog")

T = TypeVar("T", bound=Hashable)


class Background(Generic[T]):
    """Calls `work` for each thing that was asked for, one after the other; what waits already waits once.

    A forked child begins with nothing: what waits at the fork is the parent's.
    """

    def __init__(self, work: Callable[[T], object]) -> None:
        self._work = work
        self._begin()

    def _begin(self) -> None:
        self._waiting: dict[T, None] = {}
        self._asked = self._done = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()  # last: who finds its own here finds no lock that the parent held

    def ask(self, thing: T) -> None:
        """Have it done soon; never, where no thread can be started any more."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if thing not in self._waiting:
                self._waiting[thing] = None
                self._asked += 1
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="pylog-background", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._done += len(self._waiting)
                    self._waiting.clear()
                    logger.warning("%r is not done in the background: %s", thing, error)
                else:
                    self._thread = thread

    def flush(self) -> None:
        """Return when all that was asked for before is done."""
        if self._pid != os.getpid() or self._thread is threading.current_thread():
            return
        with self._changed:
            until = self._asked
            self._changed.wait_for(lambda: self._done >= until)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                thing = next(iter(self._waiting))
                del self._waiting[thing]
            try:
                self._work(thing)
            except BaseException:  # SystemExit too: who flushes waits for what comes behind it
                logger.exception("work in the background failed on %r", thing)
            with self._changed:
                self._done += 1
                self._changed.notify_all()
