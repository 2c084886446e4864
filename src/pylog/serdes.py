"""Turns values into the bytes that a log holds, and back.

Three are built in, by name: "bytes" (the default: bytes only), "str" (UTF-8) and "json". Anything with
`serialize` and `deserialize` is one too. None stays None (a null key or value) and never reaches a serde.
Invariant: the reader's code chooses the serde, never a flag in the data; there is no pickle.
"""

from __future__ import annotations

import json
from typing import Any, Protocol, runtime_checkable

from pylog.errors import ConfigError, SerializationError


@runtime_checkable
class Serde(Protocol):
    """A way to write something as bytes and to read it again."""

    def serialize(self, value: Any) -> bytes:
        """Return `value` as bytes, or raise SerializationError or TypeError."""

    def deserialize(self, data: bytes) -> Any:
        """Return what `data` stands for, or raise SerializationError or ValueError."""


class BytesSerde:
    """Bytes as they are: anything else is a TypeError that says what to do."""

    def serialize(self, value: Any) -> bytes:
        """Return `value`, which must be bytes, bytearray or memoryview."""
        if isinstance(value, bytes):
            return value
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        raise TypeError(
            f"expected bytes, not {type(value).__name__}: encode it, or give value_serde= or key_serde= "
            '("str", "json" or an object with serialize and deserialize)'
        )

    def deserialize(self, data: bytes) -> bytes:
        """Return `data`."""
        return data


class StrSerde:
    """str as UTF-8."""

    def serialize(self, value: Any) -> bytes:
        """Return the UTF-8 bytes of a str."""
        if not isinstance(value, str):
            raise TypeError(f'the "str" serde takes str, not {type(value).__name__}')
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(f"not encodable as UTF-8: {error.reason} at {error.start}") from None

    def deserialize(self, data: bytes) -> str:
        """Return the str of UTF-8 bytes."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise SerializationError(f"not UTF-8: {error.reason} at byte {error.start}") from None


class JsonSerde:
    """JSON as compact UTF-8, keys in the order given; NaN and infinities are refused."""

    def serialize(self, value: Any) -> bytes:
        """Return the JSON text of `value`."""
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            return text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"not representable as JSON: {error}") from None

    def deserialize(self, data: bytes) -> Any:
        """Return what the JSON text says."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"not JSON: {error}") from None


BUILT_IN: dict[str, type[BytesSerde] | type[StrSerde] | type[JsonSerde]] = {
    "bytes": BytesSerde,
    "str": StrSerde,
    "json": JsonSerde,
}


def serde_for(given: str | Serde | None, option: str) -> Serde | None:
    """Return the serde that an option names, or None where bytes go through untouched.

    Raises:
        ConfigError: it is neither a known name nor an object with serialize and deserialize.
    """
    if given is None or (isinstance(given, str) and given == "bytes"):
        return None
    if isinstance(given, str):
        if given not in BUILT_IN:
            raise ConfigError(f"{option}={given!r} is unknown: use one of {', '.join(sorted(BUILT_IN))}")
        return BUILT_IN[given]()
    if isinstance(given, type) or not isinstance(given, Serde):
        raise ConfigError(
            f"{option} is a name or an object with serialize and deserialize, not {type(given).__name__}"
        )
    return given
