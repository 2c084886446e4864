"""What engine.queue() takes: the options that are stored with a queue, and those of one who opens it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pylog.clock import Clock
from pylog.config import Durability
from pylog.engine import OnRejected
from pylog.filters import Filter
from pylog.queue_options import QueueOptions
from pylog.records import Record
from pylog.retries import CircuitBreaker, Retry
from pylog.serdes import Serde

OnDeadLetter: TypeAlias = Callable[[Record, str, BaseException | None], object]
"""Called with a record that was buried, the reason, and the exception, if there was one."""

DEFAULT_RETRY = Retry.exponential(1.0, max_delay=300.0, jitter=0.5)


class QueueArguments(QueueOptions, total=False):
    """The keywords of engine.queue(), besides those that are stored: see QueueConfig for these."""

    topic: str
    """The topic that is worked; left out: what is stored, or the topic of the queue's name."""
    partitions: int
    """Of each level, where the topic is made now; 1 keeps the order within a level."""
    durability: Durability
    """Of the topic, where it is made now."""
    dead_letter: str
    """The dead-letter topic, stored with the queue; left out: what is stored, or name + ".dlq"."""
    serde: str | Serde | None
    """How values are written: "bytes", "str", "json", or an object with serialize and deserialize."""
    retry: Retry
    """When a record is delivered again that was given back; left out: after 1, 2, 4 ... 300 s, jittered."""
    breaker: CircuitBreaker | None
    """While it is open nothing is delivered here."""
    filter: Filter | None
    """Lets through what is delivered here; the rest is finished and counted."""
    on_rejected: OnRejected | None
    """Called with each record that the filter rejects, before it is finished."""
    on_dead_letter: OnDeadLetter | None
    producer_id: str | None
    """Makes puts idempotent: put(..., sequence=n) drops what is in already."""
    clock: Clock
