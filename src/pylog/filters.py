"""Filters: predicates on records that consumers, queues and routers share, combined with & | and ~.

A filter decides about a record as the log has it, before any serde. What key and headers tell is answered by
logcore.matching before a record object exists; the rest asks the record. Nothing here is evaluated as Python:
expressions are CEL (the Common Expression Language). Invariant: pushed down or not, a filter lets the same
records through.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import logcore.matching as matching
from pylog.config import check_count
from pylog.errors import ConfigError, UnsupportedError
from pylog.records import Record

logger = logging.getLogger("pylog")

WARN_AFTER = 100_000
"""So many records rejected, and none let through, are worth a warning."""

LIST_PLACE = re.compile(r"[0-9]{1,9}")

MISSING = object()
"""Stands for a JSON field that is not there; equal to no value."""


class Filter:
    """What the functions below make. Immutable; may be shared by threads, consumers and queues."""

    warn_after = WARN_AFTER

    def matches(self, record: Record) -> bool:
        """Return whether the record is let through."""
        raise NotImplementedError

    @cached_property
    def matcher(self) -> matching.Matcher:
        """The native predicate that answers as far as key and headers tell."""
        return self._native()

    def _native(self) -> matching.Matcher:
        return matching.Matcher()

    @property
    def decided(self) -> bool:
        """Whether key and headers always tell."""
        return False

    def warning_after(self, records: int) -> Filter:
        """Return the same filter, warning when it let none of so many records through (else 100,000)."""
        made = AllOf(self)
        made.warn_after = check_count(records, "records", 1, 1 << 62)
        return made

    def __and__(self, other: Filter) -> Filter:
        return AllOf(self, other) if isinstance(other, Filter) else NotImplemented

    def __or__(self, other: Filter) -> Filter:
        return AnyOf(self, other) if isinstance(other, Filter) else NotImplemented

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a filter is neither true nor false: combine filters by & | ~, not by and, or, not")


class Native(Filter):
    """A predicate on key or headers; `description` is how it is written."""

    def __init__(
        self, description: str, native: matching.Matcher, predicate: Callable[[Record], bool]
    ) -> None:
        self._description = description
        self._matcher = native
        self._predicate = predicate

    def matches(self, record: Record) -> bool:
        """Return whether the record is let through."""
        return self._predicate(record)

    def _native(self) -> matching.Matcher:
        return self._matcher

    @property
    def decided(self) -> bool:
        """True: key and headers tell."""
        return True

    def __repr__(self) -> str:
        return self._description


class Asking(Filter):
    """A predicate that has to see the record."""

    def __init__(self, description: str, predicate: Callable[[Record], object]) -> None:
        self._description = description
        self._predicate = predicate

    def matches(self, record: Record) -> bool:
        """Return whether the record is let through."""
        return bool(self._predicate(record))

    def __repr__(self) -> str:
        return self._description


class AllOf(Filter):
    """What `&` makes: lets through what both let through."""

    def __init__(self, *parts: Filter) -> None:
        self.parts = parts

    def matches(self, record: Record) -> bool:
        """Return whether the record is let through by all."""
        return all(part.matches(record) for part in self.parts)

    def _native(self) -> matching.Matcher:
        return matching.AllOf([part.matcher for part in self.parts])

    @property
    def decided(self) -> bool:
        """Whether key and headers always tell."""
        return all(part.decided for part in self.parts)

    def __repr__(self) -> str:
        return "(" + " & ".join(map(repr, self.parts)) + ")"


class AnyOf(Filter):
    """What `|` makes: lets through what one of them lets through."""

    def __init__(self, *parts: Filter) -> None:
        self.parts = parts

    def matches(self, record: Record) -> bool:
        """Return whether the record is let through by one."""
        return any(part.matches(record) for part in self.parts)

    def _native(self) -> matching.Matcher:
        return matching.AnyOf([part.matcher for part in self.parts])

    @property
    def decided(self) -> bool:
        """Whether key and headers always tell."""
        return all(part.decided for part in self.parts)

    def __repr__(self) -> str:
        return "(" + " | ".join(map(repr, self.parts)) + ")"


class Not(Filter):
    """What `~` makes: lets through what the other rejects."""

    def __init__(self, part: Filter) -> None:
        self.part = part

    def matches(self, record: Record) -> bool:
        """Return whether the other rejects the record."""
        return not self.part.matches(record)

    def _native(self) -> matching.Matcher:
        return matching.Not(self.part.matcher)

    @property
    def decided(self) -> bool:
        """Whether key and headers always tell."""
        return self.part.decided

    def __repr__(self) -> str:
        return f"~{self.part!r}"


# ---- on key and headers -------------------------------------------------------------------------------


def key_is(*keys: bytes | None) -> Filter:
    """Let through records with one of these keys; None stands for no key."""
    wanted = _bytes_or_none(keys, "key_is()")
    return Native(f"key_is{_listed(keys)}", matching.KeyIn(wanted), lambda record: record.key in wanted)


def key_starts(prefix: bytes) -> Filter:
    """Let through records whose key starts with these bytes."""
    _bytes_or_none((prefix,), "key_starts()")

    def predicate(record: Record) -> bool:
        return record.key is not None and record.key.startswith(prefix)

    return Native(f"key_starts({prefix!r})", matching.KeyStarts(prefix), predicate)


def has_header(name: str) -> Filter:
    """Let through records with a header of that name, whatever its value."""

    def predicate(record: Record) -> bool:
        return any(found == name for found, _ in record.headers)

    return Native(f"has_header({name!r})", matching.Header(_name(name)), predicate)


def header_is(name: str, *values: bytes | None) -> Filter:
    """Let through records that have one of these values in a header of that name, also among several."""
    wanted = _bytes_or_none(values, "header_is()")

    def predicate(record: Record) -> bool:
        return any(found == name and value in wanted for found, value in record.headers)

    return Native(f"header_is{_listed((name, *values))}", matching.HeaderIn(_name(name), wanted), predicate)


def header_starts(name: str, prefix: bytes) -> Filter:
    """Let through records that have a header of that name whose value starts with these bytes."""
    _bytes_or_none((prefix,), "header_starts()")

    def predicate(record: Record) -> bool:
        return any(
            found == name and value is not None and value.startswith(prefix)
            for found, value in record.headers
        )

    return Native(
        f"header_starts({name!r}, {prefix!r})", matching.HeaderStarts(_name(name), prefix), predicate
    )


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header is str, not {type(name).__name__}")
    return name


def _bytes_or_none(values: Iterable[object], what: str) -> tuple[bytes | None, ...]:
    found: list[bytes | None] = []
    for value in values:
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"{what} takes bytes, not {type(value).__name__}")
        found.append(value)
    if not found:
        raise ConfigError(f"{what} needs at least one value")
    return tuple(found)


def _listed(values: tuple[object, ...]) -> str:
    return "(" + ", ".join(map(repr, values)) + ")"


# ---- on the value -------------------------------------------------------------------------------------


def field_is(path: str, *values: Any) -> Filter:
    """Let through records whose JSON value has one of these values at a dotted path, as "order.lines.0.sku".

    A value that is no JSON, or has no such field, is rejected.
    """
    steps = path.split(".")
    if not values:
        raise ConfigError("field_is() needs at least one value")

    def predicate(record: Record) -> bool:
        found = _json(record)
        for step in steps:
            if isinstance(found, dict):
                found = found.get(step, MISSING)
            elif isinstance(found, list) and LIST_PLACE.fullmatch(step) and int(step) < len(found):
                found = found[int(step)]
            else:
                return False
        # True is no 1 here
        return any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in values)

    return Asking(f"field_is{_listed((path, *values))}", predicate)


def _json(record: Record) -> Any:
    if record.value is None:
        return None
    try:
        return json.loads(record.value)
    except (ValueError, RecursionError):
        return MISSING


def where(predicate: Callable[[Record], object]) -> Filter:
    """Let through records for which a function says so. It sees keys and values as bytes."""
    if not callable(predicate):
        raise TypeError(f"where() takes a function, not {type(predicate).__name__}")
    return Asking(f"where({getattr(predicate, '__qualname__', predicate)})", predicate)


def expression(text: str) -> Filter:
    """Let through records for which an expression in CEL is true, as 'value.total > 100 && "vip" in headers'.

    It sees `value` (what the JSON says), `key` (bytes or null), `headers` (a map of names to the last value
    of each), `topic`, `partition`, `offset` and `timestamp` (ns). Where it has no answer (a field is missing,
    types do not fit, the value is no JSON) the record is rejected.

    Raises:
        ConfigError: it is no expression, or names what is not there.
        UnsupportedError: the extra "filters" is not installed.
    """
    try:
        import cel
    except ModuleNotFoundError:
        raise UnsupportedError(
            "expression() needs common-expression-language, which is not installed: "
            "pip install 'pylog-engine[filters]'"
        ) from None
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no expression in CEL: {error}") from None
    names = program.references()
    # what a misspelt name would do is found now, and not by the first record that comes so far
    bound = set(BOUND.findall(text))
    for unknown in (
        *(name for name in names["variables"] if name not in FACTS.keys() | TYPES | bound),
        *(name for name in names["functions"] if name.isidentifier() and name not in FUNCTIONS),
    ):
        raise ConfigError(f"{text!r} names {unknown!r}, which is not there")
    facts = [(name, FACTS[name]) for name in names["variables"] if name in FACTS]

    def predicate(record: Record) -> bool:
        seen = {name: fact(record) for name, fact in facts}
        if seen.get("value") is MISSING:
            return False
        try:
            return program.execute(seen) is True
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError):
            return False

    return Asking(f"expression({text!r})", predicate)


FACTS: dict[str, Callable[[Record], Any]] = {
    "value": _json,
    "key": lambda record: record.key,
    "headers": lambda record: dict(record.headers),
    "topic": lambda record: record.topic,
    "partition": lambda record: record.partition,
    "offset": lambda record: record.offset,
    "timestamp": lambda record: record.timestamp,
}
# fmt: off
FUNCTIONS = {
    "bytes", "contains", "double", "duration", "dyn", "endsWith", "getDate", "getDayOfMonth",
    "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth",
    "getSeconds", "int", "matches", "size", "startsWith", "string", "timestamp", "type", "uint",
}
# fmt: on
"""What the library knows, besides operators and the macros below."""
TYPES = {"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
BOUND = re.compile(r"\.\s*(?:all|exists|exists_one|existsOne|filter|map)\s*\(\s*([A-Za-z_]\w*)\s*,")
"""Names that a macro gives to the items of a list."""


# ---- at work ------------------------------------------------------------------------------------------


class Sieve:
    """A filter at work in one reader: counts what it let through, routes what it rejected, and warns.

    Args:
        on_rejected: Called with each record that is rejected; all of them have to become objects then.
    """

    def __init__(self, filter: Filter, on_rejected: Callable[[Record], object] | None = None) -> None:
        if not isinstance(filter, Filter):
            raise TypeError(f"filter= takes a filter of pylog.filters, not {type(filter).__name__}")
        if on_rejected is not None and not callable(on_rejected):
            raise TypeError(f"on_rejected is a function, not {type(on_rejected).__name__}")
        self.filter = filter
        self.matcher = filter.matcher if on_rejected is None else matching.Matcher()
        self.passed = self.rejected = 0
        self._on_rejected = on_rejected
        self._asks = on_rejected is not None or not filter.decided
        self._warned = False

    def keep(self, records: list[Record], rejected: int = 0) -> list[Record]:
        """Return those that are let through, of what the matcher left; it had rejected so many before."""
        kept = records
        if self._asks:
            kept = []
            for record in records:
                if self.filter.matches(record):
                    kept.append(record)
                elif self._on_rejected is not None:
                    self._on_rejected(record)
        self._count(len(kept), rejected + len(records) - len(kept))
        return kept

    def lets_through(self, record: Record) -> bool:
        """Return whether one record is let through, of which the matcher was not asked before."""
        passes = self.matcher.match(record)
        if passes is None:
            passes = self.filter.matches(record)
        if not passes and self._on_rejected is not None:
            self._on_rejected(record)
        self._count(passes, not passes)
        return passes

    def _count(self, passed: int, rejected: int) -> None:
        self.passed += passed
        self.rejected += rejected
        if not self.passed and not self._warned and self.rejected >= self.filter.warn_after:
            self._warned = True
            logger.warning("the filter %r let none of %d records through", self.filter, self.rejected)


def sieve_of(filter: Filter | None, on_rejected: Callable[[Record], object] | None) -> Sieve | None:
    """Return the sieve of a reader with these options, None where it has no filter.

    Raises:
        TypeError, ConfigError: on_rejected without a filter.
    """
    if filter is not None:
        return Sieve(filter, on_rejected)
    if on_rejected is not None:
        raise ConfigError("on_rejected goes with filter=")
    return None
