"""The `eventsourcing` package on its SQLite recorder: what users would pick instead of pylog's event store.

It keeps SQLite's defaults: WAL, synchronous=FULL, so that each save is on disk when it returns. The aggregate
is written as its documentation shows it. Invariant: the same works as those of `benchmarks.suite.events`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.contest import Contestant, SkippedError, Timed
from benchmarks.workload import Workload

NAME = "eventsourcing SQLite"
PAGE = 1000
EVENT = 12                      # as in benchmarks.suite.events: how this package writes one is its own


@cache
def account_class() -> Any:
    """The aggregate: the package knows a class by its name, so it is made once."""
    try:
        from eventsourcing.domain import Aggregate, event
    except ImportError as error:
        raise SkippedError(f"{NAME} is skipped: no package eventsourcing ({error})") from None

    class Account(Aggregate):
        @event("Opened")
        def __init__(self, owner: str) -> None:
            self.owner = owner
            self.balance = 0

        @event("Deposited")
        def deposit(self, amount: int) -> None:
            self.balance += amount

    return Account


class Bank:
    """An application with accounts; it takes a snapshot of one every so many events."""

    def __init__(self, directory: Path, snapshot_every: int | None) -> None:
        self.account = account_class()
        from eventsourcing.application import Application

        class Accounts(Application[UUID]):
            snapshotting_intervals = {self.account: snapshot_every} if snapshot_every else None

        self.app: Any = Accounts(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": str(directory / "events.db"),
            }
        )

    def fill(self, streams: int, events: int) -> list[UUID]:
        """Save so many accounts of so many events each."""
        found = []
        for number in range(streams):
            account = self.account(str(number))
            for _ in range(events - 1):
                account.deposit(1)
                if len(account.pending_events) == PAGE:
                    self.app.save(account)
            self.app.save(account)
            found.append(account.id)
        return found


@contextmanager
def opened(directory: Path, snapshot_every: int | None = None) -> Iterator[Bank]:
    """A bank with no accounts."""
    bank = Bank(directory, snapshot_every)
    try:
        yield bank
    finally:
        bank.app.close()


def saving(count: int, at_once: int) -> Contestant:
    """Save `count` events of one aggregate, `at_once` a time."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with opened(directory) as bank:
            account = bank.account("x")
            bank.app.save(account)

            def timed() -> None:
                for _ in range(work.count // at_once):
                    for _ in range(at_once):
                        account.deposit(1)
                    bank.app.save(account)

            yield timed

    return Contestant(NAME, operation, Workload(EVENT, count), peer=True)


def loading(count: int, streams: int, events: int, snapshot_every: int | None) -> Contestant:
    """Load `count` times an aggregate of so many events."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with opened(directory, snapshot_every) as bank:
            ids = bank.fill(streams, events)

            def timed() -> None:
                get = bank.app.repository.get
                for number in range(work.count):
                    if get(ids[number % streams]).version != events:
                        raise AssertionError("an event is missing")

            yield timed

    return Contestant(NAME, operation, Workload(EVENT, count), peer=True)


def catching_up(count: int) -> Contestant:
    """Read all events of all aggregates in their order, as objects."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with opened(directory) as bank:
            bank.fill(work.count // PAGE, PAGE)

            def timed() -> None:
                select, decode = bank.app.recorder.select_notifications, bank.app.mapper.to_domain_event
                start, seen = 1, 0
                while found := select(start, PAGE):
                    for notification in found:
                        decode(notification)
                    start = found[-1].id + 1
                    seen += len(found)
                if seen != work.count:
                    raise AssertionError(f"{seen} of {work.count} events")

            yield timed

    return Contestant(NAME, operation, Workload(EVENT, count), peer=True)
