"""Pattern 18: commands with one handler, and tables in memory."""

from __future__ import annotations

import random
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from accounts import EVENTS, Account, Deposited
from children import Child
from read_models import Balances, database, fold, rows

import pylog
from pylog.eventsourcing.audit import audit
from pylog.eventsourcing.store import EventStore
from pylog.patterns.cqrs import Work


class Deposit(msgspec.Struct):
    account: str
    amount: int


class Transfer(msgspec.Struct):
    source: str
    target: str
    amount: int


def bus_of(store: EventStore) -> pylog.CommandBus:
    bus = pylog.CommandBus(store)

    @bus.handler(Deposit)
    def deposit(command: Deposit, work: Work) -> int:
        account = work.load(Account, command.account)
        account.deposit(command.amount)
        return account.balance

    @bus.handler(Transfer)
    def transfer(command: Transfer, work: Work) -> None:
        work.load(Account, command.source).withdraw(command.amount)
        work.load(Account, command.target).deposit(command.amount)

    return bus


@pytest.fixture
def store(engine: pylog.Engine) -> EventStore:
    return engine.event_store("accounts", events=EVENTS, partitions=3, snapshot_every=5)


@pytest.fixture
def bus(store: EventStore) -> pylog.CommandBus:
    return bus_of(store)


def test_a_command_has_one_handler(bus: pylog.CommandBus, store: EventStore) -> None:
    receipt = bus.send(Deposit("a", 50), metadata={"actor": "alice"})
    assert (receipt.result, receipt.duplicate, len(receipt.tokens)) == (50, False, 1)
    assert store.load(Account, "a").balance == 50
    (change,) = audit(store, "Account-a")
    assert change.actor == "alice"
    assert change.causation_id is not None
    with pytest.raises(pylog.ConfigError, match="nobody handles"):
        bus.send(Deposited(1))
    with pytest.raises(pylog.ConfigError, match="has a handler already"):
        bus.handler(Deposit)(lambda command, work: None)


def test_what_one_command_changes_is_stored_together_or_not_at_all(
    bus: pylog.CommandBus, store: EventStore
) -> None:
    bus.send(Deposit("a", 50))
    receipt = bus.send(Transfer("a", "b", 20))
    assert len(receipt.tokens) == 2
    with pytest.raises(ValueError, match="not enough"):
        bus.send(Transfer("a", "b", 31))
    assert [store.load(Account, name).balance for name in "ab"] == [30, 20]


def test_a_handler_decides_again_where_somebody_was_first(store: EventStore) -> None:
    bus, calls = pylog.CommandBus(store, attempts=3), []

    @bus.handler(Deposit)
    def deposit(command: Deposit, work: Work) -> None:
        account = work.load(Account, command.account)
        calls.append(account.version)
        if len(calls) < command.amount:
            store.append("Account-a", Deposited(1))
        account.deposit(100)

    bus.send(Deposit("a", 3))
    assert (calls, store.load(Account, "a").balance) == ([0, 1, 2], 102)
    with pytest.raises(pylog.VersionConflictError):
        bus.send(Deposit("a", 100))
    assert len(calls) == 6


def test_a_command_with_a_key_has_its_effect_once(bus: pylog.CommandBus, store: EventStore) -> None:
    first = bus.send(Deposit("a", 50), idempotency_key="d-1")
    again = bus_of(store).send(Deposit("a", 50), idempotency_key="d-1")
    assert (again.tokens, again.result, again.duplicate) == (first.tokens, 50, True)
    moved = bus.send(Transfer("a", "b", 20), idempotency_key="t-1")
    assert bus.send(Transfer("a", "b", 20), idempotency_key="t-1").tokens == moved.tokens
    assert [store.load(Account, name).balance for name in "ab"] == [30, 20]
    (change,) = list(audit(store, "Account-b"))
    assert change.causation_id == "t-1"


SENDER = """
import sys, pylog
sys.path[:0] = [sys.argv[2]]
from accounts import EVENTS
from test_cqrs import Deposit, Transfer, bus_of
with pylog.open(sys.argv[1]) as engine:
    bus = bus_of(engine.event_store("accounts", events=EVENTS, partitions=3, snapshot_every=5))
    print("ready", flush=True)
    for line in sys.stdin:
        source, target, key = line.split()
        bus.send(Deposit(source, 10), idempotency_key="deposit " + key)
        bus.send(Transfer(source, target, 7), idempotency_key="transfer " + key)
        print(key, flush=True)
"""


