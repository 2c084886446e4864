"""Event: what happened in a stream, as it is read; and how it stands in a record.

The record's key is the stream, its value the event as JSON, and headers say type, version in the stream,
schema version where it is not 1, metadata and correlation. Invariant: the n-th event of a stream says n.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pylog.correlation import Correlation, correlation_of, current
from pylog.errors import SerializationError
from pylog.records import Record, RecordId
from pylog.serdes import MessageTypes

TYPE, VERSION, SCHEMA, METADATA = "event_type", "event_version", "event_schema", "event_metadata"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Metadata = Mapping[str, Any]
Headers = list[tuple[str, bytes | None]]


class Event:
    """One event of a stream. What is told of it, but for its data, is made when it is asked for."""

    __slots__ = ("_headers", "_record", "data", "schema_version", "stream", "type", "version")

    stream: str
    version: int
    """1 for the first event of the stream, then 2, and so on."""
    type: str
    data: Any
    """The event itself, upcast to the version that the program knows."""
    schema_version: int
    """Of the event as it was written."""

    def __init__(
        self, record: Record, headers: Headers, stream: str, version: int, kind: str, schema: int, data: Any
    ) -> None:
        self._record = record
        self._headers = headers
        self.stream = stream
        self.version = version
        self.type = kind
        self.schema_version = schema
        self.data = data

    @property
    def timestamp(self) -> int:
        """Nanoseconds since 1970."""
        return self._record.timestamp

    @property
    def record_id(self) -> RecordId:
        """Where it stands: also what a read model's wait_for() takes."""
        return RecordId(self._record.topic, self._record.partition, self._record.offset)

    @property
    def metadata(self) -> Metadata:
        """What was kept with it. Raises SerializationError where that is no JSON object."""
        stored = dict(self._headers).get(METADATA)
        try:
            found = json.loads(stored) if stored else {}
        except ValueError as error:
            raise _no_event(self._record, f"metadata: {error}") from error
        if not isinstance(found, dict):
            raise _no_event(self._record, "metadata: no JSON object")
        return found

    @property
    def correlation(self) -> Correlation | None:
        """The ids that it was written under, None without."""
        return correlation_of(self._headers)

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
        return id_of(self._record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._record == other._record and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # its data may be anything

    def __repr__(self) -> str:
        return f"Event({self.stream!r}, {self.version}, {self.data!r}, {self.event_id})"


def id_of(place: RecordId | Record) -> str:
    """Return the name of a record in the whole log."""
    return f"{place.topic}-{place.partition}-{place.offset}"


def category_of(stream: str) -> str:
    """Return the part of a stream's name before the first "-"."""
    return stream.partition("-")[0]


def encode_events(
    types: MessageTypes, events: Sequence[Any], first_version: int, metadata: Metadata | None
) -> tuple[list[bytes], list[Headers]]:
    """Return the values and headers of events that follow each other in a stream."""
    common: Headers = []
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
    values, headers = [], []
    for version, event in enumerate(events, first_version):
        name, schema, value = types.encode(event)
        own: Headers = [(TYPE, name.encode()), (VERSION, b"%d" % version)]
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
    kind = version = schema = None
    headers, value, key = record.headers, record.value, record.key
    for name, stored in headers:
        if name == TYPE:
            kind = stored
        elif name == VERSION:
            version = stored
        elif name == SCHEMA:
            schema = stored
    if kind is None or version is None or value is None or key is None:
        raise _no_event(record, "no type, version, value or key")
    try:
        told, written = kind.decode(), int(schema or 1)
        data = types.decode(told, written, value)
        return Event(record, headers, key.decode(), int(version), told, written, data)
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
