"""Pattern 17c: a snapshot saves a replay and means nothing else."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import xxhash
from accounts import EVENTS, Account, Deposited
from children import Child

import pylog
from pylog.eventsourcing.store import EventStore

SNAPSHOTS = "accounts.snapshots"


class Counting(Account):
    """Counts what is replayed."""

    category = "Account"
    applied: ClassVar[int] = 0

    def apply(self, event: Any) -> None:
        Counting.applied += 1
        super().apply(event)


def opened(engine: pylog.Engine, **options: Any) -> EventStore:
    return engine.event_store("accounts", events=EVENTS, **({"snapshot_every": 10} | options))


def deposit(store: EventStore, times: int, amount: int = 1, kind: type[Account] = Counting) -> None:
    account = store.load(kind, "1")
    for _ in range(times):
        account.deposit(amount)
        store.save(account)
        store.flush()


def replayed(store: EventStore) -> tuple[int, int, int]:
    """How many events a load replays, and the balance and version that it finds."""
    Counting.applied = 0
    account = store.load(Counting, "1")
    return Counting.applied, account.balance, account.version


def newest(engine: pylog.Engine) -> pylog.Record:
    return engine.read_key(SNAPSHOTS, b"Account-1", most=1, backward=True)[0]


def forge(engine: pylog.Engine, **changes: Any) -> None:
    """Append a snapshot as it would be, with a checksum that fits, but for some fields."""
    value = json.dumps(json.loads(newest(engine).value or b"") | changes).encode()
    checksum = xxhash.xxh3_64_hexdigest(value).encode()
    engine.append(SNAPSHOTS, value, b"Account-1", headers=[("checksum", checksum)])


def test_17c_a_load_replays_only_what_came_since_the_snapshot(engine: pylog.Engine) -> None:
    store = opened(engine)
    deposit(store, 25)
    assert [json.loads(r.value or b"")["version"] for r in engine.read(SNAPSHOTS)] == [10, 20]
    assert replayed(store) == (5, 25, 25)
    deposit(store, 6)
    assert replayed(store) == (1, 31, 31)


def test_17c_a_snapshot_delays_no_save(engine: pylog.Engine) -> None:
    go_on, main = threading.Event(), threading.current_thread()

    class Slow(Account):
        def apply(self, event: Any) -> None:
            if threading.current_thread() is not main:
                assert go_on.wait(60)
            super().apply(event)

    store = opened(engine)
    account = store.load(Slow, "1")
    for _ in range(25):
        account.deposit(1)
        store.save(account)  # returns, though the first snapshot stands still
    assert engine.log_end_offset(SNAPSHOTS, 0) == 0
    go_on.set()
    store.flush()
    assert store.load(Slow, "1").version == 25
    versions = [json.loads(r.value or b"")["version"] for r in engine.read(SNAPSHOTS)]
    assert 1 <= len(versions) <= 2
    assert versions[-1] == 25


def test_17c_no_thread_for_a_snapshot_fails_no_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pylog.open(tmp_path / "data") as engine:
        store = opened(engine)
        account = store.load(Account, "1")
        for _ in range(10):
            account.deposit(1)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            assert store.save(account) is not None
        store.flush()  # returns
        assert "can't start new thread" in caplog.text
        assert engine.log_end_offset(SNAPSHOTS, 0) == 0
        for _ in range(10):
            account.deposit(1)
            store.save(account)
        store.flush()
        assert json.loads(newest(engine).value or b"")["version"] == 20


def test_17c_closing_the_engine_takes_the_snapshots_that_are_due(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        account = Counting()  # not loaded: the topic of snapshots is opened by the first one
        for _ in range(10):
            account.deposit(1)
        opened(engine).save(account, "1")
    assert (tmp_path / "data/topics" / SNAPSHOTS / "clean").exists()
    with pylog.open(tmp_path / "data") as engine:
        assert json.loads(newest(engine).value or b"")["version"] == 10


def test_17c_snapshots_come_by_bytes_too(engine: pylog.Engine) -> None:
    store = opened(engine, snapshot_every=None, snapshot_bytes=100)
    size = len(msgspec.json.encode(Deposited(1)))
    deposit(store, 100)
    taken = [json.loads(r.value or b"")["version"] for r in engine.read(SNAPSHOTS)]
    assert taken == list(range(-(-100 // size), 101, -(-100 // size)))
    deposit(store, 1, amount=10**9)
    assert replayed(store)[1:] == (100 + 10**9, 101)


@pytest.mark.parametrize(
    "trouble",
    [
        "missing",
        "damaged",
        "another checksum",
        "older schema",
        "newer schema",
        "another class",
        "no snapshot",
    ],
)
def test_17c_one_that_cannot_be_used_means_a_replay_and_the_same_state(
    tmp_path: Path, trouble: str
) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as engine:
        deposit(opened(engine), 25)
        value, headers = newest(engine).value or b"", newest(engine).headers
        key, other = b"Account-1", value.replace(b'"balance":20', b'"balance":99')
        if trouble == "missing":
            engine.delete_topic(SNAPSHOTS)
        elif trouble == "another checksum":
            for _ in range(8):
                engine.append(SNAPSHOTS, other, key, headers=headers)
        elif trouble == "no snapshot":
            for wrong in (b"{}", b"[1]", b"", b"\xff", None, b'{"state":' * 2000, b"nul"):
                checksum = xxhash.xxh3_64_hexdigest(wrong or b"").encode()
                engine.append(SNAPSHOTS, wrong, key, headers=[("checksum", checksum)])
                engine.append(SNAPSHOTS, wrong, key)
        elif trouble != "damaged":
            changes: dict[str, Any] = {
                "older schema": {"schema": 0},
                "newer schema": {"schema": 2},
                "another class": {"aggregate": "Loan"},
            }[trouble]
            for _ in range(8):
                forge(engine, **changes)
    if trouble == "damaged":
        (log,) = (data / "topics" / SNAPSHOTS / "0").glob("*.log")
        log.write_bytes(log.read_bytes().replace(b'"balance":', b'"balance";'))
    with pylog.open(data) as engine:
        assert replayed(opened(engine)) == (25, 25, 25)


@pytest.mark.parametrize(
    "changes",
    [{"version": 21}, {"version": 19}, {"offset": 3}, {"offset": 10**9}, {"epoch": 7}, {"timestamp": 7}],
    ids=str,
)
def test_17c_one_of_another_history_is_passed_over_for_an_older_one(
    engine: pylog.Engine, changes: dict[str, int]
) -> None:
    store = opened(engine)
    deposit(store, 25)
    forge(engine, state={"balance": 10**6}, **changes)
    assert replayed(store) == (5, 25, 25)


def test_17c_one_of_a_topic_that_was_made_anew_is_not_used(engine: pylog.Engine) -> None:
    deposit(opened(engine), 20)
    engine.delete_topic("accounts")
    store = opened(engine)
    assert replayed(store) == (0, 0, 0)
    for _ in range(25):
        store.append("Account-1", Deposited(100))  # version, offset and epoch are what the snapshot says
    assert replayed(store) == (25, 2500, 25)


def test_17c_a_raised_schema_makes_snapshots_of_its_own(engine: pylog.Engine) -> None:
    class Newer(Counting):
        snapshot_schema = 2

    Newer.__name__ = "Counting"
    store = opened(engine)
    deposit(store, 25)
    deposit(store, 5, kind=Newer)
    assert json.loads(newest(engine).value or b"")["schema"] == 2
    Counting.applied = 0
    assert (store.load(Newer, "1").balance, Counting.applied) == (30, 4)
    assert replayed(store) == (10, 30, 30)


def test_17c_a_state_that_json_changes_takes_none_until_it_is_annotated(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(pylog.Aggregate):
        total = Decimal(0)
        seen: Any = ()

        def apply(self, event: Any) -> None:
            self.total = self.total + Decimal(event.amount) / 3
            self.seen = (*self.seen, event.amount)

    class Typed(Plain):
        total: Decimal = Decimal(0)
        seen: tuple[int, ...] = ()
        at: datetime | None = None

        def apply(self, event: Any) -> None:
            super().apply(event)
            self.at = datetime(2026, 1, event.amount, tzinfo=UTC)

    store = opened(engine, snapshot_every=2)
    for kind in (Plain, Typed):
        thing = store.load(kind, "1")
        for day in range(1, 6):
            thing.record(Deposited(day))
            store.save(thing)
            store.flush()
        assert vars(store.load(kind, "1")).keys() == vars(thing).keys()
        assert store.load(kind, "1").total == thing.total
        taken = len(engine.read_key(SNAPSHOTS, f"{kind.__name__}-1".encode()))
        assert taken == (2 if kind is Typed else 0)
    assert store.load(Typed, "1").at == datetime(2026, 1, 5, tzinfo=UTC)
    assert caplog.text.count("takes no snapshots") == 1


class Color(IntEnum):
    RED = 1


@dataclass
class Box:
    inside: Any


@pytest.mark.parametrize(
    "state",
    [Counter(a=1), defaultdict(int, a=1), [Counter(a=1)], {"a": (1,)}, Color.RED, Box(Color.RED)],
    ids=repr,
)
def test_17c_a_state_of_types_that_json_has_not_takes_none(engine: pylog.Engine, state: Any) -> None:
    class Holding(pylog.Aggregate):
        kept: Box | None = None  # annotated: comes back as a Box, but not what is in it

        def apply(self, event: Any) -> None:
            if isinstance(state, Box):
                self.kept = state
            else:
                self.held = state

    store = opened(engine, snapshot_every=1)
    thing = store.load(Holding, "1")
    thing.record(Deposited(1))
    store.save(thing)
    store.flush()
    assert engine.log_end_offset(SNAPSHOTS, 0) == 0
    assert repr(store.load(Holding, "1")) == repr(thing)  # the state, types and all


def test_17c_annotations_that_name_nothing_take_none_and_use_none(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    class Named(Account):
        balance: int = 0

    class Nameless(Account):
        balance: Missing = 0  # type: ignore[name-defined]  # noqa: F821  # imported for the type checker alone

    Nameless.__name__ = "Named"
    deposit(opened(engine), 20, kind=Named)
    store = opened(engine, snapshot_every=1)
    thing = store.load(Nameless, "1")
    thing.deposit(1)
    store.save(thing)
    store.flush()
    assert store.load(Nameless, "1").balance == store.load(Named, "1").balance == 21
    assert len(engine.read_key(SNAPSHOTS, b"Named-1")) == 2
    assert caplog.text.count("takes no snapshots") == 1
    assert "failed" not in caplog.text


def test_17c_an_aggregate_that_ends_the_thread_stops_no_snapshot_of_others(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    main = threading.current_thread()

    class Leaving(Account):
        def apply(self, event: Any) -> None:
            if threading.current_thread() is not main:
                raise SystemExit(3)
            super().apply(event)

    store = opened(engine, snapshot_every=1)
    for kind in (Leaving, Counting):
        account = store.load(kind, "1")
        account.deposit(1)
        store.save(account)
        store.flush()  # returns
    assert "work in the background failed" in caplog.text
    assert json.loads(newest(engine).value or b"")["aggregate"] == "Counting"


def test_17c_a_snapshot_that_fails_fails_no_save(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(engine)
    account = store.load(Account, "1")
    engine.delete_topic(SNAPSHOTS)
    for _ in range(10):
        account.deposit(1)
    done = store.save(account)
    assert done is not None
    assert done.version == 10
    store.flush()
    assert "no snapshot of Account-1 was taken" in caplog.text
    assert store.load(Account, "1").balance == 10


KILLED = """
import sys, pylog
sys.path.insert(0, sys.argv[2])
from accounts import EVENTS, Account
with pylog.open(sys.argv[1]) as engine:
    store = engine.event_store("accounts", events=EVENTS, snapshot_every=3)
    account = store.load(Account, "1")
    while True:
        account.deposit(1)
        print(store.save(account).version, flush=True)
