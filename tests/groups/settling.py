"""Polling until a group has settled."""

from __future__ import annotations

import time
from collections.abc import Callable

import pylog

PATIENCE = 20.0
"""Seconds that a condition may take: twenty times the promise, since tests share the machine."""


def poll_until(consumers: list[pylog.Consumer], done: Callable[[], bool]) -> list[pylog.Record]:
    """Poll in turn until `done`; what was read on the way."""
    found: list[pylog.Record] = []
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, [consumer.assignment() for consumer in consumers]
        for consumer in consumers:
            found += consumer.poll(timeout=0.01)
    return found


def settle(consumers: list[pylog.Consumer], partitions: int) -> None:
    """Poll until the members have all partitions between them, none twice."""

    def settled() -> bool:
        places = [place for consumer in consumers for place in consumer.assignment()]
        sizes = [len(consumer.assignment()) for consumer in consumers]
        return len(places) == len(set(places)) == partitions and max(sizes) - min(sizes) <= 1

    poll_until(consumers, settled)
