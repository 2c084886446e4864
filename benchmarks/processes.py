"""Other processes of an operation: started and ready before the clock, ended with it.

They are spawned, never forked: a fork would carry engines, mappings and threads along. Invariant: a child
that dies is an error of the operation within seconds, never a hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 120.0


class ChildError(RuntimeError):
    """A process of the operation ended or fell silent before it was done."""


class Child:
    """A spawned process and the pipe to it."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run, args=(target, arguments, theirs), daemon=True)
        self.process.start()
        theirs.close()          # so that the death of the child ends our recv()

    def receive(self) -> Any:
        """What the child sends next.

        Raises:
            ChildError: it sent nothing within PATIENCE, or ended.
        """
        if not self.pipe.poll(PATIENCE):
            raise ChildError(f"{self.process.name} has said nothing for {PATIENCE:g} s")
        try:
            said = self.pipe.recv()
        except EOFError:
            raise ChildError(f"{self.process.name} ended before it was done") from None
        if isinstance(said, Exception):
            raise said
        return said

    def send(self, message: object) -> None:
        """Send to the child."""
        self.pipe.send(message)

    def kill(self) -> None:
        """kill -9, by its id."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def end(self) -> None:
        """Wait for it to end, and end it where it does not."""
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def run(target: Callable[..., None], arguments: tuple[object, ...], pipe: Connection) -> None:
    """In the child: what the target raises goes to the parent."""
    try:
        target(*arguments, pipe)
    except Exception as error:
        pipe.send(error)


@contextmanager
def children(count: int, target: Callable[..., None], *arguments: object) -> Iterator[list[Child]]:
    """`count` processes that all have said that they are ready; each gets its number first."""
    started: list[Child] = []
    try:
        for number in range(count):
            started.append(Child(target, number, *arguments))
        for child in started:
            child.receive()
        yield started
    finally:
        for child in started:
            child.end()
