"""KafkaRecord: a message of Kafka with the attributes of a Record. And what a record may be on its way there.

Invariant: nothing of a record is changed: what Kafka cannot hold is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import Message

from pylog.errors import UnsupportedError

if TYPE_CHECKING:
    from pylog.engine import Headers

NANOSECONDS = 1_000_000
"""In a millisecond, the unit of Kafka's timestamps."""


class KafkaRecord:
    """One record, immutable. Equal to a record of the same place and content."""

    __slots__ = ("_message",)

    def __init__(self, message: Message) -> None:
        self._message: Any = message

    @property
    def topic(self) -> str:
        """Name of the topic."""
        found: str = self._message.topic()
        return found

    @property
    def partition(self) -> int:
        """Number of the partition."""
        found: int = self._message.partition()
        return found

    @property
    def offset(self) -> int:
        """Offset in the partition; Kafka leaves gaps where a log was compacted or a transaction ended."""
        found: int = self._message.offset()
        return found

    @property
    def timestamp(self) -> int:
        """Nanoseconds since 1970, in whole milliseconds; -1 where the record has none."""
        _, milliseconds = self._message.timestamp()
        return -1 if milliseconds < 0 else int(milliseconds) * NANOSECONDS

    @property
    def key(self) -> bytes | None:
        """The key, or None."""
        found: bytes | None = self._message.key()
        return found

    @property
    def value(self) -> bytes | None:
        """The value, or None (a tombstone where the topic is compacted)."""
        found: bytes | None = self._message.value()
        return found

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Names and values in order, duplicates included."""
        return self._message.headers() or []

    @property
    def sequence(self) -> int | None:
        """None: Kafka keeps the sequences of its producers to itself."""
        return None

    @property
    def epoch(self) -> int:
        """The leader epoch in which it was written, where the broker says so; else 0."""
        return self._message.leader_epoch() or 0

    def _content(self) -> tuple[object, ...]:
        place = (self.topic, self.partition, self.offset)
        return (*place, self.timestamp, self.key, self.value, self.headers)

    def __eq__(self, other: object) -> bool:
        return self._content() == other._content() if isinstance(other, KafkaRecord) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.topic, self.partition, self.offset))

    def __repr__(self) -> str:
        return f"<record {self.topic}-{self.partition}@{self.offset}>"


def check_bytes(given: object, part: str) -> bytes | None:
    """Return the bytes of a key or value; TypeError where it is something else."""
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    raise TypeError(
        f"the {part} of a record is bytes or None, not {type(given).__name__}: encode it, or give "
        "key_serde= or value_serde="
    )


def header_list(headers: Headers | None) -> list[tuple[str, bytes | None]]:
    """Return headers as pairs; TypeError where a name is no str or a value neither bytes nor None."""
    if headers is None:
        return []
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found = []
    for name, value in pairs:
        if not isinstance(name, str):
            raise TypeError(f"the name of a header is a str, not {type(name).__name__}")
        found.append((name, check_bytes(value, f"header {name!r}")))
    return found


def milliseconds_of(timestamp: object) -> int:
    """Return Kafka's form of a timestamp in ns; 0 stands for now.

    Raises:
        UnsupportedError: it is no whole number of milliseconds after 1970 began: Kafka would alter it.
    """
    if timestamp is None:
        return 0
    if isinstance(timestamp, bool) or not isinstance(timestamp, int):
        raise TypeError(f"a timestamp is an int of ns since 1970, not {type(timestamp).__name__}")
    milliseconds, rest = divmod(timestamp, NANOSECONDS)
    if rest or milliseconds <= 0:
        raise UnsupportedError(
            f"Kafka keeps whole milliseconds since 1970 and cannot hold the timestamp {timestamp}: round it"
        )
    return milliseconds
