"""Read models for the tests, and the program that keeps one until it is killed."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from accounts import EVENTS, Deposited

import pylog


class Balances:
    """Balance and number of events of each stream, in two tables."""

    name = "balances"
    tables = ("balances", "totals")

    def create(self, db: Any, tables: dict[str, str]) -> None:
        columns = "stream TEXT PRIMARY KEY, balance INTEGER, events INTEGER"
        db.execute(f"CREATE TABLE {tables['balances']} ({columns})")
        db.execute(f"CREATE TABLE {tables['totals']} (total INTEGER)")
        db.execute(f"INSERT INTO {tables['totals']} VALUES (0)")

    def amount(self, event: pylog.Event) -> int:
        return event.data.amount if isinstance(event.data, Deposited) else -event.data.amount

    def apply(self, db: Any, tables: dict[str, str], event: pylog.Event) -> None:
        amount = self.amount(event)
        db.execute(
            f"INSERT INTO {tables['balances']} VALUES (?, ?, 1) ON CONFLICT (stream) "
            "DO UPDATE SET balance = balance + excluded.balance, events = events + 1",
            (event.stream, amount),
        )
        db.execute(f"UPDATE {tables['totals']} SET total = total + ?", (amount,))


class Doubled(Balances):
    """The same read model with another rule."""

    def amount(self, event: pylog.Event) -> int:
        return 2 * super().amount(event)


def database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60)
    db.execute("PRAGMA journal_mode=WAL")
    return db


def rows(db: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    return {stream: (balance, events) for stream, balance, events in db.execute("SELECT * FROM balances")}


def total(db: sqlite3.Connection) -> int:
    (found,) = db.execute("SELECT total FROM totals").fetchone()
    assert isinstance(found, int)
    return found


def fold(store: Any, times: int = 1) -> dict[str, tuple[int, int]]:
    """What the read model is to be, from the events alone."""
    found: dict[str, tuple[int, int]] = {}
    for event in store.read_all():
        balance, events = found.get(event.stream, (0, 0))
        found[event.stream] = (balance + times * Balances().amount(event), events + 1)
    return found


def keep(directory: str, path: str) -> None:
    """Keep the read model for ever."""
    with pylog.open(directory) as engine:
        store = engine.event_store("accounts", events=EVENTS)
        model = pylog.ReadModel(engine, store, Balances(), database(Path(path)))
        print("ready", flush=True)
        while True:
            model.catch_up(timeout=0.05, at_once=7)


if __name__ == "__main__":
    keep(*sys.argv[1:])
