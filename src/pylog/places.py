"""How a user names partitions and times: the check of what was given, and its plain form.

Pure. Invariant: what these return is of the right type; whether there is such a partition the engine says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pylog.errors import ConfigError
from pylog.records import TopicPartition


def place_of(given: object) -> TopicPartition:
    """Return a (topic, partition) pair as TopicPartition; TypeError where it is none."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        if isinstance(given[1], bool) or not isinstance(given[1], int):
            raise TypeError(f"partition is an int, not {type(given[1]).__name__}")
        return TopicPartition(given[0], given[1])
    raise TypeError(f"expected a (topic, partition) pair, not {given!r}")


def by_place(given: object, what: str) -> list[tuple[TopicPartition, Any]]:
    """Return the items of a mapping from (topic, partition) pairs; TypeError where it is none."""
    if not isinstance(given, Mapping):
        raise TypeError(f"expected a dict of {what} by (topic, partition), not {type(given).__name__}")
    return [(place_of(place), value) for place, value in given.items()]


def places_of(given: object) -> list[TopicPartition]:
    """Return an iterable of (topic, partition) pairs as a list without duplicates."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"expected (topic, partition) pairs, not {given!r}")
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        raise TypeError(f"expected a list of (topic, partition) pairs, not one: use [{given!r}]")
    return list(dict.fromkeys(place_of(place) for place in given))


def nanoseconds(time: int | datetime) -> int:
    """Return ns since 1970 of an int (as it is) or a datetime with a time zone."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ConfigError("a datetime without a time zone is ambiguous: use one as datetime.now(UTC)")
        since = time - datetime(1970, 1, 1, tzinfo=UTC)
        found = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    elif isinstance(time, bool) or not isinstance(time, int):
        raise TypeError(f"a time is an int of ns since 1970 or a datetime, not {type(time).__name__}")
    else:
        found = time
    if not -(1 << 63) <= found < 1 << 63:
        raise ConfigError("a time is beyond 64 bits of ns since 1970: the years 1678 to 2262")
    return found
