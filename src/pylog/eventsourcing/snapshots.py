"""Snapshots of aggregates in a compacted topic: they save replays and mean nothing else.

A record's key is the stream; its value is JSON: state, the version, place and time of the last event in it,
and the aggregate's snapshot_schema; a header has the XXH3-64 of the value. Invariant: one that is missing,
damaged, of another schema, or not of this history is not used, and the state is the same without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
import xxhash

from pylog.engine import Engine
from pylog.errors import PylogError
from pylog.eventsourcing.aggregates import Aggregate, state_of
from pylog.records import HeaderFields, Record

logger = logging.getLogger("pylog")

A = TypeVar("A", bound=Aggregate)

CHECKSUM = "checksum"
LOOK_BACK = 8
"""How many of the newest snapshots of a stream are looked at for one that fits."""


class Snapshot(msgspec.Struct):
    """The state of an aggregate after so many events, as a record's value has it."""

    aggregate: str
    """The name of its class."""
    schema: int
    version: int
    offset: Annotated[int, msgspec.Meta(ge=0)]
    epoch: int
    """Place of the last event in it, in the partition of the stream."""
    timestamp: int
    """Of that event: in a topic that was made anew another one stands in its place."""
    state: dict[str, Any]


_decode = msgspec.json.Decoder(Snapshot).decode
_checksum = HeaderFields((CHECKSUM,)).of


class Snapshots:
    """The snapshots of one event store.

    Args:
        every: Take one after so many events; None: never by their number.
        every_bytes: Take one after so many bytes of events.
    """

    def __init__(self, engine: Engine, topic: str, every: int | None, every_bytes: int | None) -> None:
        self.engine, self.topic = engine, topic
        self.every, self.every_bytes = every, every_bytes
        self._unfit: set[type] = set()
        self._hints: dict[type, dict[str, Any]] = {}

    def due(self, aggregate: Aggregate) -> bool:
        """Return whether enough has happened since the last one."""
        standing = aggregate._stands
        since = standing.version - standing.snapshot_version
        return since > 0 and (
            (self.every is not None and since >= self.every)
            or (self.every_bytes is not None and standing.bytes >= self.every_bytes)
        )

    def take(self, aggregate: Aggregate, stream: str, last: Record) -> bool:
        """Write a snapshot of what the events up to `last` came to; False where the state would not come
        back as it is. Raises what append raises."""
        standing, kind = aggregate._stands, type(aggregate)
        state = state_of(aggregate)
        try:
            fits = same(self._restored(kind, msgspec.json.decode(msgspec.json.encode(state))), state)
        except (TypeError, ValueError, RecursionError, NameError):  # an annotation names what is not there
            fits = False
        if not fits:
            if kind not in self._unfit:
                self._unfit.add(kind)
                logger.warning(
                    "%s takes no snapshots: its state does not come back from JSON as it is; annotate the "
                    "attributes of the class with their types",
                    kind.__name__,
                )
            return False
        value = msgspec.json.encode(
            Snapshot(
                kind.__name__,
                kind.snapshot_schema,
                standing.version,
                standing.offset,
                last.epoch,
                last.timestamp,
                state,
            )
        )
        checksum = xxhash.xxh3_64_hexdigest(value).encode()
        self.engine.append(self.topic, value, stream.encode(), headers=[(CHECKSUM, checksum)])
        standing.snapshot_version, standing.bytes = standing.version, 0
        return True

    def before(self, kind: type[A], stream: str, version: int | None) -> Iterator[tuple[A, Snapshot]]:
        """Yield aggregates as the snapshots of a stream have them, newest first, and these.

        Without those that cannot be read, and those of a version beyond `version`.
        """
        seen = 0
        for most in (1, LOOK_BACK):  # the newest one mostly fits
            try:
                records = self.engine.read_key(self.topic, stream.encode(), most=most, backward=True)
            except PylogError as error:
                logger.warning("no snapshot of %s can be read, so all is replayed: %s", stream, error)
                return
            for record in records[seen:]:
                found = self._read(kind, record)
                if found is not None and (version is None or found[1].version <= version):
                    yield found
            seen = len(records)
            if seen < most:
                return

    def _read(self, kind: type[A], record: Record) -> tuple[A, Snapshot] | None:
        """Return what a record says, None where it is damaged, or of another class or schema."""
        try:
            value = record.value
            if value is None or _checksum(record) != (xxhash.xxh3_64_hexdigest(value),):
                return None
            found = _decode(value)
            if found.aggregate != kind.__name__ or found.schema != kind.snapshot_schema:
                return None
            aggregate = kind()
            aggregate.__dict__.update(self._restored(kind, found.state))
            return aggregate, found
        except (PylogError, ValueError, TypeError, AttributeError, RecursionError, NameError) as error:
            logger.warning("a snapshot at %s-%d cannot be used: %s", record.topic, record.offset, error)
            return None

    def _restored(self, kind: type[Aggregate], state: dict[str, Any]) -> dict[str, Any]:
        """Give a state that comes from JSON the types that the class is annotated with."""
        hints = self._hints.get(kind)
        if hints is None:
            hints = self._hints[kind] = get_type_hints(kind)
        for name, value in state.items():
            if name in hints and type(value) is not hints[name]:
                state[name] = msgspec.convert(value, hints[name])
        return state


def same(one: Any, other: Any) -> bool:
    """Return whether two states are equal and of the same types: a Counter equals the dict that JSON has."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return one == other and set(map(type, one)) == set(map(type, other))
    fields: Any = getattr(one, "__struct_fields__", None) or getattr(one, "__dataclass_fields__", ())
    return bool(one == other) and all(same(getattr(one, name), getattr(other, name)) for name in fields)
