"""Headers by name: what is read of a record is what its headers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logcore.batch import Record, parse_batch
from logcore.builder import BatchBuilder
from logcore.header_fields import HeaderFields

Headers = list[tuple[str, bytes | None]]
names = st.sampled_from(["type", "typ", "type2", "count", "größe", "other"])
values = st.none() | st.text(max_size=5).map(str.encode)


def record_with(headers: Headers | None) -> Record:
    builder = BatchBuilder()
    builder.add_record(b"k", b"before", [("type", b"another's")])
    builder.add_record(b"k", b"v", headers)
    return parse_batch(builder.encode(), 0, 0)[1]


@given(st.lists(st.tuples(names, values), max_size=8))
def test_a_text_is_the_last_header_of_its_name(headers: Headers) -> None:
    record = record_with(headers)
    said = {name: None if value is None else value.decode() for name, value in record.headers}
    fields = HeaderFields(["größe", "type"])
    assert fields.of(record) == fields.of(record) == (said.get("größe"), said.get("type"))


@given(st.integers(0, 10**18 - 1), st.integers(0, 3))
def test_a_number_is_read_from_its_digits(number: int, zeros: int) -> None:
    digits = (b"0" * zeros + b"%d" % number)[-18:]
    record = record_with([("count", b"1"), ("count", digits), ("type", b"t")])
    assert HeaderFields(["type", "other"], ["count", "typ"]).of(record) == ("t", None, int(digits), None)


def test_a_record_without_headers_and_an_empty_number_have_none() -> None:
    assert HeaderFields(["type"], ["count"]).of(record_with(None)) == (None, None)
    assert HeaderFields(["type"], ["count"]).of(record_with([("type", b""), ("count", b"")])) == ("", None)


@pytest.mark.parametrize("wrong", [b"-1", b"+1", b" 1", b"1_0", b"1.0", b"x", b"1" * 19, "١".encode()])
def test_what_is_no_decimal_number_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="no decimal number"):
        HeaderFields([], ["count"]).of(record_with([("count", wrong)]))


def test_a_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        HeaderFields(["type"]).of(record_with([("type", b"\xff")]))


def test_more_names_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="limit of 8"):
        HeaderFields([f"n{number}" for number in range(9)])
