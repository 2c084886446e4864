"""Compaction makes few large compressed batches of many small ones; records stay as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oracle import Batch
from oracle_partition import read_partition

import pylog
from pylog.cli import main

ZSTD = 1


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        yield engine


def create(engine: pylog.Engine, segment_bytes: int = 1 << 20, **config: Any) -> None:
    engine.create_topic("t", segment_bytes=segment_bytes, cleanup_policy="compact", **config)


def compact(engine: pylog.Engine) -> None:
    (report,) = engine.clean("t", now=True)
    assert report.error is None and report.rewritten_segments > 0


def facts(engine: pylog.Engine) -> list[tuple[Any, ...]]:
    return [(r.offset, r.timestamp, r.key, r.value, r.headers, r.sequence) for r in engine.read("t", 0)]


def batches(data: Path) -> list[Batch]:
    """What stands in the log, by the document alone, without marks."""
    found = read_partition(data / "topics" / "t" / "0")
    return [batch for segment in found.segments for batch in segment.batches if batch.record_count]


def test_many_small_batches_become_few_large_compressed_ones(data: Path, engine: pylog.Engine) -> None:
    create(engine)
    for number in range(2000):
        engine.append("t", b"value of a record, %d" % number, key=b"key %d" % (number % 1900))
    before = facts(engine)
    compact(engine)
    assert facts(engine) == before[100:]
    found = batches(data)
    assert len(found) < 10
    assert all(batch.attributes & 7 == ZSTD for batch in found)
    # one by one they took 64 bytes of header each
    assert sum(batch.total_length for batch in found) < 1900 * 40
    assert main(["verify", str(data)]) == 0
    engine.append("t", b"later", key=b"key 5")
    compact(engine)
    assert [fact[0] for fact in facts(engine)] == [*(n for n in range(100, 2000) if n != 1905), 2000]


def test_every_kind_of_record_stays_as_it_was_in_one_batch_with_others(
    data: Path, engine: pylog.Engine
) -> None:
    create(engine)
    rng = random.Random(5)
    for number in range(3000):
        value = rng.choice([None, b"", b"v" * rng.randrange(50), b"%d" % number])
        headers = rng.choice([None, [("a", b"1"), ("a", None)], [("", b"")]])
        key = rng.choice([None, b"", b"key %d" % rng.randrange(500)])
        engine.append("t", value, key, headers=headers, timestamp=rng.randrange(-(1 << 62), 1 << 62))
    before = facts(engine)
    compact(engine)
    last = {key: offset for offset, _, key, *_ in before if key is not None}
    assert facts(engine) == [fact for fact in before if fact[2] is None or last[fact[2]] == fact[0]]
    assert [record.offset for record in read_partition(data / "topics" / "t" / "0").records()] == [
        fact[0] for fact in facts(engine)
    ]
    assert len(batches(data)) < 20
    stamps = [fact[1] for fact in facts(engine)]
    with engine.consumer() as consumer:
        consumer.assign([("t", 0)])
        wanted = rng.choice(stamps)
        consumer.seek_to_time(wanted)
        assert consumer.poll(1)[0].timestamp >= wanted


def test_batches_of_a_producer_or_a_transaction_are_not_merged(data: Path, engine: pylog.Engine) -> None:
    create(engine)
    with engine.producer(producer_id="loader") as producer:
        for sequence in range(20):
            producer.send("t", b"x", b"p%d" % (sequence % 15), sequence=sequence)
            producer.flush()
    for number in range(20):
        with engine.transaction() as transaction:
            transaction.append("t", b"x", b"t%d" % (number % 15))
    for number in range(20):
        engine.append("t", b"x", key=b"s%d" % (number % 15))
    compact(engine)
    found = batches(data)
    assert [batch.record_count for batch in found] == [1] * 30 + [15]
    assert all(batch.producer is not None for batch in found[:15])
    assert all(batch.transaction is not None for batch in found[15:30])
    assert [fact[5] for fact in facts(engine)][:15] == list(range(5, 20))


def test_a_large_batch_stays_by_itself_and_in_its_place(data: Path, engine: pylog.Engine) -> None:
    create(engine)
    for number in range(10):
        engine.append("t", b"x", key=b"a%d" % (number % 9))
    engine.append_many("t", [b"y" * 1000] * 100, [b"b%d" % number for number in range(100)])
    for number in range(10):
        engine.append("t", b"x", key=b"c%d" % (number % 9))
    compact(engine)
    assert [batch.record_count for batch in batches(data)] == [9, 100, 9]


def test_a_merged_batch_fits_its_segment(data: Path, engine: pylog.Engine) -> None:
    create(engine, segment_bytes=16 << 10)
    noise = random.Random(7)
    for number in range(400):
        engine.append("t", noise.randbytes(150), key=b"key %d" % (number % 390))
    before = facts(engine)
    compact(engine)
    assert facts(engine) == before[10:]
    assert all(batch.raw_body_bytes <= 8 << 10 for batch in batches(data))
