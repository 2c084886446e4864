"""Options of a queue's source, the record headers that carry what a queue must not lose, and its counts.

Pure: no files. Invariant: what is to come of a record that was never delivered stands in its own headers, so
that the delivery table can be lost and nothing comes early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from pylog.config import check_choice, check_count, check_known, check_seconds
from pylog.errors import ConfigError
from pylog.records import Record

DUE_HEADER = "pylog-due"
"""The earliest time of the first delivery: nanoseconds since 1970, in decimal digits."""
PRIORITY_HEADER = "pylog-priority"
"""The level that the record was put with, in decimal digits: its partition says the same."""
EXPIRES_HEADER = "pylog-expires"
"""The time from which nobody wants the record any more: nanoseconds since 1970, in decimal digits."""

QueueOrder = Literal["none", "key"]
"""Whether records with the same key are delivered one after the other, in their order."""
PriorityPolicy = Literal["strict", "weighted", "aging"]
DeliveryState = Literal["ready", "blocked", "delayed", "in_flight", "finished"]
"""Blocked: with order="key", an earlier record of the key is not finished."""

MAX_PRIORITIES = 32
LONGEST_SECONDS = 100 * 366 * 86_400.0


MOST_DIGITS = 19
"""Of a number in a header: a longer one is beyond 64 bits."""


def number_of(text: bytes) -> int | None:
    """Return the number below 2**63 that decimal digits say, else None: anybody may have written them."""
    if not text.isdigit() or len(text) > MOST_DIGITS:
        return None
    found = int(text)
    return found if found < 1 << 63 else None


def stated(record: Record, header: str) -> int | None:
    """Return the number in the last header of that name, as the native core reads it; None: none."""
    for name, value in reversed(record.headers):
        if name == header:
            return None if value is None else number_of(value)
    return None


class QueueOptions(TypedDict, total=False):
    """What is stored with a queue and holds for all who work it."""

    visibility_timeout: float
    max_processing: float
    max_deliveries: int
    order: QueueOrder
    priorities: int
    priority_policy: PriorityPolicy
    aging_seconds: float


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The complete options of a queue, in seconds."""

    visibility_timeout: float = 30.0
    """How long a process may be stopped or frozen before others get what it has in flight; at least 1 s."""
    max_processing: float = 3600.0
    """How long one delivery may be in flight, in a process that lives, unless it is extended."""
    max_deliveries: int = 5
    """How many deliveries may be started; what comes then is not the source's business."""
    order: QueueOrder = "none"
    priorities: int = 1
    """Levels 0 (least urgent) to priorities - 1: a band of partitions each, equal in number."""
    priority_policy: PriorityPolicy = "strict"
    """"strict": the highest level that has something; "weighted": level n gets 2**n turns for one of level 0;
    "aging": a record gains a level for every aging_seconds since its timestamp."""
    aging_seconds: float = 10.0


def queue_config(given: Mapping[str, object], stored: QueueConfig | None = None) -> QueueConfig:
    """Return the stored (or default) options with the given ones in their place.

    Raises:
        TypeError: an option has a value of the wrong type.
        ConfigError: an option is unknown or out of range.
    """
    check_known(given, [option.name for option in fields(QueueConfig)], "a queue")
    config = QueueConfig(**(asdict(stored or QueueConfig()) | dict(given)))
    for option, least in (("visibility_timeout", 1.0), ("max_processing", 0.001), ("aging_seconds", 0.001)):
        seconds = check_seconds(getattr(config, option), option)
        if seconds is None or not least <= seconds <= LONGEST_SECONDS:
            raise ConfigError(f"{option}={seconds} is out of range: at least {least:g} seconds")
    check_count(config.max_deliveries, "max_deliveries", 1, 65_535)
    check_count(config.priorities, "priorities", 1, MAX_PRIORITIES)
    check_choice(config.order, "order", get_args(QueueOrder))
    check_choice(config.priority_policy, "priority_policy", get_args(PriorityPolicy))
    return config


def queue_differences(stored: QueueConfig, given: Mapping[str, object]) -> dict[str, tuple[Any, Any]]:
    """Return {option: (stored, given)} for the given options that are not stored so."""
    wanted = queue_config(given, stored)
    return {
        option: (getattr(stored, option), getattr(wanted, option))
        for option in given
        if getattr(stored, option) != getattr(wanted, option)
    }


class QueueCounts(NamedTuple):
    """How many records of one level are in each state."""

    level: int
    ready: int
    """Could be leased now; records whose due time was not looked at yet are counted here."""
    blocked: int
    delayed: int
    in_flight: int
    finished: int
    """Acked, purged, or gone from the log, since the queue's table was made."""


class QueueEntry(NamedTuple):
    """A record of the queue that is not finished, as peek() shows it."""

    record: Record
    state: DeliveryState
    delivery_count: int
    """Deliveries that were started."""
    due: int | None
    """Nanoseconds since 1970 where the state is "delayed"."""
