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


class Lengths:
    """What stands where in a plain topic."""

    name = "lengths"
    tables = ("lengths",)

    def create(self, db: Any, tables: dict[str, str]) -> None:
        db.execute(f"CREATE TABLE {tables['lengths']} (at INTEGER, length INTEGER)")

    def apply(self, db: Any, tables: dict[str, str], record: pylog.Record) -> None:
        db.execute(
            f"INSERT INTO {tables['lengths']} VALUES (?, ?)", (record.offset, len(record.value or b""))
        )


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


def test_18a_where_even_rolling_back_fails_nothing_is_left_out(
    engine: pylog.Engine, store: EventStore, path: Path
) -> None:
    class Breaking(sqlite3.Connection):
        broken = False

        def rollback(self) -> None:
            super().rollback()
            if self.broken:
                raise sqlite3.OperationalError("connection lost")

    class Moody(Balances):
        def apply(self, db: Any, tables: dict[str, str], event: pylog.Event) -> None:
            if db.broken is None:
                db.broken = True
                raise OverflowError("not today")
            super().apply(db, tables, event)

    with closing(sqlite3.connect(path, factory=Breaking)) as db:
        model = pylog.ReadModel(engine, store, Moody(), db)
        happen(store, 50)
        db.broken = None
        with pytest.raises(sqlite3.OperationalError):
            model.catch_up(at_once=20)
        db.broken = False
        happen(store, 10)
        assert model.catch_up() == 60
        assert rows(db) == fold(store)


