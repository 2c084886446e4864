"""The records that every contestant of a contest gets: the same bytes, in the shape each wants.

Values are text that compresses as real events do (JSON with a few changing fields), so that zstd rows mean
something. Invariant: a Workload never changes after it was made, so rounds can share it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy
import numpy.typing

POOL = 100_000          # different records; a longer run goes through them again and again
KEYS = 10_000
WORDS = ("depart", "arrive", "cancel", "divert", "gate", "delay", "board", "taxi", "climb", "crew", "fuel")

T = TypeVar("T")
Columns = tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.uint8]]


@dataclass(frozen=True)
class Workload:
    """`count` records of `size` bytes of value and 8 bytes of key, cut into calls of `batch` records."""

    size: int
    count: int
    batch: int = POOL

    def __reduce__(self) -> tuple[Callable[..., Workload], tuple[int, int, int]]:
        """Another process makes the same records itself."""
        return workload, (self.size, self.count, self.batch)

    @cached_property
    def values(self) -> list[bytes]:
        """All values, one after the other."""
        return repeat(pool_of_values(self.size), self.count)

    @cached_property
    def keys(self) -> list[bytes]:
        """All keys, one after the other."""
        return repeat(pool_of_keys(), self.count)

    @cached_property
    def calls(self) -> list[tuple[list[bytes], list[bytes]]]:
        """(values, keys) of each batched call; calls with the same records share their lists."""
        values, keys = pool_of_values(self.size), pool_of_keys()
        return self.per_call(lambda at, end: (values[at:end], keys[at:end]))

    @cached_property
    def columns(self) -> list[tuple[Columns, Columns]]:
        """(value columns, key columns) of each batched call: offsets i32[n+1] and bytes u8."""
        values, keys = pool_of_values(self.size), pool_of_keys()
        return self.per_call(lambda at, end: (as_columns(values[at:end]), as_columns(keys[at:end])))

    def per_call(self, make: Callable[[int, int], T]) -> list[T]:
        """What `make` makes of each call's range in the pool, made once per range."""
        if POOL % self.batch:
            raise ValueError(f"{POOL} records are not a whole number of calls of {self.batch}")
        made: dict[tuple[int, int], T] = {}
        found = []
        for at in range(0, self.count, self.batch):
            start = at % POOL
            where = (start, start + min(self.batch, self.count - at))
            if where not in made:
                made[where] = make(*where)
            found.append(made[where])
        return found

    @property
    def payload_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self.count * (self.size + 8)

    def with_count(self, count: int) -> Workload:
        """The same records, only more or fewer of them."""
        return workload(self.size, count, self.batch)

    def in_calls_of(self, batch: int) -> Workload:
        """The same records in calls of another length."""
        return workload(self.size, self.count, batch)


@lru_cache(maxsize=16)
def workload(size: int, count: int, batch: int = POOL) -> Workload:
    """A Workload, made once per run."""
    return Workload(size, count, batch)


@lru_cache(maxsize=4)
def pool_of_values(size: int) -> list[bytes]:
    """POOL different values of `size` bytes."""
    chance = random.Random(size)
    return [value(chance, n, size) for n in range(POOL)]


def value(chance: random.Random, number: int, size: int) -> bytes:
    """One event: a few fields that change, then words until `size` bytes are full."""
    head = f'{{"id":{number},"at":{chance.randrange(10**9)},"delay":{chance.randrange(-30, 400)},"note":"'
    words = " ".join(chance.choices(WORDS, k=size // 5))
    return (head + words).ljust(size)[: size - 2].encode() + b'"}'


@lru_cache(maxsize=1)
def pool_of_keys() -> list[bytes]:
    """POOL keys of 8 bytes, KEYS of them different."""
    chance = random.Random(8)
    return [b"k%07d" % chance.randrange(KEYS) for _ in range(POOL)]


def repeat(pool: list[bytes], count: int) -> list[bytes]:
    """The first `count` of `pool`, starting over where it ends."""
    return (pool * -(-count // len(pool)))[:count]


def as_columns(items: list[bytes]) -> Columns:
    """Offsets and bytes of a list, as Arrow's Binary layout has them."""
    offsets = numpy.zeros(len(items) + 1, dtype=numpy.int32)
    numpy.cumsum([len(item) for item in items], out=offsets[1:])
    return offsets, numpy.frombuffer(b"".join(items), dtype=numpy.uint8)
