"""Pattern 17: streams, expected versions, time travel, audit."""

from __future__ import annotations

import random
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from accounts import EVENTS, Account, Deposited, Withdrawn
from children import Child

import pylog
from pylog import correlation
from pylog.eventsourcing.audit import audit
from pylog.eventsourcing.events import encode_events
from pylog.eventsourcing.store import EventStore


class Won(msgspec.Struct):
    racer: int
    version: int


@pytest.fixture
def store(engine: pylog.Engine) -> EventStore:
    return engine.event_store("accounts", events=EVENTS, partitions=4, segment_bytes=32 << 10)


def test_a_stream_is_read_in_every_direction(store: EventStore) -> None:
    for amount in range(1, 8):
        store.append("Account-1", Deposited(amount), expected_version=amount - 1)
        store.append("Account-2", [Deposited(100), Withdrawn(1)])
    assert [event.data for event in store.read("Account-1")] == [Deposited(n) for n in range(1, 8)]
    assert [event.version for event in store.read("Account-1", first=3, last=5)] == [3, 4, 5]
    assert [event.version for event in store.read("Account-1", backward=True, most=2)] == [7, 6]
    assert [event.version for event in store.read("Account-2")] == list(range(1, 15))
    assert list(store.read("Account-3")) == []
    assert store.version("Account-3") == 0
    third = next(store.read("Account-1", first=3))
    assert [event.version for event in store.read("Account-1", until=third.timestamp)] == [1, 2, 3]
    assert list(store.read("Account-1", until=datetime(1990, 1, 1, tzinfo=UTC))) == []


def test_all_streams_and_categories_have_an_order_in_each_partition(store: EventStore) -> None:
    for number in range(30):
        store.append(f"{random.Random(number).choice(['Account', 'Loan'])}-{number % 7}", Deposited(number))
    everything = list(store.read_all())
    assert sorted(event.data.amount for event in everything) == list(range(30))
    loans = list(store.read_category("Loan"))
    assert loans == [event for event in everything if event.category == "Loan"]
    assert {event.stream for event in loans} == set(store.streams("Loan"))
    for partition in range(4):
        seen = [event.data.amount for event in store.read_all(partition)]
        assert seen == sorted(seen)


def test_a_category_ends_at_the_first_hyphen(store: EventStore) -> None:
    for stream in ("Account", "Account-1", "Account-eu-1", "Accounts-1", "Account-eu"):
        store.append(stream, Deposited(1))
    assert {event.stream for event in store.read_category("Account")} == set(store.streams("Account"))
    assert set(store.streams("Account")) == {"Account", "Account-1", "Account-eu-1", "Account-eu"}
    assert store.streams("Account-eu") == list(store.read_category("Account-eu")) == []
    with pytest.raises(pylog.ConfigError, match="category"):
        type("European", (Account,), {"category": "Account-eu"})


def test_a_version_that_cannot_be_is_told(store: EventStore) -> None:
    store.append("Account-1", [Deposited(1), Deposited(2)])
    wrong: dict[str, Any]
    for wrong in ({"last": -1}, {"first": -1}, {"most": -1}):
        with pytest.raises(pylog.ConfigError):
            store.read("Account-1", **wrong)
    with pytest.raises(pylog.ConfigError):
        store.state_at(Account, "1", version=-1)


def test_a_subscription_over_all_streams_is_a_consumer(store: EventStore, engine: pylog.Engine) -> None:
    for number in range(20):
        store.append(f"Account-{number % 5}", Deposited(number))
    seen: list[pylog.Event] = []
    with store.consumer(group="readers") as consumer:
        while len(seen) < 20:
            seen += [store.event(record) for record in consumer.poll(timeout=5)]
        consumer.commit()
    assert sorted(event.data.amount for event in seen) == list(range(20))
    assert {engine.consumed_by("accounts", *place_of(event))["readers"] for event in seen} == {True}