def test_18a_rows_of_records_that_a_power_cut_took_are_rebuilt(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    happen(store, 30)
    model.catch_up()
    db.execute("UPDATE pylog_positions SET next_offset = next_offset + 5")  # the log was longer once
    db.commit()
    with closing(database(path)) as other:
        anew = pylog.ReadModel(engine, store, Balances(), other)
        with pytest.raises(pylog.LogTruncatedError):
            anew.catch_up()
        assert anew.rebuild() == 30
        assert rows(db) == fold(store)
    happen(store, 30)
    assert model.catch_up() == 30
    assert rows(db) == fold(store)


def test_18a_records_that_went_before_they_were_applied_are_told(
    engine: pylog.Engine, db: sqlite3.Connection
) -> None:
    engine.create_topic("t")
    engine.append_many("t", [b"a"] * 10)
    engine.delete_records("t", 0, 5)
    model = pylog.ReadModel(engine, "t", Lengths(), db)
    assert (model.lag().records, model.catch_up()) == (5, 5)  # a new one begins where the topic does
    engine.append_many("t", [b"a"] * 10)
    engine.delete_records("t", 0, 15)
    for _ in range(2):
        with pytest.raises(pylog.OffsetOutOfRangeError):
            model.catch_up()
    assert model.lag().records == 5
    assert model.rebuild() == 5
    assert [at for at, _ in db.execute("SELECT * FROM lengths ORDER BY at")] == list(range(15, 20))


def test_18a_partitions_that_a_topic_gets_are_followed(engine: pylog.Engine, db: sqlite3.Connection) -> None:
    engine.create_topic("t")
    with pylog.ReadModel(engine, "t", Lengths(), db) as model:
        engine.append("t", b"a", partition=0)
        assert model.catch_up() == 1
        engine.create_partitions("t", 4)
        token = engine.append("t", b"bb", partition=3)
        assert model.lag().records == 1
        with pytest.raises(pylog.RequestTimeoutError):
            model.wait_for(token, timeout=0.0)
        assert model.catch_up() == 1
        model.wait_for(token, timeout=0.0)
        assert model.rebuild() == 2
    assert db.execute("SELECT * FROM lengths ORDER BY length").fetchall() == [(0, 1), (0, 2)]


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
    for nowhere in (("another", 0, 0), ("accounts", 3, 0), ("accounts", -1, -1)):
        with pytest.raises(pylog.ConfigError):
            model.wait_for(pylog.RecordId(*nowhere))
    for nothing in ("accounts", 5):
        with pytest.raises(TypeError):
            model.wait_for(nothing)
    with pytest.raises(pylog.ConfigError):
        model.wait_for(token, timeout=-1)
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


REBUILDER = """
import sys, pylog
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from accounts import EVENTS
from read_models import Balances, database
with pylog.open(sys.argv[1]) as engine:
    store = engine.event_store("accounts", events=EVENTS)
    model = pylog.ReadModel(engine, store, Balances(), database(Path(sys.argv[2])))
    while True:
        model.rebuild()
        print(model.build, flush=True)
"""


def test_18c_a_rebuild_that_is_killed_at_any_time_is_whole_or_not_there(
    tmp_path: Path, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    dice, before = random.Random(8), 0
    for round_ in range(6):
        happen(store, 20, seed=round_)
        model.catch_up()
        with Child(REBUILDER, tmp_path / "data", path, Path(__file__).parent) as child:
            for _ in range(dice.randrange(1, 12)):
                build = int(child.says())
            for _ in range(dice.randrange(20_000)):  # somewhere on its way
                pass
            child.kill()
        assert rows(db) == fold(store)
        assert total(db) == sum(balance for balance, _ in fold(store).values())
        model.catch_up()
        assert model.build >= build > before
        before = model.build
    model.rebuild()
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert {name for name in tables if "__" in name} == set(model.tables().values())


def test_18c_of_two_rebuilds_at_once_the_later_is_shown(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    happen(store, 30)
    with closing(database(path)) as other:
        later = pylog.ReadModel(engine, store, Balances(), other)
        with pytest.raises(pylog.ConfigError, match="quicker"):
            model.rebuild(Doubled(), until=lambda: later.rebuild() < 0)
        assert rows(db) == fold(store)
        model.catch_up()
        assert model.build == later.build == 3


def test_18c_older_rules_do_not_keep_newer_rows(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    class Newer(Doubled):
        version = 2

    happen(store, 30)
    model.catch_up()
    with closing(database(path)) as other:
        newer = pylog.ReadModel(engine, store, Newer(), other)
        with pytest.raises(pylog.ConfigError, match="version 1"):
            newer.catch_up()
        newer.rebuild()
        happen(store, 30)
        with pytest.raises(pylog.ConfigError, match="version 2"):
            model.catch_up()
        assert newer.catch_up() == 30
        assert rows(db) == fold(store, times=2)


def test_18c_a_table_that_the_newer_rules_have_no_more_goes(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, db: sqlite3.Connection
) -> None:
    class Single(Balances):
        tables = ("balances",)

        def create(self, db: Any, tables: dict[str, str]) -> None:
            db.execute(f"CREATE TABLE {tables['balances']} (stream TEXT PRIMARY KEY, events INTEGER)")

        def apply(self, db: Any, tables: dict[str, str], event: pylog.Event) -> None:
            db.execute(f"INSERT OR IGNORE INTO {tables['balances']} VALUES (?, 1)", (event.stream,))

    happen(store, 30)
    model.rebuild(Single())
    left = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type != 'index'")}
    assert left == {"pylog_builds", "pylog_positions", "balances", "balances__2"}


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
    engine.create_topic("t")
    engine.append_many("t", [b"a" * n for n in range(10)])
    with pylog.ReadModel(engine, "t", Lengths(), db) as model:
        model.catch_up()
    assert db.execute("SELECT * FROM lengths ORDER BY at").fetchall() == [(n, n) for n in range(10)]


def test_rows_of_another_topic_of_that_name_are_not_gone_on_with(
    engine: pylog.Engine, store: EventStore, model: pylog.ReadModel, path: Path, db: sqlite3.Connection
) -> None:
    happen(store, 10)
    model.catch_up()
    engine.delete_topic("accounts")
    with pytest.raises(pylog.UnknownTopicError):
        model.catch_up()
    anew = engine.event_store("accounts", events=EVENTS, partitions=3)
    happen(anew, 40, seed=9)
    with closing(database(path)) as other:
        for one in (model, pylog.ReadModel(engine, anew, Balances(), other)):
            for ask in (one.catch_up, one.lag, one.positions):
                with pytest.raises(pylog.ConfigError, match="another 'accounts'"):
                    ask()
            with pytest.raises(pylog.ConfigError, match="another 'accounts'"):
                one.wait_for(pylog.RecordId("accounts", 0, 0))
        assert one.rebuild() == 40
    assert model.catch_up() == 0
    assert rows(db) == fold(anew)


class Driver:
    """A connection as those of PostgreSQL's drivers: None is the isolation that the server has."""

    isolation_level = None
    autocommit = False

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def test_a_connection_is_asked_for_autocommit_as_its_module_says_it(
    engine: pylog.Engine, store: EventStore, db: sqlite3.Connection
) -> None:
    happen(store, 10)
    driver = Driver(db)
    assert pylog.ReadModel(engine, store, Balances(), driver).catch_up() == 10
    assert rows(db) == fold(store)
    driver.autocommit = True
    with pytest.raises(pylog.ConfigError, match="commits by itself"):
        pylog.ReadModel(engine, store, Balances(), driver)


class Untold(sqlite3.Cursor):
    @property
    def rowcount(self) -> int:
        return -1


def test_a_connection_that_tells_no_row_counts_is_refused(
    engine: pylog.Engine, store: EventStore, db: sqlite3.Connection
) -> None:
    class Silent(Driver):
        def cursor(self) -> sqlite3.Cursor:
            return self._db.cursor(Untold)

    happen(store, 10)
    model = pylog.ReadModel(engine, store, Balances(), Silent(db))
    with pytest.raises(pylog.ConfigError, match="how many rows"):
        model.catch_up()
    assert rows(db) == {}


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
