"""Turns values into the bytes that a log holds, and back.

Three are built in, by name: "bytes" (the default: bytes only), "str" (UTF-8) and "json". Anything with
`serialize` and `deserialize` is one too. None stays None (a null key or value) and never reaches a serde.
Invariant: the reader's code chooses the serde, never a flag in the data; there is no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
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


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes what one version of a message says and returns what the next version would say."""


class MessageTypes:
    """Typed messages by name and version: msgspec structs or dataclasses, as JSON, older versions upcast.

    A type's name is its class's; its version is its `schema_version` (1 where it has none).

    Args:
        types: The classes.
        upcasters: (name, version) -> what makes of that version's fields those of the next.
    """

    def __init__(
        self, types: Iterable[type] = (), upcasters: Mapping[tuple[str, int], Upcaster] | None = None
    ) -> None:
        self._encode: Callable[[Any], bytes] = _msgspec().json.Encoder().encode
        self._types: dict[str, type] = {}
        self._versions: dict[type, tuple[str, int]] = {}
        self._decoders: dict[tuple[str, int], Callable[[bytes], Any]] = {}
        self._checks: dict[type, Callable[[bytes], Any]] = {}
        """Of each type what reads its newest version."""
        self._upcasters = dict(upcasters or {})
        for each in types:
            self.add(each)
        self._check_upcasters()

    def add(self, message: type) -> None:
        """Take a class; ConfigError for one that is no struct or dataclass, or a name that is taken."""
        name = message.__name__ if isinstance(message, type) else repr(message)
        if not isinstance(message, type) or not (
            hasattr(message, "__struct_fields__") or hasattr(message, "__dataclass_fields__")
        ):
            raise ConfigError(f"{name} is neither a msgspec.Struct nor a dataclass")
        if self._types.setdefault(name, message) is not message:
            raise ConfigError(f"two message types are called {name!r}")
        version = getattr(message, "schema_version", 1)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ConfigError(f"schema_version of {name} is a number from 1 on, not {version!r}")
        self._versions[message] = name, version
        self._decoders[name, version] = self._checks[message] = _msgspec().json.Decoder(message).decode

    def _check_upcasters(self) -> None:
        for name, version in self._upcasters:
            known = self._versions.get(self._types[name]) if name in self._types else None
            if known is None or not 1 <= version < known[1]:
                raise ConfigError(f"there is nothing to upcast {name!r} from version {version} to")

    def __contains__(self, message: object) -> bool:
        return message in self._versions

    def name_of(self, kind: type) -> tuple[str, int]:
        """Return name and version of a type. Raises ConfigError for an unknown one."""
        try:
            return self._versions[kind]
        except KeyError:
            known = ", ".join(sorted(self._types)) or "none"
            raise ConfigError(f"{kind.__name__} is no type that was given; known: {known}") from None

    def encode(self, messages: Iterable[Any]) -> list[bytes]:
        """Return the bytes of each of some messages.

        Raises:
            ConfigError: one is of an unknown type.
            SerializationError: the fields of one are not of the types that its class says, so that nobody
                could read it again.
        """
        found, encode = [], self._encode
        kind, check = None, self._encode
        for message in messages:
            if message.__class__ is not kind:  # they mostly are of the same as the one before
                kind = message.__class__
                check = self._checks.get(kind) or self._check_of(kind)
            try:
                data = encode(message)
                check(data)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                name, _version = self.name_of(kind)
                raise SerializationError(f"this {name} cannot be written and read again: {error}") from None
            found.append(data)
        return found

    def _check_of(self, kind: type) -> Callable[[bytes], Any]:
        self.name_of(kind)
        return self._checks[kind]

    def decode(self, name: str, version: int, data: bytes) -> Any:
        """Return the message. Raises SerializationError: unknown, newer than known, or not what it says."""
        decode = self._decoders.get((name, version))
        if decode is None:
            decode = self._decoders[name, version] = self._upcasting(name, version)
        try:
            return decode(data)
        except SerializationError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SerializationError(f"not a {name} of version {version}: {error}") from error

    def _upcasting(self, name: str, version: int) -> Callable[[bytes], Any]:
        """Return what reads an older version."""
        if name not in self._types:
            raise SerializationError(f"a message {name!r} of no known type: give its class")
        newest = self._versions[self._types[name]][1]
        if version > newest:
            raise SerializationError(f"a {name} of version {version}: this program knows {newest}")
        steps = [self._upcasters.get((name, step)) for step in range(version, newest)]
        if version < 1 or None in steps:
            missing = version + steps.index(None) if None in steps else version
            raise SerializationError(f"nothing upcasts {name} from version {missing}")
        convert, message, decode = _msgspec().convert, self._types[name], _msgspec().json.decode

        def read(data: bytes) -> Any:
            fields = decode(data)
            for number, step in enumerate(steps, version):
                assert step is not None
                try:
                    fields = step(fields)
                except Exception as error:  # it is the program's, and may raise anything
                    reason = f"the upcaster of {name} from version {number} failed: {error!r}"
                    raise SerializationError(reason) from error
            return convert(fields, message)

        return read


def _msgspec() -> Any:
    import msgspec

    return msgspec
