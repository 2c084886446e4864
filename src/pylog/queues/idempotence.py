"""idempotent(): a handler whose effect happens once for each record, however often it is delivered.

Delivery is at least once: whoever dies between the effect and the ack does it again. Where the effect goes
to a database, the mark that it was done goes into the same transaction. Invariant: effect and mark are both
there or both not.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from logcore.direct_queue import Delivery


class EffectStore(Protocol):
    """Where effects go, together with the marks that they were done."""

    def once(self, identity: str) -> AbstractContextManager[bool]:
        """Open a transaction with the mark in it; False where it was there. An exception rolls back."""


def idempotent(store: EffectStore) -> Callable[[Callable[[Delivery], object]], Callable[[Delivery], None]]:
    """Return a decorator: the handler is called once for each `delivery.identity`, within store.once()."""

    def decorate(handler: Callable[[Delivery], object]) -> Callable[[Delivery], None]:
        def once(delivery: Delivery) -> None:
            with store.once(delivery.identity) as first:
                if first:
                    handler(delivery)

        return once

    return decorate


class OwnConnection:
    """The connection of one thread, closed with it: nobody else knows when a worker ends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class SqliteEffects:
    """Effects in an SQLite database: handlers write through `connection`, and neither begin nor commit.

    May be shared by threads; each has its own connection, which is closed when the thread ends.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        self._path = os.fspath(path)
        self._timeout = timeout
        self._local = threading.local()

    @property
    def connection(self) -> sqlite3.Connection:
        """The calling thread's connection."""
        own: OwnConnection | None = getattr(self._local, "own", None)
        if own is None:
            # the last reference to it may go in any thread
            own = OwnConnection(
                sqlite3.connect(
                    self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
                )
            )
            own.connection.execute("PRAGMA journal_mode = WAL")
            own.connection.execute(
                "CREATE TABLE IF NOT EXISTS pylog_effects (identity TEXT PRIMARY KEY) WITHOUT ROWID"
            )
            self._local.own = own
        return own.connection

    @contextmanager
    def once(self, identity: str) -> Iterator[bool]:
        """Open a transaction with the mark in it; False where it was there before."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            marked = connection.execute("INSERT OR IGNORE INTO pylog_effects VALUES (?)", (identity,))
            yield marked.rowcount == 1
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite ends it by itself where the disk is full
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the calling thread's connection; another use opens a new one."""
        self._local.own = None
