"""Aggregate: what a stream of events says a thing is, and decides what happens to it next.

Knows nothing of logs: the store loads and saves it. Invariant: its state is the fold of apply() over its
events, those that were recorded but not saved yet included.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

from pylog.errors import ConfigError
from pylog.records import RecordId

OWN = "_stands"


class Appended(NamedTuple):
    """Where events came to stand: also what a read model's wait_for() takes."""

    stream: str
    version: int
    """Of the stream now: the number of its events."""
    record_id: RecordId
    """Of the last event."""


class Standing:
    """What the store knows of an aggregate; of one that it never loaded, that it is new."""

    __slots__ = ("aggregate_id", "bytes", "offset", "pending", "snapshot_version", "version")

    def __init__(self) -> None:
        self.aggregate_id = ""
        self.version = 0
        """Of the stream as it is stored."""
        self.offset = -1
        """Of the stream's last record."""
        self.pending: list[Any] = []
        self.snapshot_version = 0
        self.bytes = 0
        """Of the events since the snapshot."""


class Aggregate:
    """Subclass it: methods decide and record() events, apply() says what an event changes.

    It is made without arguments. Attributes begin as the class has them; all that the instance has is its
    state. Never change state elsewhere than in apply(), and never change a mutable class attribute in place.
    """

    category: ClassVar[str] = ""
    """What its streams' names begin with, before the first "-"; the class's name where it is empty."""
    snapshot_schema: ClassVar[int] = 1
    """Raise it when the meaning of the attributes changes: older snapshots are then not used."""

    _stands: Standing

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made._stands = Standing()
        return made

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "-" in cls.category:
            raise ConfigError(f"category={cls.category!r}: it ends at the first -, so that it has none")

    def record(self, event: Any) -> None:
        """Take an event that was decided: it is applied now and stored by the next save()."""
        self.apply(event)
        self._stands.pending.append(event)

    def apply(self, event: Any) -> None:
        """Change the state to what it is after the event."""
        raise NotImplementedError(f"{type(self).__name__}.apply(event) says what an event changes")

    @property
    def aggregate_id(self) -> str:
        """Its id; "" where no store knows it."""
        return self._stands.aggregate_id

    @property
    def version(self) -> int:
        """The number of its events, those included that are not saved yet."""
        standing = self._stands
        return standing.version + len(standing.pending)

    @property
    def pending(self) -> tuple[Any, ...]:
        """The events that are not saved yet."""
        return tuple(self._stands.pending)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.aggregate_id!r} version {self.version}: {state_of(self)}>"


def state_of(aggregate: Aggregate) -> dict[str, Any]:
    """Return what the instance has, besides what the store knows of it."""
    return {name: value for name, value in vars(aggregate).items() if name != OWN}


def category_name(kind: type[Aggregate]) -> str:
    """Return what the names of its streams begin with."""
    return kind.category or kind.__name__


def stream_of(kind: type[Aggregate], aggregate_id: str) -> str:
    """Return the stream of an aggregate."""
    return f"{category_name(kind)}-{aggregate_id}"
