"""The second part of the demo: the same flights as the events of each aircraft, and a read model in SQLite.

Every aircraft is an aggregate: month by month it is loaded, told of its flights and saved. Meanwhile another
process keeps the delays of all aircraft in a SQLite database; it is killed with SIGKILL in the middle and
started again. In the end both are held against a plain fold of the source. Invariant: check() is True only
where all of them agree.
"""

from __future__ import annotations

import csv
import io
import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import groupby
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
from flights import ARR_DELAY, CARRIER, ROWS, TAILNUM, Delays, data_file, flights

import pylog
from pylog.eventsourcing.aggregates import Appended

STORE = "aircraft"
DATABASE = "aircraft.db"
ORIGIN, DEST, MONTH = 12, 13, 1
KILL_IN_MONTH = 6
SNAPSHOT_EVERY = 100
WAIT_SECONDS = 120.0

Say = Callable[[str], None]


class Landed(msgspec.Struct):
    """A flight that arrived."""

    carrier: str
    origin: str
    dest: str
    delay: int


class Missed(msgspec.Struct):
    """A flight that was cancelled or diverted."""

    carrier: str
    origin: str
    dest: str


class Aircraft(pylog.Aggregate):
    """What is known of one aircraft."""

    flights = 0
    arrived = 0
    minutes = 0
    worst = -(10**6)

    def fly(self, line: bytes) -> None:
        """Take one row of the source."""
        fields = line.decode().split(",")
        where = fields[CARRIER], fields[ORIGIN], fields[DEST]
        delay = fields[ARR_DELAY]
        self.record(Missed(*where) if delay == "NA" else Landed(*where, int(delay)))

    def apply(self, event: Any) -> None:
        """Count it."""
        self.flights += 1
        if isinstance(event, Landed):
            self.arrived += 1
            self.minutes += event.delay
            self.worst = max(self.worst, event.delay)


class DelaysOfAircraft:
    """The projection: a row for each aircraft."""

    name = "delays"
    tables = ("delays",)

    def create(self, db: sqlite3.Connection, tables: dict[str, str]) -> None:
        """Create the table."""
        figures = "flights INTEGER, arrived INTEGER, minutes INTEGER, worst INTEGER"
        db.execute(f"CREATE TABLE {tables['delays']} (aircraft TEXT PRIMARY KEY, {figures})")

    def apply(self, db: sqlite3.Connection, tables: dict[str, str], event: pylog.Event) -> None:
        """Count an event."""
        landed = isinstance(event.data, Landed)
        delay = event.data.delay if landed else 0
        worst = delay if landed else -(10**6)
        db.execute(
            f"INSERT INTO {tables['delays']} VALUES (?, 1, ?, ?, ?) ON CONFLICT (aircraft) DO UPDATE SET "
            "flights = flights + 1, arrived = arrived + excluded.arrived, "
            "minutes = minutes + excluded.minutes, worst = max(worst, excluded.worst)",
            (event.stream.partition("-")[2], int(landed), delay, worst),
        )


def open_store(engine: pylog.Engine) -> pylog.EventStore:
    """Open the store of the aircraft."""
    return engine.event_store(
        STORE, events=[Landed, Missed], partitions=2, snapshot_every=SNAPSHOT_EVERY, segment_bytes=16 << 20
    )


def open_model(engine: pylog.Engine) -> tuple[pylog.ReadModel, sqlite3.Connection]:
    """Open the read model beside the log."""
    db = sqlite3.connect(Path(str(getattr(engine, "path", ".")), DATABASE), timeout=WAIT_SECONDS)
    return pylog.ReadModel(engine, open_store(engine), DelaysOfAircraft(), db), db


def keep_model(directory: str) -> None:
    """Keep the read model until somebody ends us: the job of a process of its own."""
    with pylog.open(directory) as engine:
        model, _ = open_model(engine)
        while True:
            model.catch_up(timeout=1.0, at_once=5000)


def plain_fold_by_aircraft() -> dict[str, Delays]:
    """Compute the figures from the source with nothing but the csv module."""
    figures: dict[str, Delays] = {}
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline="")):
            figures.setdefault(row["tailnum"], Delays()).add(row["arr_delay"])
    return figures


def months() -> Iterator[tuple[int, dict[str, list[bytes]]]]:
    """Yield each month in the order of the source, with the rows of each aircraft."""
    for month, rows in groupby(flights(), key=lambda flight: int(flight.line.split(b",")[MONTH])):
        of_aircraft: dict[str, list[bytes]] = {}
        for flight in rows:
            of_aircraft.setdefault(flight.line.split(b",")[TAILNUM].decode(), []).append(flight.line)
        yield month, of_aircraft


def tell(engine: pylog.Engine, say: Say) -> bool:
    """Store all flights as events of their aircraft while a read model follows; whether all agree."""
    directory = str(getattr(engine, "path", "."))
    spawn = get_context("spawn")

    def start() -> BaseProcess:
        made = spawn.Process(target=keep_model, args=(directory,), daemon=True)
        made.start()
        return made

    store = open_store(engine)
    model, db = open_model(engine)
    keeper = start()
    begun, saved, tokens = time.perf_counter(), 0, dict[int, Appended]()
    try:
        for number, (_, of_aircraft) in enumerate(months(), 1):
            for tailnum, lines in of_aircraft.items():
                aircraft = store.load(Aircraft, tailnum)
                for line in lines:
                    aircraft.fly(line)
                done = store.save(aircraft)
                assert done is not None
                tokens[done.record_id.partition] = done
                saved += 1
            if number == KILL_IN_MONTH:
                keeper.kill()
                keeper.join()
                lag = model.lag()
                say(f"kill -9 {keeper.pid}: the read model is {lag.records:,} events behind")
                keeper = start()
        seconds = time.perf_counter() - begun
        say(f"  {saved:,} times an aircraft loaded, told of its flights and saved: {saved / seconds:,.0f}/s")
        model.wait_for(list(tokens.values()), timeout=WAIT_SECONDS)
        took = time.perf_counter() - begun
        say(f"the read model has all {ROWS:,} events {took - seconds:.1f} s later")
        return check(store, db, say)
    finally:
        keeper.kill()
        keeper.join()
        model.close()
        db.close()


def check(store: pylog.EventStore, db: sqlite3.Connection, say: Say) -> bool:
    """Hold aggregates and read model against the source."""
    expected = plain_fold_by_aircraft()
    rows = {name: Delays(*figures) for name, *figures in db.execute("SELECT * FROM delays")}
    wrong = 0
    for name, delays in expected.items():
        found = store.load(Aircraft, name)
        wrong += Delays(found.flights, found.arrived, found.minutes, found.worst) != delays
    busiest = max(expected, key=lambda name: (name != "NA", expected[name].flights))
    half = store.version(f"Aircraft-{busiest}") // 2
    fold = Aircraft()
    for event in store.read(f"Aircraft-{busiest}", last=half):
        fold.apply(event.data)
    past = store.state_at(Aircraft, busiest, version=half)
    results = {
        f"each of the {len(expected):,} aircraft is what its flights made of it": wrong == 0,
        "the rows of the read model in SQLite equal a plain fold of the source": rows == expected,
        f"aircraft {busiest} as it was after {half} flights is the fold of those": (
            (past.flights, past.arrived, past.minutes, past.worst)
            == (fold.flights, fold.arrived, fold.minutes, fold.worst)
        ),
    }
    for promise, held in results.items():
        say(f"  {'yes' if held else 'NO '}  {promise}")
    return all(results.values())
