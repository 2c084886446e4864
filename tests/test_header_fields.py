"""Headers by name: what is read of a record is what its headers say."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logcore.batch import Record, parse_batch
from logcore.builder import BatchBuilder
from logcore.header_fields import HeaderFields
from logcore.record_headers import PackedHeaders, headers_from_bytes, headers_to_bytes

Headers = list[tuple[str, bytes | None]]
names = st.sampled_from(["type", "typ", "type2", "count", "größe", "other"])
values = st.none() | st.text(max_size=5).map(str.encode)


def record_with(headers: Headers | PackedHeaders | None) -> Record:
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


@given(
    st.none() | st.text(max_size=9),
    st.none() | st.integers(0, 10**18 - 1),
    st.lists(st.tuples(names, values), max_size=3),
)
def test_what_is_packed_is_read_again(text: str | None, number: int | None, more: Headers) -> None:
    fields = HeaderFields(["größe"], ["n"])
    packed = fields.pack((text, number), PackedHeaders([(name, b"m") for name, _ in more if name != "größe"]))
    record = record_with(packed)
    assert fields.of(record) == (text, number)
    assert record.headers == list(packed) == headers_from_bytes(headers_to_bytes(packed))
    assert [name for name, value in packed if value == b"m"] == [name for name, _ in more if name != "größe"]


def test_rows_are_packed_as_each_by_itself() -> None:
    fields, more = HeaderFields(["type"], ["n"]), PackedHeaders([("other", None)])
    rows = [("a", 1), (None, 2), ("b", None)]
    packed = fields.pack_each(iter(rows), more)
    assert [list(one) for one in packed] == [list(fields.pack(row, more)) for row in rows]
    assert [fields.of(record_with(one)) for one in packed] == rows
    for wrong in (None, ["t", 1], ("t",)):
        with pytest.raises((TypeError, ValueError)):
            fields.pack_each([("a", 1), wrong])  # type: ignore[list-item]


@given(st.lists(st.tuples(names, values), max_size=8))
def test_packed_headers_are_the_headers_that_they_were_made_of(headers: Headers) -> None:
    packed = PackedHeaders(headers)
    assert list(packed) == headers == record_with(packed).headers
    assert list(pickle.loads(pickle.dumps(packed))) == headers


def test_what_cannot_be_packed_is_refused() -> None:
    fields = HeaderFields(["type"], ["count"])
    for wrong in (("t", -1), ("t", 10**18), ("t", 10**30)):
        with pytest.raises(OverflowError):
            fields.pack(wrong)
    for bad in ((b"t", 1), ("t", "1"), ("t", 1.0)):
        with pytest.raises(TypeError):
            fields.pack(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 values for 2 names"):
        fields.pack(("t",))
    with pytest.raises(ValueError, match="limit of 1024"):
        fields.pack(("t", 1), PackedHeaders([("n", b"")] * 1023))
    with pytest.raises(ValueError, match="surrogates"):
        fields.pack(("\ud800", 1))


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
