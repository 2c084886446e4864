"""Compaction by key: the last record of each key stays as it was, and whatever readers rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child
from clocks import TurnedClock
from oracle_partition import read_partition

import pylog
from pylog.cli import main
from pylog.embedded import cleaning
from pylog.embedded.engine import EmbeddedEngine

SEGMENT_BYTES = 16 << 10


@pytest.fixture
def engine(data: Path, clock: TurnedClock) -> Iterator[pylog.Engine]:
    with EmbeddedEngine(data, clock=clock) as engine:
        create(engine)
        yield engine


def create(engine: pylog.Engine, **config: Any) -> None:
    engine.create_topic("t", segment_bytes=SEGMENT_BYTES, cleanup_policy="compact", **config)


def facts(record: pylog.Record) -> tuple[Any, ...]:
    return (record.offset, record.timestamp, record.key, record.value, record.headers)


def all_facts(engine: pylog.Engine) -> list[tuple[Any, ...]]:
    return [facts(record) for record in engine.read("t", 0)]


def last_of_each_key(records: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    last = {key: offset for offset, _, key, _, _ in records if key is not None}
    return [fact for fact in records if fact[2] is None or last[fact[2]] == fact[0]]


def fill(engine: pylog.Engine, count: int = 300, keys: int = 20) -> None:
    for number in range(count):
        engine.append("t", b"%04d" % number * 50, key=b"key %d" % (number % keys))


def segments(data: Path) -> list[Path]:
    return sorted((data / "topics" / "t" / "0").glob("*.log"))


def compact(engine: pylog.Engine) -> pylog.CleaningReport:
    (report,) = engine.clean("t", now=True)
    assert report.error is None
    return report


def test_the_last_record_of_each_key_stays_as_it_was(data: Path, engine: pylog.Engine) -> None:
    fill(engine)
    before = all_facts(engine)
    report = compact(engine)
    assert all_facts(engine) == last_of_each_key(before)
    assert report.removed_records == 280
    assert report.bytes_after < report.bytes_before
    assert (engine.log_start_offset("t", 0), engine.log_end_offset("t", 0)) == (0, 300)


def test_it_holds_after_the_next_open_and_for_those_who_only_look(data: Path, engine: pylog.Engine) -> None:
    fill(engine)
    expected = last_of_each_key(all_facts(engine))
    compact(engine)
    engine.close()
    for read_only in (True, False):
        with pylog.open(data, read_only=read_only) as again:
            assert all_facts(again) == expected
            assert read_only or again.append("t", b"more").offset == 300
    oracle = read_partition(data / "topics" / "t" / "0").records()
    found = [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in oracle]
    assert found[:-1] == expected
    assert main(["verify", str(data)]) == 0


def test_dump_and_cat_read_what_was_compacted(
    data: Path, engine: pylog.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(engine)
    compact(engine)
    engine.close()
    assert main(["dump", str(segments(data)[-2])]) == 0
    assert main(["-C", str(data), "cat", "t", "-e", "-f", "%o "]) == 0
    assert capsys.readouterr().out.split()[-20:] == [str(offset) for offset in range(280, 300)]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_batches_of_all_shapes_keep_what_stays(data: Path, compression: Any) -> None:
    with pylog.open(data) as engine:
        create(engine, compression_type=compression)
        for turn in range(6):
            keys = [None if i % 7 == 3 else b"k%d" % (i % 11) for i in range(60)]
            values = [None if i % 13 == 5 else b"%d %d " % (turn, i) * (i % 9) for i in range(60)]
            headers = [[("n", b"%d" % i), ("n", None)] if i % 3 else None for i in range(60)]
            timestamps = [turn * 60 + i for i in range(60)]
            engine.append_many("t", values, keys, headers=headers, timestamps=timestamps)
        with engine.producer(producer_id="p") as producer:
            for number in range(40):
                producer.send("t", b"%d" % number * 20, key=b"k%d" % (number % 5), sequence=10 + number)
        before = all_facts(engine)
        report = compact(engine)
        assert report.removed_records
        assert all_facts(engine) == last_of_each_key(before)
        with engine.consumer("t", auto_offset_reset="earliest") as consumer:
            offsets = [offset for batch in consumer.batches(timeout=0) for offset in batch.offsets.tolist()]
        assert offsets == [fact[0] for fact in last_of_each_key(before)]
    assert main(["verify", str(data)]) == 0
    oracle = read_partition(data / "topics" / "t" / "0").records()
    assert [record.sequence for record in oracle][-5:] == [45, 46, 47, 48, 49]


def test_records_without_a_key_stay(engine: pylog.Engine) -> None:
    for number in range(50):
        engine.append("t", b"%d" % number * 300)
    assert compact(engine).removed_records == 0
    assert len(all_facts(engine)) == 50


def test_a_segment_of_which_nothing_stays_is_passed_over(data: Path, engine: pylog.Engine) -> None:
    for number in range(100):
        engine.append("t", b"%d" % number * 300, key=b"one")
    compact(engine)
    assert [fact[0] for fact in all_facts(engine)] == [99]
    assert next(iter(engine.read("t", 0, 17))).offset == 99
    with engine.consumer("t", auto_offset_reset="earliest") as consumer:
        assert [record.offset for record in consumer.poll(10)] == [99]
        assert consumer.position(("t", 0)) == 100
    assert main(["verify", str(data)]) == 0


def test_compacting_again_changes_nothing(data: Path, engine: pylog.Engine) -> None:
    fill(engine)
    compact(engine)
    before = [path.read_bytes() for path in segments(data)]
    report = compact(engine)
    assert (report.removed_records, report.rewritten_segments) == (0, 0)
    assert [path.read_bytes() for path in segments(data)] == before


def test_more_keys_than_the_map_holds_take_more_passes(
    engine: pylog.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "KEY_MAP_BYTES", 0)  # then as small as it gets: 768 keys
    for turn in range(3):
        keys = [b"key %d" % number for number in range(2000)]
        engine.append_many("t", [b"%d" % turn] * 2000, keys)
    before = all_facts(engine)
    assert compact(engine).removed_records == 4000
    assert all_facts(engine) == last_of_each_key(before)


# ---- when ----------------------------------------------------------------------------------------------


def test_only_what_is_dirty_enough_is_compacted(engine: pylog.Engine) -> None:
    fill(engine)
    compact(engine)
    fill(engine, 100)
    (report,) = engine.clean("t")
    assert report.rewritten_segments == 0 < report.dirty_ratio
    engine.alter_topic("t", min_cleanable_dirty_ratio=0.01)
    (report,) = engine.clean("t")
    assert report.rewritten_segments


def test_what_is_young_is_left_alone(engine: pylog.Engine, clock: TurnedClock) -> None:
    engine.alter_topic("t", min_compaction_lag_ms=3_600_000)
    fill(engine)
    assert engine.clean("t")[0].removed_records == 0
    clock.pass_days(0.05)
    assert engine.clean("t")[0].removed_records


def test_the_active_segment_is_left_alone_unless_all_is_wanted_now(engine: pylog.Engine) -> None:
    for number in range(10):
        engine.append("t", b"%d" % number, key=b"k")
    assert engine.clean("t")[0].removed_records == 0
    assert engine.clean("t", now=True)[0].removed_records == 9


def test_a_plan_changes_nothing(data: Path, engine: pylog.Engine) -> None:
    fill(engine)
    before = [path.read_bytes() for path in segments(data)]
    (report,) = engine.clean("t", plan=True)
    assert report.dirty_ratio == 1.0
    assert [path.read_bytes() for path in segments(data)] == before


# ---- tombstones ----------------------------------------------------------------------------------------


def test_a_tombstone_stays_until_all_had_time_to_see_it(engine: pylog.Engine, clock: TurnedClock) -> None:
    engine.append("t", b"value", key=b"k")
    engine.append("t", None, key=b"k")
    engine.append("t", b"other", key=b"l")
    compact(engine)
    assert [fact[0] for fact in all_facts(engine)] == [1, 2]
    clock.pass_days(0.9)
    compact(engine)
    assert [fact[0] for fact in all_facts(engine)] == [1, 2]
    clock.pass_days(0.2)
    compact(engine)
    assert [fact[0] for fact in all_facts(engine)] == [2]


def test_a_tombstone_does_not_age_before_it_was_compacted(engine: pylog.Engine, clock: TurnedClock) -> None:
    engine.append("t", b"value", key=b"k")
    engine.append("t", None, key=b"k")
    clock.pass_days(30)
    compact(engine)
    assert [fact[0] for fact in all_facts(engine)] == [1]


def test_a_lost_memory_of_cleanings_only_keeps_tombstones_longer(
    data: Path, engine: pylog.Engine, clock: TurnedClock
) -> None:
    engine.append("t", b"value", key=b"k")
    engine.append("t", None, key=b"k")
    compact(engine)
    clock.pass_days(2)
    for content in (b"", b"[]", b'{"checksum": 1}', b"\xff"):
        (data / "topics" / "t" / "0" / "cleaned").write_bytes(content)
        compact(engine)
        assert [fact[0] for fact in all_facts(engine)] == [1]
    clock.pass_days(2)
    compact(engine)
    assert all_facts(engine) == []


# ---- others --------------------------------------------------------------------------------------------


READER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine, engine.consumer("t", auto_offset_reset="earliest") as consumer:
    records = consumer.poll(10)
    print("read", flush=True)
    sys.stdin.readline()
    print([record.key.decode() for record in records] == ["key %d" % i for i in range(10)], flush=True)
    del records
    seen = []
    while found := consumer.poll(1000):
        seen += [(record.offset, record.value[:4].decode()) for record in found]
    print(all(int(value) == offset for offset, value in seen), seen[-1][0], flush=True)
    replaced = [line for line in open("/proc/self/maps") if ".log (deleted)" in line]
    print(len(replaced), flush=True)
"""


