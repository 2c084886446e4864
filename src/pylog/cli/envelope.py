"""A record as JSON and back: what `cat -J` prints and `put -J` reads.

Bytes that are UTF-8 are a string, others {"base64": "..."}, null is null; headers are a list of pairs, so
that order and duplicates stay. Invariant: decode(encode(record)) has the record's partition, timestamp, key,
value and headers, bit for bit.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any, NamedTuple, Protocol

from pylog.errors import SerializationError

FIELDS = frozenset({"topic", "partition", "offset", "timestamp", "key", "value", "headers"})


class Source(Protocol):
    """What is encoded: a Record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[str, bytes | None]]: ...


class Envelope(NamedTuple):
    """What is appended."""

    topic: str
    """ "" where the line names none."""
    partition: int | None
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def encode(record: Source) -> dict[str, object]:
    """Return a record as a JSON object; timestamps are nanoseconds since 1970."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": encode_bytes(record.key),
        "value": encode_bytes(record.value),
        "headers": [[name, encode_bytes(value)] for name, value in record.headers],
    }


def encode_bytes(data: bytes | None) -> str | dict[str, str] | None:
    """Return bytes as a string where they are UTF-8, else as base64."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def decode(line: bytes) -> Envelope:
    """Read one line; everything but the value may be left out, and the offset is ignored.

    Raises:
        SerializationError: the line is no such object; the message says what is wrong with it.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SerializationError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise SerializationError(f"a record is a JSON object, not {type(found).__name__}")
    unknown = found.keys() - FIELDS
    if unknown:
        raise SerializationError(
            f"unknown field {sorted(unknown)[0]!r}: there are {', '.join(sorted(FIELDS))}"
        )
    if "value" not in found:
        raise SerializationError("a record has a value, if only null")
    return Envelope(
        typed(found, "topic", str) or "",
        typed(found, "partition", int),
        typed(found, "timestamp", int),
        decode_bytes(found.get("key"), "key"),
        decode_bytes(found["value"], "value"),
        decode_headers(found.get("headers") or []),
    )


def typed(found: dict[str, Any], field: str, kind: type) -> Any:
    """Return a field that is null or of `kind`."""
    value = found.get(field)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise SerializationError(f"{field} is {kind.__name__}, not {type(value).__name__}")
    return value


def decode_bytes(value: object, field: str) -> bytes | None:
    """Return the bytes that encode_bytes() was given."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and list(value) == ["base64"] and isinstance(value["base64"], str):
            return b64decode(value["base64"], validate=True)
    except ValueError as error:
        raise SerializationError(f"{field}: {error}") from None
    raise SerializationError(f'{field} is a string, null or {{"base64": "..."}}')


def decode_headers(value: object) -> list[tuple[str, bytes | None]]:
    """Return headers from a list of pairs."""
    if not isinstance(value, list):
        raise SerializationError("headers are a list of [name, value]")
    headers = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise SerializationError("headers are a list of [name, value]")
        headers.append((pair[0], decode_bytes(pair[1], f"header {pair[0]!r}")))
    return headers
