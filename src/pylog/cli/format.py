"""kcat's -f: a text with %-tokens and backslash escapes, made into a function from record to bytes.

Pure. Invariant: with `escape`, only what the user wrote in the format itself reaches the output unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pylog.cli.envelope import Source
from pylog.cli.output import escaped_bytes
from pylog.errors import ConfigError

Part = Callable[[Source], bytes]

TOKEN = re.compile(r"%(.)|\\x([0-9a-fA-F]{2})|\\(.)|[^%\\]+|.", re.DOTALL)
ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "\\": b"\\", "0": b"\0"}
NS_PER_MS = 1_000_000


def make_format(text: str, *, null: bytes, escape: bool) -> Callable[[Source], bytes]:
    """Return a function that renders a record.

    Args:
        null: what is printed for a null key or value.
        escape: make data safe for a terminal.

    Raises:
        ConfigError: the text has an unknown token.
    """
    parts = [part for match in TOKEN.finditer(text) for part in [make_part(match, null, escape)]]

    def render(record: Source) -> bytes:
        return b"".join(part if isinstance(part, bytes) else part(record) for part in parts)

    return render


def make_part(match: re.Match[str], null: bytes, escape: bool) -> bytes | Part:
    """Return the bytes that a piece of the format stands for, or what makes them from a record."""
    token, code, letter = match.groups()
    if code is not None:
        return bytes.fromhex(code)
    if letter is not None and letter in ESCAPES:
        return ESCAPES[letter]
    if token == "%":
        return b"%"
    if token in TOKENS:
        return make_token(token, null, escape)
    if match[0][0] in "%\\":
        there = " ".join("%" + name for name in TOKENS)
        raise ConfigError(f"-f: unknown {match[0]!r}; there are {there} %% and \\n \\t \\r \\0 \\\\ \\xHH")
    return match[0].encode("utf-8", "surrogateescape")


def make_token(token: str, null: bytes, escape: bool) -> Part:
    """Return what renders one %-token."""
    read = TOKENS[token]

    def render(record: Source) -> bytes:
        data = read(record)
        if data is None:
            return null
        return escaped_bytes(data) if escape else data

    return render


def length(data: bytes | None) -> bytes:
    """Return the length as text, -1 for null."""
    return b"-1" if data is None else b"%d" % len(data)


def headers(record: Source) -> bytes:
    """Return name=value pairs as kcat prints them; a null header has no value."""
    return b",".join(
        name.encode() if value is None else name.encode() + b"=" + value for name, value in record.headers
    )


TOKENS: dict[str, Callable[[Source], bytes | None]] = {
    "s": lambda record: record.value,
    "S": lambda record: length(record.value),
    "k": lambda record: record.key,
    "K": lambda record: length(record.key),
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "t": lambda record: record.topic.encode(),
    "T": lambda record: b"%d" % (record.timestamp // NS_PER_MS),
    "h": headers,
}
