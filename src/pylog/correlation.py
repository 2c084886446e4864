"""Which request something belongs to, and what caused it: carried by contextvars into what a handler emits.

Three ids travel as record headers: `correlation_id` names the whole conversation, `causation_id` the record
that led to this one, `traceparent` is W3C's. Not a tracer: it only passes on. Invariant: what is emitted
within `correlated()` has its ids, in the same thread, task, or whatever copies its context.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

CORRELATION_ID = "correlation_id"
CAUSATION_ID = "causation_id"
TRACEPARENT = "traceparent"

Pairs = Iterable[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Correlation:
    """The ids that go with what is done now."""

    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None

    def caused_by(self, causation_id: str) -> Correlation:
        """Return the same conversation, one step on."""
        return replace(self, causation_id=causation_id)

    def headers(self) -> list[tuple[str, bytes]]:
        """Return them as record headers."""
        named = (
            (CORRELATION_ID, self.correlation_id),
            (CAUSATION_ID, self.causation_id),
            (TRACEPARENT, self.traceparent),
        )
        return [(name, value.encode()) for name, value in named if value is not None]


_current: ContextVar[Correlation | None] = ContextVar("pylog_correlation", default=None)


def current() -> Correlation | None:
    """Return the ids of what is done now, None outside of any conversation."""
    return _current.get()


@contextmanager
def correlated(
    correlation_id: str | None = None, *, causation_id: str | None = None, traceparent: str | None = None
) -> Iterator[Correlation]:
    """Do the block as part of a conversation: a given one, else the one that goes on, else a new one."""
    outer = _current.get()
    if correlation_id is None:
        correlation_id = outer.correlation_id if outer is not None else uuid.uuid4().hex
    if traceparent is None and outer is not None:
        traceparent = outer.traceparent
    inner = Correlation(correlation_id, causation_id, traceparent)
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def correlation_of(headers: Pairs) -> Correlation | None:
    """Return the ids that a record's headers carry, None where it has no correlation id."""
    found = {name: value for name, value in headers if value is not None}
    if CORRELATION_ID not in found:
        return None
    named = (found.get(name) for name in (CORRELATION_ID, CAUSATION_ID, TRACEPARENT))
    first, *rest = (None if value is None else value.decode(errors="replace") for value in named)
    return Correlation(first or "", *rest)
