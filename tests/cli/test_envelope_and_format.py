"""The pure parts: envelopes, formats, escaping."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylog.cli.envelope import decode, encode
from pylog.cli.format import make_format
from pylog.cli.output import escaped, escaped_bytes
from pylog.errors import ConfigError, SerializationError


class Written:
    """A record that was never in a log."""

    def __init__(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
    ) -> None:
        self.topic, self.partition, self.offset, self.timestamp = "t", 1, 2, 3
        self.key, self.value, self.headers = key, value, headers


maybe_bytes = st.one_of(st.none(), st.binary())


@given(maybe_bytes, maybe_bytes, st.lists(st.tuples(st.text(), maybe_bytes)))
def test_a_record_comes_back_from_its_envelope(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    line = json.dumps(encode(Written(key, value, headers))).encode()
    found = decode(line)
    assert (found.topic, found.partition, found.timestamp) == ("t", 1, 3)
    assert (found.key, found.value, found.headers) == (key, value, headers)


@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_what_is_no_envelope_is_refused(line: bytes | str) -> None:
    with pytest.raises(SerializationError):
        decode(line.encode() if isinstance(line, str) else line)


@given(st.text())
def test_escaped_text_is_printable_and_plain_text_stays(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(text) == text or not text.isprintable()


@given(st.binary())
def test_escaped_bytes_are_printable(data: bytes) -> None:
    assert escaped_bytes(data).decode().isprintable()


@given(st.text())
def test_any_format_renders_or_is_refused(text: str) -> None:
    try:
        render = make_format(text, null=b"", escape=False)
    except ConfigError:
        return
    assert isinstance(render(Written(b"k", b"v", [])), bytes)
