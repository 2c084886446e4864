"""Record headers as bytes: what goes in comes out, and damaged bytes are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logcore.record_headers import headers_from_bytes, headers_to_bytes

names = st.text(st.characters(codec="utf-8"), max_size=20)
pairs = st.lists(st.tuples(names, st.none() | st.binary(max_size=30)), max_size=10)


@given(pairs)
def test_order_and_duplicates_are_kept(headers: list[tuple[str, bytes | None]]) -> None:
    assert headers_from_bytes(headers_to_bytes(headers)) == headers


def test_a_dict_a_generator_and_nothing_are_headers() -> None:
    assert headers_from_bytes(headers_to_bytes({"a": b"1", "b": None})) == [("a", b"1"), ("b", None)]
    assert headers_from_bytes(headers_to_bytes((n, b"") for n in "xy")) == [("x", b""), ("y", b"")]
    assert headers_to_bytes(None) == b""


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("text", TypeError, "not str"),
        (b"bytes", TypeError, "not bytes"),
        (["pair"], TypeError, "iterable of"),
        ([("a", b"1", b"2")], TypeError, "iterable of"),
        ([(b"a", b"1")], TypeError, "name of a header is str, not bytes"),
        ([("a", "1")], TypeError, "value of header 'a' is bytes or None, not str"),
        ([("\ud800", b"")], ValueError, "cannot be encoded"),
        ([("n" * 65536, b"")], ValueError, "limit of 65535"),
        ([("n", b"")] * 1025, ValueError, "limit of 1024"),
        (7, TypeError, "iterable of .*, not int"),
    ],
)
def test_wrong_headers_are_named(wrong: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        headers_to_bytes(wrong)  # type: ignore[arg-type]


@given(pairs.filter(bool), st.data())
def test_no_length_reaches_outside(headers: list[tuple[str, bytes | None]], data: st.DataObject) -> None:
    whole = headers_to_bytes(headers)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        found = headers_from_bytes(cut)
    except ValueError:
        return
    assert found == headers[: len(found)]


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        headers = headers_from_bytes(data)
    except ValueError:
        return
    assert headers_to_bytes(headers) == data