def place_of(event: pylog.Event) -> tuple[int, int]:
    return event.record_id.partition, event.record_id.offset


def test_an_expected_version_that_is_not_the_stream_s_is_told(store: EventStore) -> None:
    assert store.append("Account-1", [Deposited(1), Deposited(2)], expected_version=0).version == 2
    for wrong in (0, 1, 3):
        with pytest.raises(pylog.VersionConflictError) as told:
            store.append("Account-1", Deposited(3), expected_version=wrong)
        assert (told.value.stream, told.value.expected, told.value.actual) == ("Account-1", wrong, 2)
    for nothing in ([], {"amount": 3}):
        with pytest.raises(pylog.ConfigError):
            store.append("Account-1", nothing)
    assert store.version("Account-1") == 2


def test_an_aggregate_decides_and_is_saved_once(store: EventStore) -> None:
    account = store.load(Account, "7")
    account.deposit(50)
    account.withdraw(20)
    with pytest.raises(ValueError, match="not enough"):
        account.withdraw(31)
    assert (account.version, len(account.pending)) == (2, 2)
    other = store.load(Account, "7")
    done = store.save(account)
    assert done is not None
    assert (done.stream, done.version) == ("Account-7", 2)
    assert store.save(account) is None
    other.deposit(1)
    with pytest.raises(pylog.VersionConflictError) as told:
        store.save(other)
    assert (told.value.actual, other.pending) == (2, (Deposited(1),))
    account.deposit(1)
    store.save(account)
    again = store.load(Account, "7")
    assert (again.balance, again.version) == (31, 3)


def test_an_aggregate_that_was_made_needs_an_id(store: EventStore) -> None:
    fresh = Account()
    fresh.deposit(5)
    with pytest.raises(pylog.ConfigError):
        store.save(fresh)
    store.save(fresh, "8")
    with pytest.raises(pylog.ConfigError):
        store.save(fresh, "9")
    assert store.load(Account, "8").balance == 5
    assert store.change(Account, "8", lambda a: a.deposit(2)).balance == 7


RACER = """
import sys, pylog, msgspec
class Won(msgspec.Struct):
    racer: int
    version: int
with pylog.open(sys.argv[1]) as engine:
    store = engine.event_store("races", events=[Won])
    print("ready", flush=True)
    sys.stdin.readline()
    won = lost = 0
    while (version := store.version("race-1")) < int(sys.argv[3]):
        try:
            store.append("race-1", Won(int(sys.argv[2]), version + 1), expected_version=version)
            won += 1
        except pylog.VersionConflictError as error:
            assert error.actual > version, (error.actual, version)
            lost += 1
    print(won, lost, flush=True)
"""


def test_17a_of_racing_processes_one_wins_each_version(engine: pylog.Engine, tmp_path: Path) -> None:
    store = engine.event_store("races", events=[Won], segment_bytes=32 << 10)
    with ExitStack() as stack:
        racers = [stack.enter_context(Child(RACER, tmp_path / "data", n, 200)) for n in range(8)]
        for racer in racers:
            assert racer.says() == "ready"
        for racer in racers:
            racer.tell()
        results = [[int(number) for number in racer.says().split()] for racer in racers]
        assert [racer.ends() for racer in racers] == [0] * 8
    events = list(store.read("race-1"))
    assert [event.data.version for event in events] == list(range(1, 201))
    for number, (won, _) in enumerate(results):
        assert sum(event.data.racer == number for event in events) == won