"""


def test_17c_killed_at_any_time_the_state_is_what_was_acknowledged(tmp_path: Path) -> None:
    class Replaying(Counting):
        """Takes the snapshots of an Account."""

    Replaying.__name__ = "Account"
    dice, acknowledged = random.Random(5), 0
    with pylog.open(tmp_path / "data") as engine:
        store = opened(engine, snapshot_every=3)
        plain = engine.event_store("accounts", events=EVENTS)
        for _ in range(5):
            taken = engine.log_end_offset(SNAPSHOTS, 0)
            with Child(KILLED, tmp_path / "data", Path(__file__).parent) as child:
                while engine.log_end_offset(SNAPSHOTS, 0) == taken:
                    acknowledged = int(child.says())
                for _ in range(dice.randrange(60)):
                    acknowledged = int(child.says())
                child.kill()
            at = json.loads(newest(engine).value or b"")["version"]
            Counting.applied = 0
            found = store.load(Replaying, "1")
            assert Counting.applied == found.version - at < found.version
            everything = plain.load(Account, "1")
            assert (found.balance, found.version) == (everything.balance, everything.version)
            assert everything.balance == everything.version >= acknowledged


def test_17c_a_copy_without_its_snapshots_is_whole(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        deposit(opened(engine), 25)
    shutil.rmtree(tmp_path / "data" / "topics" / SNAPSHOTS)
    with pylog.open(tmp_path / "data", read_only=True) as engine:
        assert replayed(opened(engine)) == (25, 25, 25)
    with pylog.open(tmp_path / "data") as engine:
        assert replayed(opened(engine)) == (25, 25, 25)
