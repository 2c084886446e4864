"""Taking deliveries in tests: queues that give back at once, and what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pylog

AT_ONCE = pylog.Retry.fixed(0.0)

Opened = Callable[..., pylog.Queue]


def taken(jobs: pylog.Queue) -> pylog.Delivery:
    """Return the next delivery, which is there."""
    delivery = jobs.get(0)
    assert delivery is not None
    return delivery


def values(jobs: pylog.Queue) -> list[Any]:
    """Ack all that is ready, and return its values in order."""
    found = []
    while (delivery := jobs.get(0)) is not None:
        with delivery:
            found.append(delivery.value)
    return found