def test_a_command_repeated_after_a_kill_has_its_effect_once(tmp_path: Path, store: EventStore) -> None:
    dice, done, wanted = random.Random(4), 0, 30
    pairs = [(f"s{dice.randrange(3)}", f"t{dice.randrange(3)}") for _ in range(wanted)]
    while done < wanted:
        with Child(SENDER, tmp_path / "data", Path(__file__).parent) as child:
            child.says()
            for source, target in pairs[done:]:
                child.tell(f"{source} {target} {done}")
                if dice.random() < 0.15:
                    while dice.random() < 0.999:  # somewhere on its way
                        pass
                    child.kill()
                    break
                child.says()
                done += 1
    for name in ("s0", "s1", "s2"):
        sent = sum(source == name for source, _ in pairs)
        assert store.load(Account, name).balance == 3 * sent
    for name in ("t0", "t1", "t2"):
        assert store.load(Account, name).balance == 7 * sum(target == name for _, target in pairs)


def test_a_key_that_named_another_command_is_refused(bus: pylog.CommandBus, store: EventStore) -> None:
    bus.send(Deposit("a", 50), idempotency_key="d-1")
    for other in (Deposit("a", 51), Deposit("b", 50), Transfer("a", "b", 50)):
        with pytest.raises(pylog.ConfigError, match="another command"):
            bus.send(other, idempotency_key="d-1")
    assert bus.send(Deposit("a", 50), idempotency_key="d-1").duplicate
    assert [store.load(Account, name).balance for name in "ab"] == [50, 0]


def test_a_handler_that_raises_leaves_the_key_free(bus: pylog.CommandBus, store: EventStore) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="not enough"):
            bus.send(Transfer("a", "b", 20), idempotency_key="t-1")
    bus.send(Deposit("a", 50))
    assert not bus.send(Transfer("a", "b", 20), idempotency_key="t-1").duplicate
    assert bus.send(Transfer("a", "b", 20), idempotency_key="t-1").duplicate
    assert [store.load(Account, name).balance for name in "ab"] == [30, 20]


def test_who_loses_to_the_same_command_gets_its_receipt(store: EventStore) -> None:
    bus = pylog.CommandBus(store, attempts=1)

    @bus.handler(Deposit)
    def deposit(command: Deposit, work: Work) -> str:
        account = work.load(Account, command.account)
        bus_of(store).send(command, idempotency_key="d-1")  # another process, in the middle of ours
        account.deposit(command.amount)
        return "ours"

    receipt = bus.send(Deposit("a", 50), idempotency_key="d-1")
    assert (receipt.result, receipt.duplicate) == (50, True)
    assert store.load(Account, "a").balance == 50


def test_who_cannot_do_again_what_was_done_meanwhile_gets_its_receipt(store: EventStore) -> None:
    bus_of(store).send(Deposit("a", 50))
    bus = pylog.CommandBus(store, attempts=1)

    @bus.handler(Transfer)
    def transfer(command: Transfer, work: Work) -> None:
        bus_of(store).send(command, idempotency_key="t-1")  # another process, in the middle of ours
        work.load(Account, command.source).withdraw(command.amount)  # not enough any more

    assert bus.send(Transfer("a", "b", 40), idempotency_key="t-1").duplicate
    assert [store.load(Account, name).balance for name in "ab"] == [10, 40]


def test_processes_that_send_a_command_at_once_handle_it_once(tmp_path: Path, store: EventStore) -> None:
    with ExitStack() as stack:
        senders = [
            stack.enter_context(Child(SENDER, tmp_path / "data", Path(__file__).parent)) for _ in range(3)
        ]
        for sender in senders:
            sender.says()
        for number in range(40):
            for sender in senders:
                sender.tell(f"s{number % 3} t{number % 2} {number}")
            assert [sender.says() for sender in senders] == [str(number)] * 3
    assert sum(store.load(Account, f"s{n}").balance for n in range(3)) == 40 * 3
    assert sum(store.load(Account, f"t{n}").balance for n in range(2)) == 40 * 7


