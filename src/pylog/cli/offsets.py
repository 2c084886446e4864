"""Reads kcat's way of saying where to start and stop: beginning, end, N, -N, s@ms, e@ms.

Pure, but for the questions it asks of a consumer. Invariant: every partition gets one range [start, stop),
where `stop` is None if the end is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pylog.errors import ConfigError, OffsetOutOfRangeError

if TYPE_CHECKING:
    from pylog.engine import Consumer
    from pylog.records import TopicPartition

NS_PER_MS = 1_000_000
MOST_DIGITS, MOST_MS = 19, (1 << 63) // NS_PER_MS


class Range(NamedTuple):
    """Offsets of one partition to print."""

    start: int
    stop: int | None


def check(texts: Sequence[str]) -> None:
    """Raise ConfigError where one of the texts says nothing of the kind."""
    for text in texts:
        number = text[2:] if text[:2] in ("s@", "e@") else text
        if text not in ("beginning", "end") and not is_integer(number):
            raise ConfigError(f"-o {text}: write beginning, end, N, -N, s@MILLISECONDS or e@MILLISECONDS")
        if len(number) > MOST_DIGITS or (number != text and abs(int(number)) > MOST_MS):
            raise ConfigError(f"-o {text}: beyond every offset and time that a log can hold")


def is_integer(text: str) -> bool:
    """Return whether `text` is a whole number in ASCII digits."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal()


def ranges(
    consumer: Consumer, partitions: Sequence[TopicPartition], texts: Sequence[str], *, stop_at_end: bool
) -> dict[TopicPartition, Range]:
    """Return what to print of each partition; `stop_at_end` stops at the ends as they are now."""
    beginnings, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    starts = dict(beginnings)
    stops: dict[TopicPartition, int | None] = {p: ends[p] if stop_at_end else None for p in partitions}
    for text in texts:
        if text.startswith("e@"):
            found = at_time(consumer, partitions, text)
            stops = {p: ends[p] if found[p] is None else found[p] for p in partitions}
            continue
        timed = at_time(consumer, partitions, text) if text.startswith("s@") else {}
        starts = {p: start_of(text, beginnings[p], ends[p], timed.get(p)) for p in partitions}
        if all(starts[p] > ends[p] for p in partitions):
            raise OffsetOutOfRangeError(
                f"offset {text} is beyond the end, {max(ends.values())}",
                offset=int(text),
                log_end_offset=max(ends.values()),
            )
    return {p: Range(min(max(starts[p], beginnings[p]), ends[p]), stops[p]) for p in partitions}


def start_of(text: str, beginning: int, end: int, timed: int | None) -> int:
    """Return the first offset to print of one partition."""
    if text == "beginning":
        return beginning
    if text == "end":
        return end
    if text.startswith("s@"):
        return end if timed is None else timed
    number = int(text)
    return max(end + number, beginning) if text.startswith("-") else number


def at_time(
    consumer: Consumer, partitions: Sequence[TopicPartition], text: str
) -> dict[TopicPartition, int | None]:
    """Return per partition the first offset of the time in s@MS or e@MS, or later; None: none."""
    found = consumer.offsets_for_times(dict.fromkeys(partitions, int(text[2:]) * NS_PER_MS))
    return {p: None if first is None else first.offset for p, first in found.items()}
