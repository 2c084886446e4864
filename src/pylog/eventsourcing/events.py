"""Event: what happened in a stream, as it is read; and how it stands in a record.

The record's key is the stream, its value the event as JSON, and headers say type, version in the stream,
schema version where it is not 1, metadata and correlation. Invariant: the n-th event of a stream says n.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from pylog.correlation import Correlation, correlation_of, current
from pylog.errors import SerializationError
from pylog.records import HeaderFields, PackedHeaders, Record, RecordId
from pylog.serdes import MessageTypes

TYPE, VERSION, SCHEMA, METADATA = "event_type", "event_version", "event_schema", "event_metadata"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Metadata = Mapping[str, Any]


class Event(msgspec.Struct, eq=False):
    """One event of a stream. What is told of it besides these is made when it is asked for.

    A struct for the sake of its constructor: one is made for each record that is read.
    """

    record: Record
    """Where it stands, and all that it says."""
    stream: str
    version: int
    """1 for the first event of the stream, then 2, and so on."""
    type: str
    schema_version: int
    """Of the event as it was written."""
    data: Any
    """The event itself, upcast to the version that the program knows."""

    @property
    def timestamp(self) -> int:
        """Nanoseconds since 1970."""
        return self.record.timestamp

    @property
    def record_id(self) -> RecordId:
        """Where it stands: also what a read model's wait_for() takes."""
        return RecordId(self.record.topic, self.record.partition, self.record.offset)

    @property
    def metadata(self) -> Metadata:
        """What was kept with it. Raises SerializationError where that is no JSON object."""
        stored = dict(self.record.headers).get(METADATA)
        try:
            found = json.loads(stored) if stored else {}
        except ValueError as error:
            raise _no_event(self.record, f"metadata: {error}") from error
        if not isinstance(found, dict):
            raise _no_event(self.record, "metadata: no JSON object")
        return found

    @property
    def correlation(self) -> Correlation | None:
        """The ids that it was written under, None without."""
        return correlation_of(self.record.headers)

    @property
    def time(self) -> datetime:
        """When it was recorded, in UTC: the microsecond in which that was."""
        return EPOCH + timedelta(microseconds=self.timestamp // 1000)

    @property
    def category(self) -> str:
        """The part of the stream's name before the first "-"."""
        return category_of(self.stream)

    @property
    def event_id(self) -> str:
        """Its name in the whole log, which is the causation id of what it causes."""
        return id_of(self.record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.record == other.record and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # its data may be anything

    def __repr__(self) -> str:
        return f"Event({self.stream!r}, {self.version}, {self.data!r}, {self.event_id})"


def id_of(place: RecordId | Record) -> str:
    """Return the name of a record in the whole log."""
    return f"{place.topic}-{place.partition}-{place.offset}"


def category_of(stream: str) -> str:
    """Return the part of a stream's name before the first "-"."""
    return stream.partition("-")[0]


_fields = HeaderFields((TYPE,), (VERSION, SCHEMA))
_fields_of = _fields.of


def encode_events(
    types: MessageTypes, events: Sequence[Any], first_version: int, metadata: Metadata | None
) -> tuple[list[bytes], list[PackedHeaders]]:
    """Return the values and headers of events that follow each other in a stream."""
    values, kinds = types.encode(events), list(map(type, events))
    names: dict[type, str] = {}
    schemas: dict[type, int | None] = {}
    for kind in set(kinds):
        names[kind], schema = types.name_of(kind)
        schemas[kind] = None if schema == 1 else schema
    rows = zip(map(names.__getitem__, kinds), count(first_version), map(schemas.__getitem__, kinds))
    return values, _fields.pack_each(rows, common_headers(metadata))


def common_headers(metadata: Metadata | None) -> PackedHeaders:
    """Return the headers that all events of an append have: metadata, and what they are done for."""
    common: list[tuple[str, bytes]] = []
    if metadata:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"metadata is a mapping, not {type(metadata).__name__}")
        try:
            common.append((METADATA, json.dumps(metadata, separators=(",", ":")).encode()))
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"metadata cannot be written as JSON: {error}") from None
    correlation = current()
    if correlation is not None:
        common.extend(correlation.headers())
    return PackedHeaders(common)


def version_of(record: Record) -> int:
    """Return an event's version in its stream. Raises SerializationError for a record that is no event."""
    try:
        version: int | None = _fields_of(record)[1]
    except ValueError as error:
        raise _no_event(record, str(error)) from error
    if version is None:
        raise _no_event(record, "no version")
    return version


def decode_event(types: MessageTypes, record: Record) -> Event:
    """Return the event that a record holds. Raises SerializationError for a record that is none."""
    try:
        kind, version, schema = _fields_of(record)
        key, value = record.key, record.value
        if kind is None or version is None or key is None or value is None:
            raise ValueError("no type, version, key or value")
        if schema is None:
            schema = 1
        return Event(record, key.decode(), version, kind, schema, types.decode(kind, schema, value))
    except ValueError as error:
        raise _no_event(record, str(error)) from error


def _no_event(record: Record, reason: str) -> SerializationError:
    return SerializationError(
        f"{id_of(record)} is no event that can be read: {reason}",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        part="value",
    )
