"""Multiple producers, pattern 9: sixteen processes on one partition, and what a retry after a crash finds.

9c, 9d and 9e are about one producer and stand in tests/test_process_life.py and tests/test_producer.py.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child
from faults.zygote import Zygote

import pylog

PRODUCERS = 16
SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [SOURCES, Path(__file__).parent]) as started:
        yield started


def produce(directory: str, name: str, records: int, seconds: float) -> int:
    """Append so many records, or for so long; how many that were."""
    with pylog.open(directory) as engine:
        append, until, number = engine.append, time.monotonic() + seconds, 0
        while number < records or time.monotonic() < until:
            append("t", b"%s %d" % (name.encode(), number))
            number += 1
    return number


def run_sixteen(zygote: Zygote, data: Path, records: int, seconds: float = 0.0) -> list[int]:
    """Let them append at once, hold the log against what they say, and return how much each had appended."""
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=1 << 20, durability="os")
        started = [
            zygote.start(
                "test_many_producers:produce", directory=data, name=str(n), records=records, seconds=seconds
            )
            for n in range(PRODUCERS)
        ]
        counts = [child.result(timeout=100 + 10 * seconds) for child in started]
        found: dict[int, list[int]] = defaultdict(list)
        for expected, record in enumerate(engine.read("t")):
            assert record.offset == expected, "offsets are not dense"
            name, number = map(int, (record.value or b"").split())
            found[name].append(number)
    assert found == {n: list(range(counts[n])) for n in range(PRODUCERS)}
    return sorted(counts)


def test_9a_sixteen_processes_on_one_partition_lose_nothing_and_keep_their_orders(
    zygote: Zygote, tmp_path: Path
) -> None:
    assert run_sixteen(zygote, tmp_path / "data", records=400) == [400] * PRODUCERS


@pytest.mark.soak
def test_9a_the_fastest_of_sixteen_is_not_far_ahead_of_the_slowest(zygote: Zygote, tmp_path: Path) -> None:
    counts = run_sixteen(zygote, tmp_path / "data", records=0, seconds=8.0)
    print(f"{counts} appended in 8 s: the fastest has {counts[-1] / counts[0]:.2f} times the slowest")
    assert counts[-1] < 40 * counts[0]  # twenty times the promise of 2


LOADER = """
import sys, pylog
placed = {}
def told(ids, error):
    assert error is None
    placed.update((place.offset, place.partition) for place in ids)
with pylog.open(sys.argv[1]) as engine:
    producer = engine.producer(producer_id="loader", on_delivery=told)
    for number in range(int(sys.argv[2])):
        producer.send("t", b"%d" % number, sequence=number, partition=0)
        if number % 100 == 99:
            producer.flush()
            print(max(placed), flush=True)
    sys.stdin.read()
"""


def test_9b_a_retry_after_a_crash_finds_the_records_at_their_first_offsets(
    data: Path, engine: pylog.Engine
) -> None:
    engine.create_topic("t")
    with Child(LOADER, data, 1000) as child:
        while child.says() != "499":
            pass
        child.kill()
    first = {record.value: record.offset for record in engine.read("t")}
    with engine.producer(producer_id="loader") as producer:
        assert (producer.last_sequence("t", 0) or 0) >= 499
        for number in range(1000):  # all of it once more: it does not know how far it was
            producer.send("t", b"%d" % number, sequence=number, partition=0)
    found = {record.value: record.offset for record in engine.read("t")}
    assert found == {b"%d" % number: number for number in range(1000)}
    assert first.items() <= found.items()
