"""Pattern 18: read models in SQLite, as the fold of the log whatever dies."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from accounts import EVENTS, Deposited, Withdrawn
from children import Child
from clocks import ManualClock
from read_models import Balances, Doubled, database, fold, rows, total

import pylog
from pylog.eventsourcing.store import EventStore

KEEPER = """
import sys
sys.path.insert(0, sys.argv[3])
from read_models import keep
keep(*sys.argv[1:3])
"""


@pytest.fixture
def store(engine: pylog.Engine) -> EventStore:
    return engine.event_store("accounts", events=EVENTS, partitions=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(database(path)) as db:
        yield db


@pytest.fixture
def model(engine: pylog.Engine, store: EventStore, db: sqlite3.Connection) -> pylog.ReadModel:
    return pylog.ReadModel(engine, store, Balances(), db)


def happen(store: EventStore, events: int, seed: int = 1) -> None:
    dice = random.Random(seed)
    for _ in range(events):
        kind = Deposited if dice.random() < 0.6 else Withdrawn
        store.append(f"Account-{dice.randrange(9)}", kind(dice.randrange(100)))


def keeper(tmp_path: Path, path: Path) -> Child:
    return Child(KEEPER, tmp_path / "data", path, Path(__file__).parent)


def test_18a_a_read_model_is_the_fold_of_the_events(
    store: EventStore, model: pylog.ReadModel, db: sqlite3.Connection
) -> None:
    for seed in range(3):
        happen(store, 50, seed)
        assert model.catch_up(at_once=20) == 50
        assert rows(db) == fold(store)
    assert total(db) == sum(balance for balance, _ in fold(store).values())
    assert model.catch_up() == 0


def test_18a_what_fails_in_the_middle_leaves_rows_and_position_as_they_were(
    engine: pylog.Engine, store: EventStore, db: sqlite3.Connection
) -> None:
    class Moody(Balances):
        left = 30

        def apply(self, db: Any, tables: dict[str, str], event: pylog.Event) -> None:
            super().apply(db, tables, event)
            self.left -= 1
            if self.left == 0:
                raise OverflowError("not today")

    happen(store, 50)
    model = pylog.ReadModel(engine, store, Moody(), db)
    with pytest.raises(OverflowError):
        model.catch_up(at_once=20)
    assert sum(events for _, events in rows(db).values()) == sum(model.positions().values()) == 20
    assert model.catch_up() == 30
    assert rows(db) == fold(store)


def test_18a_under_a_storm_of_kills_each_event_is_applied_once(
    tmp_path: Path, engine: pylog.Engine, store: EventStore, path: Path, db: sqlite3.Connection
) -> None:
    dice = random.Random(2)  # nobody has made the tables yet: two begin at once
    for round_ in range(3):
        with ExitStack() as stack:
            keepers = [stack.enter_context(keeper(tmp_path, path)) for _ in range(2)]
            for one in keepers:
                one.says()
            happen(store, dice.randrange(20, 120), seed=round_)
            for one in keepers:
                one.kill()
            assert set(rows(db).items()) <= set(prefixes(store))
    last = pylog.ReadModel(engine, store, Balances(), db)
    last.catch_up()
    assert rows(db) == fold(store)
    assert total(db) == sum(balance for balance, _ in fold(store).values())


def prefixes(store: EventStore) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every row that a stream ever had."""
    found: dict[str, tuple[int, int]] = {}
    for event in store.read_all():
        balance, events = found.get(event.stream, (0, 0))
        found[event.stream] = (balance + Balances().amount(event), events + 1)
        yield event.stream, found[event.stream]


