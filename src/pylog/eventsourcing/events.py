"""Event: what happened in a stream, as it is read; and how it stands in a record.

The record's key is the stream, its value the event as JSON, and headers say type, version in the stream,
schema version where it is not 1, metadata and correlation. Invariant: the n-th event of a stream says n.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pylog.correlation import CORRELATION_ID, Correlation, correlation_of, current
from pylog.errors import SerializationError
from pylog.records import Record, RecordId
from pylog.serdes import MessageTypes

TYPE, VERSION, SCHEMA, METADATA = "event_type", "event_version", "event_schema", "event_metadata"

Metadata = Mapping[str, Any]


class Event(msgspec.Struct, frozen=True):
    """One event of a stream."""

    stream: str
    version: int
    """1 for the first event of the stream, then 2, and so on."""
    type: str
    data: Any
    """The event itself, upcast to the version that the program knows."""
    timestamp: int
    """Nanoseconds since 1970."""
    record_id: RecordId
    """Where it stands: also what a read model's wait_for() takes."""
    schema_version: int = 1
    """Of the event as it was written."""
    metadata: Metadata = msgspec.field(default_factory=dict)
    correlation: Correlation | None = None

    @property
    def time(self) -> datetime:
        """When it was recorded, in UTC."""
        return datetime.fromtimestamp(self.timestamp / 1e9, UTC)

    @property
    def category(self) -> str:
        """The part of the stream's name before the first "-"."""
        return category_of(self.stream)

    @property
    def event_id(self) -> str:
        """Its name in the whole log, which is the causation id of what it causes."""
        return id_of(self.record_id)


def id_of(place: RecordId | Record) -> str:
    """Return the name of a record in the whole log."""
    return f"{place.topic}-{place.partition}-{place.offset}"


def category_of(stream: str) -> str:
    """Return the part of a stream's name before the first "-"."""
    return stream.partition("-")[0]


def encode_events(
    types: MessageTypes, events: Sequence[Any], first_version: int, metadata: Metadata | None
) -> tuple[list[bytes], list[list[tuple[str, bytes | None]]]]:
    """Return the values and headers of events that follow each other in a stream."""
    common: list[tuple[str, bytes | None]] = []
    if metadata:
        try:
            common.append((METADATA, json.dumps(metadata, separators=(",", ":")).encode()))
        except (TypeError, ValueError) as error:
            raise SerializationError(f"metadata cannot be written as JSON: {error}") from None
    correlation = current()
    if correlation is not None:
        common.extend(correlation.headers())
    values, headers = [], []
    for version, event in enumerate(events, first_version):
        name, schema, value = types.encode(event)
        own: list[tuple[str, bytes | None]] = [(TYPE, name.encode()), (VERSION, b"%d" % version)]
        if schema != 1:
            own.append((SCHEMA, b"%d" % schema))
        values.append(value)
        headers.append(own + common if common else own)
    return values, headers


def version_of(record: Record) -> int:
    """Return an event's version in its stream. Raises SerializationError for a record that is no event."""
    for name, value in record.headers:
        if name == VERSION and value is not None and value.isdigit():
            return int(value)
    raise _no_event(record, "no version")


def data_of(types: MessageTypes, record: Record) -> Any:
    """Return the event that a record holds, upcast."""
    name, schema = None, 1
    for header, value in record.headers:
        if header == TYPE:
            name = value
        elif header == SCHEMA and value is not None:
            schema = int(value) if value.isdigit() else 0
    if name is None or record.value is None:
        raise _no_event(record, "no type or no value")
    try:
        return types.decode(name.decode(errors="replace"), schema, record.value)
    except SerializationError as error:
        raise _no_event(record, str(error)) from error


def decode_event(types: MessageTypes, record: Record) -> Event:
    """Return the event that a record holds, with all that is known of it."""
    headers = record.headers
    found = dict(headers)
    name, version, value, key = found.get(TYPE), found.get(VERSION), record.value, record.key
    if name is None or version is None or value is None or key is None:
        raise _no_event(record, "no type, version, value or key")
    try:
        kind, schema = name.decode(), int(found.get(SCHEMA) or 1)
        stored = found.get(METADATA)
        return Event(
            key.decode(),
            int(version),
            kind,
            types.decode(kind, schema, value),
            record.timestamp,
            RecordId(record.topic, record.partition, record.offset),
            schema,
            json.loads(stored) if stored else {},
            correlation_of(headers) if CORRELATION_ID in found else None,
        )
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
