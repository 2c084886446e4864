"""Contests of the event store: saving and loading aggregates, and catching up with all events.

The peer syncs each save, and so does pylog here. A rate of loads is in loads a second, whatever their length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import eventstores
from benchmarks.contest import Contest, Contestant, Goal, Operation, Row, Timed
from benchmarks.eventstores import NAME as PEER
from benchmarks.probe import operations as ceilings
from benchmarks.suite.opening import open_engine
from benchmarks.workload import Workload

EVENT = 12                              # bytes of an event's value; with key and headers it is 80 on disk
ALONE = 76                              # of the ceiling's value: with its overhead what one event takes alone
BATCH = 100
SNAPSHOT_EVERY = 100
BEHIND = 5                              # events that follow the last snapshot
FILL = 1000                             # events a save, of what is loaded later
LENGTHS = {10: 1000, 1000: 50, 100_000: 1}
"""Events of a stream, and how many of them are loaded in turn."""
SNAPSHOTS = (1000, 100_000)
"""Events that the last snapshot has."""


@contextmanager
def opened(directory: Path, snapshot_every: int | None = None) -> Iterator[tuple[Any, Any, Any]]:
    """An event store, the class of its aggregates, and that of their events."""
    with open_engine(directory) as engine:
        import msgspec

        import pylog

        class Deposited(msgspec.Struct):
            amount: int

        class Account(pylog.Aggregate):
            balance: int = 0

            def deposit(self, amount: int) -> None:
                self.record(Deposited(amount))

            def apply(self, event: Any) -> None:
                self.balance += event.amount

        store = engine.event_store(
            "accounts", events=[Deposited], durability="sync", snapshot_every=snapshot_every
        )
        yield store, Account, Deposited


def fill(store: Any, kind: Any, streams: int, events: int, at_once: int = FILL) -> None:
    """Save so many accounts of so many events each, with the snapshots that are due after each save."""
    for number in range(streams):
        account = store.load(kind, str(number))
        for at in range(1, events + 1):
            account.deposit(1)
            if at % at_once == 0 or at == events:
                store.save(account)
                store.flush()


def saving(at_once: int) -> Operation:
    """`store.save` of one aggregate, `at_once` events a time."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with opened(directory) as (store, kind, _):
            account = store.load(kind, "x")

            def timed() -> None:
                for _ in range(work.count // at_once):
                    for _ in range(at_once):
                        account.deposit(1)
                    store.save(account)

            yield timed

    return operation


def loading(streams: int, events: int, snapshot_every: int | None) -> Operation:
    """`store.load` of aggregates of so many events, one after the other."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with opened(directory, snapshot_every) as (store, kind, _):
            fill(store, kind, streams, events, snapshot_every or FILL)

            def timed() -> None:
                load = store.load
                for number in range(work.count):
                    if load(kind, str(number % streams)).version != events:
                        raise AssertionError("an event is missing")

            yield timed

    return operation


@contextmanager
def catching_up(directory: Path, work: Workload) -> Iterator[Timed]:
    """A consumer from the first event on, and `store.event` of each record."""
    with opened(directory) as (store, kind, _):
        fill(store, kind, work.count // FILL, FILL)

        def timed() -> None:
            seen, event = 0, store.event
            with store.consumer() as consumer:
                while records := consumer.poll(FILL):
                    for record in records:
                        event(record)
                    seen += len(records)
            if seen != work.count:
                raise AssertionError(f"{seen} of {work.count} events")

        yield timed


def save_contest(count: int, at_once: int, slow: float) -> Contest:
    """Saves of one event, or of a batch."""
    each = at_once == 1
    ceiling = (Contestant("C fdatasync", ceilings.synced_append, Workload(ALONE, count)),) if each else ()
    peer = eventstores.saving(max(at_once, int(2_000 * slow) * (1 if each else 10)), at_once)
    name = "one event" if each else f"{at_once} events"
    goal = Goal(ratio=0.9) if each else Goal(peers={PEER: 10.0})
    return Contest(
        name=f"event store, save {name}",
        size=EVENT,
        codec="raw",
        durability="sync",
        contestants=(*ceiling, Contestant("save", saving(at_once), Workload(EVENT, count)), peer),
        rows=(Row(f"events saved, {name} a save", "save", "C fdatasync" if each else None, goal, (PEER,)),),
        warm_up=False,
    )


def load_contest(events: int, snapshot_every: int | None, slow: float) -> Contest:
    """Loads of streams of one length; or from a snapshot of so many events, with a few events after it."""
    streams = LENGTHS[events]
    loads = max(streams, int(20_000 * slow) if snapshot_every else int(2_000_000 * slow) // events)
    peers = loads if snapshot_every else max(1, loads // 20)
    name = f"{events:,} events"
    if snapshot_every:
        name = f"{events + BEHIND:,} events, {BEHIND} of them after the snapshot"
        events += BEHIND
    ours = Contestant("load", loading(streams, events, snapshot_every), Workload(EVENT, min(loads, 20_000)))
    return Contest(
        name=f"event store, load {name}",
        size=EVENT,
        codec="raw",
        durability="sync",
        contestants=(ours, eventstores.loading(min(peers, 2_000), streams, events, snapshot_every)),
        rows=(Row(f"loads of aggregates of {name}", "load", None, Goal(peers={PEER: 10.0}), (PEER,)),),
        warm_up=False,
    )


def events(count: int, slow: float) -> list[Contest]:
    """Saves, loads and catching up, beside the eventsourcing package."""
    found = [save_contest(int(4_000 * slow), 1, slow), save_contest(int(200_000 * slow), BATCH, slow)]
    found += [load_contest(length, None, slow) for length in LENGTHS]
    found += [load_contest(length, SNAPSHOT_EVERY, slow) for length in SNAPSHOTS]
    reading = Contestant("catch up", catching_up, Workload(EVENT, count // FILL * FILL))
    peer = eventstores.catching_up(int(20_000 * slow) // FILL * FILL)
    found.append(
        Contest(
            name="event store, catch up",
            size=EVENT,
            codec="raw",
            durability="sync",
            contestants=(reading, peer),
            rows=(Row("events caught up with", "catch up", None, Goal(peers={PEER: 10.0}), (PEER,)),),
            warm_up=False,
        )
    )
    return found
