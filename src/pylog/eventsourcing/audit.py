"""Audit: who changed what in a stream, and when, out of its events.

Invariant: it lists every event that the stream ever got, or raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from pylog.eventsourcing.events import Metadata
from pylog.eventsourcing.store import EventStore
from pylog.records import RecordId

ACTOR = "actor"
"""The entry of the metadata that says who did it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One event, as an auditor reads it."""

    version: int
    time: datetime
    actor: str | None
    type: str
    changes: dict[str, Any]
    """The fields of the event."""
    metadata: Metadata
    correlation_id: str | None
    causation_id: str | None
    record_id: RecordId


def audit(store: EventStore, stream: str) -> Iterator[Change]:
    """Yield the changes of a stream, oldest first.

    Raises:
        CorruptionError: an event is missing. SerializationError: one cannot be read.
    """
    for event in store.read(stream):
        correlation = event.correlation
        yield Change(
            version=event.version,
            time=event.time,
            actor=event.metadata.get(ACTOR),
            type=event.type,
            changes=msgspec.to_builtins(event.data),
            metadata=event.metadata,
            correlation_id=correlation.correlation_id if correlation else None,
            causation_id=correlation.causation_id if correlation else None,
            record_id=event.record_id,
        )
