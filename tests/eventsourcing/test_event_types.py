"""Typed events: their schemas in versions, and the correlation that they carry."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest
from accounts import EVENTS, Deposited, Withdrawn

import pylog
from pylog import correlation


def moved_1() -> type:
    class Moved(msgspec.Struct):
        name: str

    return Moved


def moved_3() -> type:
    class Moved(msgspec.Struct):
        schema_version: ClassVar[int] = 3
        first: str
        last: str
        country: str

    return Moved


def test_events_of_older_schemas_are_upcast(engine: pylog.Engine) -> None:
    old, new = moved_1(), moved_3()
    engine.event_store("people", events=[old]).append("Person-1", old("Ada Lovelace"))
    upcasters = {
        ("Moved", 1): lambda e: dict(zip(("first", "last"), e["name"].split(), strict=True)),
        ("Moved", 2): lambda e: e | {"country": "GB"},
    }
    store = engine.event_store("people", events=[new], upcasters=upcasters)
    store.append("Person-1", new("Alan", "Turing", "GB"))
    events = list(store.read("Person-1"))
    assert [event.data for event in events] == [new("Ada", "Lovelace", "GB"), new("Alan", "Turing", "GB")]
    assert [event.schema_version for event in events] == [1, 3]
    for types, reason in (
        ([old], "knows 1"),
        ([new], "nothing upcasts Moved from version 1"),
        ([Deposited], "no known type"),
    ):
        with pytest.raises(pylog.SerializationError, match=reason):
            list(engine.event_store("people", events=types).read("Person-1"))


def test_what_could_not_be_read_again_is_not_stored(engine: pylog.Engine) -> None:
    class Measured(msgspec.Struct):
        value: float

    store = engine.event_store("accounts", events=[*EVENTS, Measured])
    wrong: Any
    for wrong in (Deposited("5"), Deposited(None), Withdrawn(1.5), Measured(float("nan"))):  # type: ignore[arg-type]
        with pytest.raises(pylog.SerializationError, match="read again"):
            store.append("Account-1", [Deposited(1), wrong])
    for metadata in ([1], {"at": object()}):
        with pytest.raises((TypeError, pylog.SerializationError)):
            store.append("Account-1", Deposited(1), metadata=metadata)  # type: ignore[arg-type]
    assert store.version("Account-1") == 0


@pytest.mark.parametrize("fault", [IndexError, AttributeError, ZeroDivisionError, KeyError, AssertionError])
def test_an_upcaster_that_fails_is_named(engine: pylog.Engine, fault: type[Exception]) -> None:
    def upcast(fields: dict[str, Any]) -> dict[str, Any]:
        raise fault

    old, new = moved_1(), moved_3()
    engine.event_store("people", events=[old]).append("Person-1", old("Ada Lovelace"))
    store = engine.event_store("people", events=[new], upcasters={("Moved", 1): dict, ("Moved", 2): upcast})
    with pytest.raises(pylog.SerializationError, match="upcaster of Moved from version 2 failed"):
        list(store.read("Person-1"))


def test_what_is_no_event_type_is_refused(engine: pylog.Engine) -> None:
    class Deposited(msgspec.Struct):
        amount: int

    for wrong in ([dict], [EVENTS[0], Deposited], [3]):
        with pytest.raises(pylog.ConfigError):
            engine.event_store("accounts", events=wrong)
    with pytest.raises(pylog.ConfigError):
        engine.event_store("accounts", events=EVENTS, upcasters={("Deposited", 1): dict})


def test_correlation_flows_from_what_is_handled_into_what_is_emitted(engine: pylog.Engine) -> None:
    store = engine.event_store("accounts", events=EVENTS)
    with correlation.correlated() as request:
        store.append("Account-1", Deposited(1))
    (first,) = store.read("Account-1")
    assert first.correlation == request
    with correlation.correlated(request.correlation_id, causation_id=first.event_id):
        store.append("Account-2", Deposited(2))
    (second,) = store.read("Account-2")
    assert second.correlation == request.caused_by(first.event_id)
    store.append("Account-3", Deposited(3))
    assert next(store.read("Account-3")).correlation is None