def test_18b_who_waits_for_a_token_reads_what_it_wrote(
    tmp_path: Path, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    with keeper(tmp_path, path) as child:
        child.says()
        for number in range(20):
            token = store.append(f"Account-{number}", Deposited(number))
            model.wait_for(token, timeout=30)
            assert rows(db)[f"Account-{number}"] == (number, 1)
        model.wait_for([store.append("Account-x", Deposited(1)), store.append("Account-y", Deposited(1))], 30)
        assert rows(db).keys() >= {"Account-x", "Account-y"}
        child.kill()
    with pytest.raises(pylog.ConfigError):
        model.wait_for(pylog.RecordId("another", 0, 0))
    token = store.append("Account-1", Deposited(1))
    with pytest.raises(pylog.RequestTimeoutError):
        model.wait_for(token, timeout=0.0)
    model.catch_up()
    model.wait_for(token, timeout=0.0)


def test_18c_a_rebuilt_read_model_is_switched_at_once(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    happen(store, 300)
    model.catch_up()
    seen: set[tuple[int, int]] = set()
    stop = threading.Event()

    def look() -> None:
        with closing(database(path)) as other:
            while not stop.is_set():
                other.execute("BEGIN")
                seen.add((total(other), sum(balance for balance, _ in rows(other).values())))
                other.rollback()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        assert model.rebuild(Doubled()) == 300
    finally:
        stop.set()
        looker.join()
    assert rows(db) == fold(store, times=2)
    single = sum(balance for balance, _ in fold(store).values())
    assert seen <= {(single, single), (2 * single, 2 * single)}
    store.append("Account-1", Deposited(1))
    model.catch_up()
    assert rows(db) == fold(store, times=2)


def test_18c_who_kept_the_old_build_keeps_the_new_one(
    tmp_path: Path, engine: pylog.Engine, store: EventStore, path: Path, db: sqlite3.Connection
) -> None:
    model = pylog.ReadModel(engine, store, Balances(), db)
    with ExitStack() as stack:
        keepers = [stack.enter_context(keeper(tmp_path, path)) for _ in range(2)]
        for one in keepers:
            one.says()
        for seed in range(2):
            happen(store, 60, seed)
            model.rebuild()
            model.wait_for(store.append("Account-1", Deposited(1)), timeout=30)
        for one in keepers:
            one.kill()
    model.catch_up()
    assert rows(db) == fold(store)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'balances__%'")]
    assert tables == [f"balances__{model.build}"]


def test_18c_a_rebuild_that_is_given_up_changes_nothing(
    store: EventStore, model: pylog.ReadModel, db: sqlite3.Connection
) -> None:
    happen(store, 30)
    model.catch_up()
    before = rows(db)
    model.rebuild(Doubled(), until=lambda: True)
    assert rows(db) == before == fold(store)
    happen(store, 30)
    model.catch_up()
    assert rows(db) == fold(store)


def test_18d_the_lag_is_told_in_records_and_seconds(
    engine: pylog.Engine, store: EventStore, db: sqlite3.Connection
) -> None:
    clock = ManualClock()
    model = pylog.ReadModel(engine, store, Balances(), db, clock=clock)
    assert model.lag() == (0, 0.0)
    happen(store, 25)
    first = min(event.timestamp for event in store.read_all())
    clock.now = first / 1e9 + 90
    assert model.lag() == (25, pytest.approx(90.0))
    model.catch_up()
    assert model.lag() == (0, 0.0)


def test_any_topic_can_be_followed(engine: pylog.Engine, db: sqlite3.Connection) -> None:
    class Lengths:
        name = "lengths"
        tables = ("lengths",)

        def create(self, db: Any, tables: dict[str, str]) -> None:
            db.execute(f"CREATE TABLE {tables['lengths']} (at INTEGER, length INTEGER)")

        def apply(self, db: Any, tables: dict[str, str], record: pylog.Record) -> None:
            db.execute(
                f"INSERT INTO {tables['lengths']} VALUES (?, ?)", (record.offset, len(record.value or b""))
            )

    engine.create_topic("t")
    engine.append_many("t", [b"a" * n for n in range(10)])
    with pylog.ReadModel(engine, "t", Lengths(), db) as model:
        model.catch_up()
    assert db.execute("SELECT * FROM lengths ORDER BY at").fetchall() == [(n, n) for n in range(10)]


def test_a_read_model_of_another_topic_of_that_name_is_refused(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, db: sqlite3.Connection
) -> None:
    happen(store, 10)
    model.catch_up()
    engine.delete_topic("accounts")
    anew = engine.event_store("accounts", events=EVENTS, partitions=3)
    with pytest.raises(pylog.ConfigError, match="another topic"):
        pylog.ReadModel(engine, anew, Balances(), db)


def test_what_no_read_model_can_be_is_refused(engine: pylog.Engine, store: EventStore, path: Path) -> None:
    class Wrong(Balances):
        name = "balances; DROP TABLE x"

    with closing(database(path)) as db:
        with pytest.raises(pylog.ConfigError):
            pylog.ReadModel(engine, store, Wrong(), db)
        with pytest.raises(pylog.ConfigError):
            pylog.ReadModel(engine, store, Balances(), db, paramstyle="named")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        with pytest.raises(pylog.ConfigError, match="commits by itself"):
            pylog.ReadModel(engine, store, Balances(), db)