def test_17a_killed_racers_leave_no_gap_and_no_version_twice(engine: pylog.Engine, tmp_path: Path) -> None:
    store = engine.event_store("races", events=[Won], segment_bytes=32 << 10)
    dice = random.Random(1)
    for number in range(5):
        with ExitStack() as stack:
            racers = [
                stack.enter_context(Child(RACER, tmp_path / "data", 10 * number + n, 10**6)) for n in range(2)
            ]
            for racer in racers:
                racer.says()
                racer.tell()
            until = store.version("race-1") + dice.randrange(5, 40)
            while (version := store.version("race-1")) < until:
                ended = [racer.process.poll() for racer in racers]
                assert ended == [None, None], f"racers ended with {ended} at version {version}"
            for racer in racers:
                racer.kill()
    events = list(store.read("race-1"))
    assert [event.data.version for event in events] == list(range(1, len(events) + 1))
    store.append("race-1", Won(-1, len(events) + 1), expected_version=len(events))


def test_17b_loading_one_stream_touches_no_other(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        store = engine.event_store("accounts", events=EVENTS, segment_bytes=64 << 10)
        for number in range(200):
            store.append(f"Account-{number}", [Deposited(number), Withdrawn(number, "x" * 300)])
        store.append("Account-3", Deposited(4))
        store.load(Account, "1")
    # a byte of every other stream is damaged in the sealed segments: who loads this one must not notice
    damaged = 0
    for log in sorted((tmp_path / "data/topics/accounts/0").glob("*.log"))[:-1]:
        content = bytearray(log.read_bytes())
        for number in range(200):
            at = content.find(b"Account-%dAccount-%d" % (number, number))
            if number != 3 and at >= 0:
                content[at] ^= 1
                damaged += 1
        log.write_bytes(content)
    assert damaged > 50
    with pylog.open(tmp_path / "data") as engine:
        store = engine.event_store("accounts", events=EVENTS)
        assert store.load(Account, "3").version == 3
        with pytest.raises(pylog.CorruptionError):
            store.load(Account, "4")


LOADER = """
import sys, pylog
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from accounts import EVENTS, Account
with pylog.open(sys.argv[1], read_only=True) as engine:
    store = engine.event_store("accounts", events=EVENTS)
    print([store.load(Account, name).version for name in sys.argv[3:]], flush=True)
    resident, mapped, active = 0, "", max(map(str, Path(sys.argv[1]).rglob("accounts/0/*.log")))
    for line in open("/proc/self/smaps"):
        words = line.split()
        if not words[0].endswith(":"):
            mapped = words[-1]
        elif words[0] == "Rss:" and mapped.endswith(".log") and mapped != active:
            resident += int(words[1])
    print(resident, flush=True)
"""


def pages_of_one_in(count: int, data: Path) -> tuple[int, int]:
    """KiB of sealed segments that loading three of so many streams brings into memory, and KiB in all."""
    with pylog.open(data) as engine:
        store = engine.event_store("accounts", events=EVENTS, segment_bytes=1 << 20, durability="os")
        values, headers = encode_events(store.types, [Deposited(1)] * 2, 1, None)
        for first in range(0, count, 10_000):
            names = [b"Account-%d" % number for number in range(first, min(first + 10_000, count))]
            for value, header in zip(values, headers, strict=True):
                for at in range(0, len(names), 100):  # small batches: a batch is verified as a whole
                    some = names[at : at + 100]
                    engine.append_many("accounts", [value] * len(some), some, headers=[header] * len(some))
        assert store.load(Account, "1").version == 2  # builds the indexes
    logs = sorted((data / "topics/accounts/0").glob("*.log"))
    wanted = [str(count * part // 5) for part in (1, 2, 3)]
    with Child(LOADER, data, Path(__file__).parent, *wanted) as child:
        assert child.says() == "[2, 2, 2]"
        return int(child.says()), sum(path.stat().st_size for path in logs[:-1]) >> 10


def test_17b_loading_one_of_many_streams_reads_its_pages_only(tmp_path: Path) -> None:
    resident, everything = pages_of_one_in(100_000, tmp_path / "data")
    # six events, and around each page of theirs the kernel maps what one write() brought: 256 KiB at most
    assert resident < 3000 < everything / 4


@pytest.mark.soak
def test_17b_loading_one_of_a_million_streams_reads_its_pages_only(tmp_path: Path) -> None:
    resident, everything = pages_of_one_in(1_000_000, tmp_path / "data")
    assert resident < 3000 < everything / 40


def test_17d_the_state_at_a_version_or_time_is_the_fold_of_the_prefix(engine: pylog.Engine) -> None:
    dice, snapshots = random.Random(3), ({}, {"snapshot_every": 7})
    for options in snapshots:
        given: dict[str, Any] = options
        store = engine.event_store(f"accounts{len(options)}", events=EVENTS, **given)
        account, folds, times = store.load(Account, "1"), [0], [0]
        for _ in range(60):
            for _ in range(dice.choice((1, 1, 3))):
                account.deposit(dice.randrange(100))
                folds.append(account.balance)
            store.save(account)
        times += [event.timestamp for event in store.read("Account-1")]
        for version in range(len(folds)):
            found = store.state_at(Account, "1", version=version)
            assert (found.balance, found.version) == (folds[version], version)
            last = max(n for n, at in enumerate(times) if at <= times[version])
            assert store.state_at(Account, "1", time=times[version]).balance == folds[last]
        assert store.state_at(Account, "1", version=10**6).balance == folds[-1]
        assert store.state_at(Account, "1", time=0).version == 0
        assert store.state_at(Account, "1", time=datetime.max).version == len(folds) - 1
        with pytest.raises(pylog.ConfigError):
            store.state_at(Account, "1")


def test_17d_the_state_at_the_time_that_an_audit_says_has_the_change(store: EventStore) -> None:
    for amount in range(100):
        store.append("Account-1", Deposited(amount))
    for change in audit(store, "Account-1"):
        found = store.state_at(Account, "1", time=change.time)
        same = [event for event in store.read("Account-1") if event.time == change.time]
        assert found.version == same[-1].version >= change.version
        assert [event.version for event in store.read("Account-1", until=change.time)][-1] == found.version
        there = change.time.astimezone(timezone(timedelta(hours=9)))
        naive = change.time.astimezone().replace(tzinfo=None)
        for time in (there, naive):
            assert store.state_at(Account, "1", time=time).version == found.version


def test_17e_an_audit_says_who_changed_what_and_when(store: EventStore) -> None:
    account = store.load(Account, "1")
    account.deposit(5)
    with correlation.correlated("req-1", causation_id="web-9"):
        store.save(account, metadata={"actor": "alice", "reason": "salary"})
    account.withdraw(2)
    store.save(account, metadata={"actor": "bob"})
    first, second = audit(store, "Account-1")
    assert (first.version, first.actor, first.type, first.changes) == (1, "alice", "Deposited", {"amount": 5})
    assert (first.correlation_id, first.causation_id) == ("req-1", "web-9")
    assert (second.actor, second.changes) == ("bob", {"amount": 2, "place": "counter"})
    assert first.time <= second.time
    assert second.correlation_id is None
    assert first.metadata == {"actor": "alice", "reason": "salary"}


def test_17e_history_that_is_not_complete_is_told(store: EventStore, engine: pylog.Engine) -> None:
    with pytest.raises(pylog.TopicConfigError):
        engine.create_partitions("accounts", 8)
    places = [store.append("Account-1", Deposited(n)) for n in range(3)]
    assert store.load(Account, "1").version == len(list(audit(store, "Account-1"))) == 3
    place = places[1].record_id
    engine.delete_records("accounts", place.partition, place.offset)
    with pytest.raises(pylog.CorruptionError):
        store.load(Account, "1")
    with pytest.raises(pylog.CorruptionError):
        list(audit(store, "Account-1"))


def test_a_store_is_no_place_for_topics_that_forget_or_grow(engine: pylog.Engine) -> None:
    engine.create_topic("short", retention_ms=1000)
    engine.create_topic("plain")
    for name in ("short", "plain"):
        with pytest.raises(pylog.TopicConfigError):
            engine.event_store(name, events=EVENTS)
