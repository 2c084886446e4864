"""Files that are missing, swapped or damaged: the error names what is lost, and the rest is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child

import pylog
from pylog.cli import CORRUPT, main
from pylog.engine import Engine
from pylog.errors import CorruptionError, FormatError

RECORDS = 60


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A topic of two partitions, each of several segments."""
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", partitions=2, segment_bytes=16 << 10)
        for number in range(RECORDS):
            for partition in range(2):
                value = b"%d of %d" % (number, partition) + bytes(700)
                engine.append("t", value, partition=partition, timestamp=number + 1)
    return tmp_path / "data"


def segments(directory: Path, partition: int) -> list[Path]:
    return sorted((directory / "topics" / "t" / str(partition)).glob("*.log"))


def base_of(segment: Path) -> int:
    return int(segment.stem)


def offsets(engine: Engine, partition: int, start: int = 0) -> Iterator[int]:
    for record in engine.read("t", partition, start):
        expected = b"%d of %d\0" % (record.offset, partition)
        assert record.value is not None and record.value.startswith(expected)
        yield record.offset


@pytest.mark.parametrize("read_only", [False, True])
def test_a_missing_segment_is_named_with_its_offsets_and_the_rest_is_read(
    directory: Path, read_only: bool
) -> None:
    first, second, third = segments(directory, 0)[:3]
    second.unlink()
    with pylog.open(directory, read_only=read_only) as engine:
        found = []
        with pytest.raises(CorruptionError) as raised:
            found.extend(offsets(engine, 0))
        assert found == list(range(base_of(second)))
        assert (raised.value.first_offset, raised.value.next_offset) == (base_of(second), base_of(third))
        assert list(offsets(engine, 0, raised.value.next_offset)) == list(range(base_of(third), RECORDS))
        assert list(offsets(engine, 1)) == list(range(RECORDS))
    assert first.exists()


def test_a_missing_first_segment_is_named_with_its_offsets(directory: Path) -> None:
    first, second = segments(directory, 0)[:2]
    first.unlink()
    with pylog.open(directory) as engine:
        with pytest.raises(CorruptionError) as raised:
            list(offsets(engine, 0))
        assert (raised.value.first_offset, raised.value.next_offset) == (0, base_of(second))


def test_a_missing_last_segment_is_told_and_its_offsets_are_not_given_again(directory: Path) -> None:
    last = segments(directory, 0)[-1]
    last.unlink()
    with pylog.open(directory) as engine:
        assert engine.log_end_offset("t", 0) == RECORDS
        with pytest.raises(CorruptionError) as raised:
            list(offsets(engine, 0))
        assert (raised.value.first_offset, raised.value.next_offset) == (base_of(last), RECORDS)
        (report,) = engine.recovery_reports()
        assert [(lost.first_offset, lost.next_offset) for lost in report.damage] == [(base_of(last), RECORDS)]
        assert engine.append("t", b"next", partition=0).offset == RECORDS
    with pylog.open(directory) as engine:
        assert [record.value for record in engine.read("t", 0, RECORDS)] == [b"next"]


def test_segments_swapped_between_partitions_are_not_read_as_each_others(directory: Path) -> None:
    one, other = segments(directory, 0)[0], segments(directory, 1)[0]
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    with pylog.open(directory) as engine:
        for partition in range(2):
            with pytest.raises(CorruptionError, match="another segment than its name says"):
                list(offsets(engine, partition))


def test_a_segment_whose_headers_are_damaged_is_not_thrown_away(directory: Path) -> None:
    last = segments(directory, 0)[-1]
    hurt = bytearray(last.read_bytes())
    hurt[20] ^= 1
    hurt[4096 + 20] ^= 1
    last.write_bytes(hurt)
    with pylog.open(directory) as engine, pytest.raises(CorruptionError, match="no valid segment header"):
        engine.log_end_offset("t", 0)
    assert last.read_bytes() == hurt


def test_2b_a_torn_tail_is_cut_behind_the_last_whole_batch_and_told(data: Path) -> None:
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    engine.create_topic("t", partitions=1, durability="os")
    for number in range(20):
        engine.append("t", b"%d" % number * 100)
    print("done")
    sys.stdin.readline()