def test_one_stream_is_one_aggregate_of_a_command(store: EventStore) -> None:
    class Savings(Account):
        category = "Account"

    bus = pylog.CommandBus(store)

    @bus.handler(Deposit)
    def deposit(command: Deposit, work: Work) -> None:
        for kind in (Account, Savings):
            work.load(kind, command.account).deposit(command.amount)

    with pytest.raises(pylog.ConfigError, match="loaded as Account"):
        bus.send(Deposit("a", 50))
    account = store.load(Account, "a")
    account.deposit(1)
    with pytest.raises(pylog.ConfigError, match="guard already"), store.engine.transaction() as transaction:
        store.save_in(transaction, account)
        store.save_in(transaction, account)
    assert store.version("Account-a") == 0


def test_18b_a_receipt_is_what_a_read_model_waits_for(
    engine: pylog.Engine, bus: pylog.CommandBus, store: EventStore, tmp_path: Path
) -> None:
    with closing(database(tmp_path / "read.db")) as db:
        model = pylog.ReadModel(engine, store, Balances(), db)
        bus.send(Deposit("a", 50))
        receipt = bus.send(Transfer("a", "b", 20))
        with pytest.raises(pylog.RequestTimeoutError):
            model.wait_for(receipt, timeout=0.0)
        model.catch_up()
        model.wait_for(receipt, timeout=0.0)
        assert rows(db) == fold(store) == {"Account-a": (30, 2), "Account-b": (20, 1)}


# ---- tables --------------------------------------------------------------------------------------------


def test_a_table_is_the_last_value_of_each_key(engine: pylog.Engine) -> None:
    engine.create_topic("prices", partitions=3, cleanup_policy="compact", segment_bytes=16 << 10)
    dice, model = random.Random(6), dict[str, int]()
    with pylog.Table(engine, "prices", key_serde="str", value_serde="json") as table:
        for number in range(600):
            name = f"p{dice.randrange(40)}"
            if dice.random() < 0.2:
                engine.append("prices", None, name.encode())
                model.pop(name, None)
            else:
                token = engine.append("prices", b"%d" % number, name.encode())
                model[name] = number
            if number % 150 == 0:
                engine.clean("prices", now=True)
        assert table.lag().records > 0
        table.wait_for(token, timeout=10)
        table.refresh()
        assert dict(table) == model
        assert table.lag() == (0, 0.0)
        assert (len(table), table.get("no such", 5), "no such" in table) == (len(model), 5, False)
    with pylog.Table(engine, "prices", key_serde="str", value_serde="json") as anew:
        assert dict(anew) == model


def test_a_table_follows_partitions_that_come_and_a_topic_that_is_made_anew(engine: pylog.Engine) -> None:
    engine.create_topic("prices", cleanup_policy="compact")
    with pylog.Table(engine, "prices", key_serde="str") as table:
        engine.append("prices", b"1", b"a", partition=0)
        assert (table.refresh(), dict(table)) == (1, {"a": b"1"})
        engine.create_partitions("prices", 4)
        engine.append("prices", b"2", b"b", partition=3)
        assert (table.refresh(), dict(table)) == (1, {"a": b"1", "b": b"2"})
        engine.delete_topic("prices")
        engine.create_topic("prices", cleanup_policy="compact")
        engine.append("prices", b"3", b"c")
        assert (table.refresh(), dict(table)) == (1, {"c": b"3"})


def test_a_table_waits_no_longer_than_it_was_told(engine: pylog.Engine) -> None:
    engine.create_topic("prices")
    with pylog.Table(engine, "prices") as table:
        token = engine.append("prices", b"1", b"a")
        table.wait_for(token, timeout=10)
        assert table[b"a"] == b"1"
        later: Any = pylog.RecordId("prices", 0, token.offset + 1)
        with pytest.raises(pylog.RequestTimeoutError):
            table.wait_for(later, timeout=0.0)


class Numbered(sqlite3.Cursor):
    """Takes a sequence for `:1`, `:2`, as the modules of paramstyle "numeric" do."""

    def execute(self, sql: str, values: Any = ()) -> Any:
        named = {str(number): value for number, value in enumerate(values, 1)}
        return super().execute(sql, named if ":1" in sql else values)


class NumberedConnection(sqlite3.Connection):
    def cursor(self, factory: Any = Numbered) -> Any:
        return super().cursor(factory)


def test_a_read_model_takes_connections_with_numbered_parameters(
    engine: pylog.Engine, store: EventStore, tmp_path: Path
) -> None:
    store.append("Account-a", Deposited(1))
    with closing(sqlite3.connect(tmp_path / "read.db", factory=NumberedConnection)) as db:
        model = pylog.ReadModel(engine, store, Balances(), db, paramstyle="numeric")
        model.catch_up()
        assert rows(db) == fold(store)
