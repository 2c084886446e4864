"""Flushes producers when the process ends normally; children of multiprocessing do so in their own way.

Invariant: what a producer was sent in this process is written before the interpreter is taken down; what was
sent before a fork is the parent's to write.
"""

from __future__ import annotations

import atexit
import logging
import sys
import weakref
from typing import Protocol

from logcore.processes import fork_count

logger = logging.getLogger("pylog")


class Flushable(Protocol):
    """What is asked of a producer at the end."""

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to flush."""

    def flush(self) -> None:
        """Write everything."""


class ExitFlush:
    """The producers of this process that are open."""

    def __init__(self) -> None:
        self._producers: weakref.WeakSet[Flushable] = weakref.WeakSet()
        self._forks = -1

    def add(self, producer: Flushable) -> None:
        """Flush this producer at exit, if it is not closed by then. Adding it twice does no harm."""
        self._producers.add(producer)
        if self._forks == fork_count():
            return
        if self._forks < 0:
            atexit.register(self.flush)
        self._forks = fork_count()
        # a child of multiprocessing ends by os._exit, and forgets the finalizers of its parent
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self.flush, exitpriority=100)

    def flush(self) -> None:
        """Flush all that is open; what goes wrong is logged, since nobody is left to be told."""
        for producer in list(self._producers):
            try:
                if not producer.closed:
                    producer.flush()
            except Exception as error:
                logger.error("records of a producer that was not closed are lost: %s", error)


at_exit = ExitFlush()