def test_a_reader_in_another_process_goes_on_and_lets_go_of_what_was_replaced(
    data: Path, engine: pylog.Engine
) -> None:
    fill(engine)
    with Child(READER, data) as child:
        assert child.says() == "read"
        compact(engine)
        child.tell()
        assert [child.says(), child.says()] == ["True", "True 299"]
        assert child.says() == "0"
        assert child.ends() == 0


def test_one_process_cleans_at_a_time(data: Path, engine: pylog.Engine) -> None:
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine, engine._cleaner.turn(0.0):
    print("cleaning", flush=True)
    sys.stdin.readline()
"""
    fill(engine)
    with Child(script, data) as child:
        assert child.says() == "cleaning"
        with pylog.open(data, lock_timeout=0.05) as other, pytest.raises(pylog.LockTimeoutError):
            other.clean("t")
        child.kill()
        assert compact(engine).removed_records


def test_a_damaged_segment_stays_as_it_is_and_is_named(data: Path, engine: pylog.Engine) -> None:
    fill(engine)
    engine.close()
    path = segments(data)[1]
    content = bytearray(path.read_bytes())
    content[6000] ^= 1
    path.write_bytes(content)
    with pylog.open(data) as again:
        (report,) = again.clean("t", now=True)
        assert report.error is not None
        assert path.name in report.error
    assert path.read_bytes() == content
    assert not list(path.parent.glob("*.tmp"))


def test_a_producer_is_remembered_when_its_records_are_compacted(data: Path, engine: pylog.Engine) -> None:
    with engine.producer(producer_id="loader") as producer:
        for sequence in range(50):
            producer.send("t", b"x" * 1000, key=b"one", sequence=sequence)
            producer.flush()
    fill(engine)
    compact(engine)
    engine.close()
    with pylog.open(data) as again, again.producer(producer_id="loader") as producer:
        assert producer.last_sequence("t", 0) == 49