"""
    with Child(script, data) as child:
        assert child.says() == "done"
        child.kill()
    (data / "topics" / "t" / "control").unlink()  # as on another boot
    (last,) = segments(data, 0)
    whole = last.read_bytes().rindex(b"19" * 100)
    with last.open("r+b") as file:
        file.seek(whole + 100)
        file.write(bytes(200))
    with pylog.open(data) as engine:
        found = [record.value for record in engine.read("t")]
        assert found == [b"%d" % number * 100 for number in range(19)]
        (report,) = engine.recovery_reports()
        assert (report.topic, report.partition, report.cut, report.log_end_offset) == ("t", 0, True, 19)
        assert 200 < report.dropped_bytes < 400
        assert report.damage == ()
        assert engine.append("t", b"next").offset == 19
    with pylog.open(data) as engine:
        assert [record.value for record in engine.read("t")] == [*found, b"next"]
        assert engine.recovery_reports() == []


def test_a_lost_footer_loses_no_record(directory: Path) -> None:
    first, second = segments(directory, 0)[:2]
    data = first.read_bytes()
    footer = data.rindex(b"PLF\x01")
    first.write_bytes(data[:footer] + bytes(len(data) - footer))
    with pylog.open(directory) as engine:
        assert list(offsets(engine, 0)) == list(range(RECORDS))
    assert second.exists()


def test_a_search_by_time_does_not_pass_over_damage(directory: Path) -> None:
    first = segments(directory, 0)[0]
    data = bytearray(first.read_bytes())
    at = data.index(b"5 of 0\0")
    data[at] ^= 1
    first.write_bytes(data)
    with pylog.open(directory) as engine, engine.consumer() as consumer:
        consumer.assign([("t", 0)])
        with pytest.raises(CorruptionError) as raised:
            consumer.seek_to_time(6)
        assert (raised.value.first_offset, raised.value.next_offset) == (5, 6)
        consumer.seek_to_time(7)
        assert consumer.position(("t", 0)) == 6


def test_one_flipped_bit_of_topic_json_hides_no_partition(directory: Path) -> None:
    path = directory / "topics" / "t" / "topic.json"
    path.write_bytes(path.read_bytes().replace(b'"partitions": 2', b'"partitions": 1'))
    with pylog.open(directory) as engine, pytest.raises(CorruptionError, match=r"topic\.json is damaged"):
        list(offsets(engine, 0))


@pytest.mark.parametrize("features", ['[["new"]]', '[{"name": "new"}]', '["new"]', "7"])
def test_a_format_file_with_other_features_is_refused(directory: Path, features: str) -> None:
    (directory / "format").write_text(f'{{"format": "pylog", "version": 1, "features": {features}}}')
    with pytest.raises(FormatError):
        pylog.open(directory)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"log_start_offset": Infinity, "epochs": [], "checksum": ""}', "7", "{}", "", "\ud800"],
    ids=["deep", "infinite", "number", "empty object", "empty", "no text"],
)
def test_a_start_file_of_nonsense_is_corruption(directory: Path, text: str) -> None:
    (directory / "topics" / "t" / "0" / "start").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pylog.open(directory) as engine:
        with pytest.raises(CorruptionError, match="start is damaged"):
            engine.log_end_offset("t", 0)
        assert list(offsets(engine, 1)) == list(range(RECORDS))


@pytest.mark.parametrize("read_only", [False, True])
def test_a_pipe_in_the_place_of_shared_memory_stops_nobody(directory: Path, read_only: bool) -> None:
    path = directory / "topics" / "t" / "control"
    path.unlink()
    os.mkfifo(path)
    with pylog.open(directory, read_only=read_only) as engine:
        assert list(offsets(engine, 0)) == list(range(RECORDS))


def test_a_directory_in_the_place_of_shared_memory_is_refused(directory: Path) -> None:
    path = directory / "topics" / "t" / "control"
    path.unlink()
    path.mkdir()
    with pylog.open(directory) as engine, pytest.raises(FormatError, match="control is not a plain file"):
        list(offsets(engine, 0))


@pytest.mark.parametrize("name", ["start", f"{0:020d}.log", f"{0:020d}.index"])
def test_a_pipe_in_the_place_of_a_file_stops_nobody(directory: Path, name: str) -> None:
    path = directory / "topics" / "t" / "0" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pylog.open(directory) as engine:
        if name.endswith(".index"):
            assert list(offsets(engine, 0)) == list(range(RECORDS))
        else:
            with pytest.raises((CorruptionError, FormatError), match="not a plain file"):
                list(offsets(engine, 0))


LINKED = ["topics", "topics/t", "topics/t/0", f"topics/t/0/{0:020d}.log", "topics/t/topic.json"]


@pytest.mark.parametrize(
    ("place", "read_only"),
    [*((place, read_only) for place in LINKED for read_only in (False, True)), ("topics/t/0/start", False)],
)
def test_no_symbolic_link_is_followed_and_verify_names_it(
    directory: Path, place: str, read_only: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, elsewhere = directory / place, directory.parent / "elsewhere"
    if place.endswith("start"):
        with pylog.open(directory) as engine:
            engine.delete_records("t", 0, 1)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert main(["-C", str(directory), "verify"]) == CORRUPT
    assert str(path) in capsys.readouterr().out
    with pytest.raises((CorruptionError, FormatError), match=r"link|plain file"):
        with pylog.open(directory, read_only=read_only) as engine:
            list(offsets(engine, 0))
