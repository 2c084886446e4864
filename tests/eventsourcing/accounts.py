"""What the tests of event sourcing store: an account, and what happens to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

import pylog


class Deposited(msgspec.Struct, frozen=True):
    amount: int


@dataclass(frozen=True)
class Withdrawn:
    amount: int
    place: str = "counter"


class Account(pylog.Aggregate):
    balance = 0

    def deposit(self, amount: int) -> None:
        self.record(Deposited(amount))

    def withdraw(self, amount: int) -> None:
        if amount > self.balance:
            raise ValueError("not enough")
        self.record(Withdrawn(amount))

    def apply(self, event: Any) -> None:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount


EVENTS: list[type] = [Deposited, Withdrawn]
