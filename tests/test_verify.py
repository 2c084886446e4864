"""`pylog verify` and `dump` on damaged segments: what is lost is named, what is not lost is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import BrokenError, Record, SegmentHeader
from oracle_writer import Choices, SegmentWriter

from pylog.cli import CHECK_FAILED, CORRUPT, OK, main

sys.path.append(str(Path(__file__).parents[1] / "tools"))

import damage

SECOND = 1_000_000_000


def sealed_segment(base: int = 0, start_position: int = 0, batches: int = 4, *, seal: bool = True) -> bytes:
    """A segment of batches of three records, all of it below the durable mark."""
    header = SegmentHeader(
        0x0123456789ABCDEF + base,
        base,
        0,
        0,
        bytes(16),
        1 << 20,
        1_700_000_000 * SECOND,
        start_position,
        base,
    )
    writer = SegmentWriter(header)
    for number in range(batches):
        records = [
            Record(writer.next_offset + i, (number + 1) * SECOND, b"key", b"value%d" % i, (("name", b"x"),))
            for i in range(3)
        ]
        writer.append(records, Choices(codec=number % 2, synced_offset=writer.next_offset))
    writer.mark(writer.next_offset)
    if seal:
        writer.seal(synced_offset=writer.next_offset, max_timestamp=batches * SECOND)
    return writer.finished(free=0 if seal else 4096)


SEGMENT = sealed_segment()
RECORDS = oracle.parse_segment(SEGMENT).records()


def run(*arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Run a command with --json; return its exit code and what it printed."""
    printed = StringIO()
    with redirect_stdout(printed):
        code = main(["--json", *arguments])
    return code, [json.loads(line) for line in printed.getvalue().splitlines()]


def findings(rows: list[dict[str, object]], *kinds: str) -> list[dict[str, object]]:
    return [row for row in rows if row.get("finding") in (kinds or ("corrupt", "torn", "damaged"))]


def readable(data: bytes) -> list[Record]:
    """The records that the oracle reads from a segment, whatever has become of the rest."""
    found = []
    try:
        batches = oracle.parse_segment(data).batches
    except BrokenError:
        return []
    for batch in batches:
        try:
            found += oracle.records(batch)
        except (BrokenError, UnicodeDecodeError):
            continue
    return found


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / f"{0:020d}.log"
    path.write_bytes(SEGMENT)
    return path


def test_a_sound_segment_holds(segment: Path) -> None:
    code, rows = run("verify", str(segment))
    assert code == OK
    assert [(row["records"], row["log_end_offset"], row["verdict"]) for row in rows] == [(12, 12, "ok")]


def assert_told(path: Path, damaged: bytes) -> None:
    """Either every record is still there, or verify and dump say what is not.

    The one exception: a file whose end is gone without a trace looks like a shorter log when it stands alone.
    """
    path.write_bytes(damaged)
    code, rows = run("verify", str(path))
    found = findings(rows)
    left = readable(damaged)
    assert all(record in RECORDS for record in left)
    assert code == (CORRUPT if findings(rows, "corrupt") else CHECK_FAILED if found else OK)
    if left == RECORDS[: len(left)] and end_is_gone(damaged):
        return
    told = {offset for row in found for offset in offsets_of(row)}
    assert {record.offset for record in RECORDS if record not in left} <= told
    if "corrupt" in {row["finding"] for row in found if row["first_offset"] != row["next_offset"]}:
        assert run("dump", str(path))[0] == CORRUPT


def end_is_gone(damaged: bytes) -> bool:
    """Whether only zeros stand behind the last thing that the oracle can read, as in a fresh segment."""
    try:
        return not any(damaged[oracle.parse_segment(damaged).end_position :])
    except BrokenError:
        return False


def offsets_of(row: dict[str, object]) -> range:
    first, behind = row["first_offset"], row["next_offset"]
    if not isinstance(first, int):
        return range(0)
    return range(first, behind if isinstance(behind, int) else len(RECORDS))


def interesting_positions() -> Iterator[int]:
    yield from range(128)
    yield from range(4096, len(SEGMENT))


def test_every_flipped_byte_is_told_or_harmless(segment: Path) -> None:
    for at in interesting_positions():
        assert_told(segment, damage.flip_byte(SEGMENT, at))


def test_every_truncation_is_told(segment: Path) -> None:
    for at in range(4096, len(SEGMENT) - 8, 24):
        assert_told(segment, damage.truncate(SEGMENT, at))


@given(st.lists(st.tuples(st.integers(0, len(SEGMENT) - 1), st.integers(1, 255)), min_size=2, max_size=8))
@settings(max_examples=100)
def test_any_number_of_flipped_bytes_is_told(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = SEGMENT
    for at, mask in flips:
        data = damage.flip_byte(data, at, mask)
    path = tmp_path_factory.getbasetemp() / f"{0:020d}.log"
    assert_told(path, data)


@pytest.mark.parametrize(
    "hurt",
    [
        lambda: damage.zero_page(SEGMENT, 4300),
        lambda: damage.zero_page(SEGMENT, 0),
        lambda: damage.swap_pages(SEGMENT, 0, 4300),
        lambda: damage.garbage_tail(SEGMENT, 4500),
        lambda: damage.garbage_tail(SEGMENT, 0),
        lambda: b"",
    ],
)
def test_larger_damage_is_told(segment: Path, hurt: Callable[[], bytes]) -> None:
    assert_told(segment, hurt())


def test_a_damaged_batch_is_named_with_file_position_and_offsets(segment: Path) -> None:
    second = oracle.parse_segment(SEGMENT).batches[1]
    segment.write_bytes(damage.flip_byte(SEGMENT, second.position + 100))
    code, rows = run("verify", str(segment))
    assert code == CORRUPT
    (found,) = findings(rows)
    assert (found["path"], found["position"], found["first_offset"], found["next_offset"]) == (
        str(segment),
        second.position,
        3,
        6,
    )


def test_the_neighbours_of_a_damaged_batch_are_dumped(segment: Path) -> None:
    third = oracle.parse_segment(SEGMENT).batches[2]
    segment.write_bytes(damage.flip_byte(SEGMENT, third.position + 20))
    code, rows = run("dump", str(segment))
    assert code == CORRUPT
    assert [row["baseOffset"] for row in rows if row.get("count")] == [0, 3, 9]
    assert [(row["position"], row["size"]) for row in rows if "unreadable" in row] == [
        (third.position, third.total_length)
    ]


def test_what_a_crash_left_above_the_durable_mark_is_torn_and_not_corrupt(segment: Path) -> None:
    writer = SegmentWriter(oracle.parse_segment(SEGMENT).header)
    for _ in range(2):
        writer.append([Record(writer.next_offset, SECOND, None, b"v")])
    hole = damage.flip_byte(writer.finished(free=4096), oracle.FIRST_BATCH + 20)
    segment.write_bytes(hole)
    code, rows = run("verify", str(segment))
    assert code == CHECK_FAILED
    assert [row["finding"] for row in findings(rows)] == ["torn"]


def test_one_damaged_copy_of_the_segment_header_loses_nothing(segment: Path) -> None:
    segment.write_bytes(damage.flip_byte(SEGMENT, 30))
    code, rows = run("verify", str(segment))
    assert code == CHECK_FAILED
    assert rows[0]["finding" if "finding" in rows[0] else "records"] == 12


# ---- a partition --------------------------------------------------------------------------------


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    directory = tmp_path / "0"
    directory.mkdir()
    first = sealed_segment()
    footer = oracle.parse_segment(first).footer
    assert footer is not None
    (directory / f"{0:020d}.log").write_bytes(first)
    second = sealed_segment(12, footer.position - oracle.FIRST_BATCH, seal=False)
    (directory / f"{12:020d}.log").write_bytes(second)
    return directory


def test_a_sound_partition_holds(partition: Path) -> None:
    code, rows = run("verify", str(partition))
    assert code == OK
    assert rows[0]["records"] == 24


def test_a_missing_segment_is_corruption(partition: Path) -> None:
    (partition / f"{0:020d}.log").unlink()
    code, rows = run("verify", str(partition))
    assert code == CORRUPT
    assert [(row["first_offset"], row["next_offset"]) for row in findings(rows)] == [(0, 12)]


def test_a_segment_under_another_name_is_corruption(partition: Path) -> None:
    (partition / f"{12:020d}.log").rename(partition / f"{15:020d}.log")
    assert run("verify", str(partition))[0] == CORRUPT


def test_a_segment_whose_headers_are_gone_is_named_with_its_offsets(partition: Path) -> None:
    path = partition / f"{0:020d}.log"
    path.write_bytes(damage.flip_byte(damage.flip_byte(SEGMENT, 8), 4096 + 8))
    code, rows = run("verify", str(partition))
    assert code == CORRUPT
    (found,) = findings(rows, "corrupt")
    assert (found["path"], found["first_offset"], found["next_offset"]) == (str(path), 0, 12)


def test_a_damaged_index_is_rebuildable(partition: Path) -> None:
    (partition / f"{0:020d}.index").write_bytes(b"pylogidx" + bytes(100))
    code, rows = run("verify", str(partition))
    assert code == CHECK_FAILED
    assert [row["finding"] for row in findings(rows)] == ["damaged"]


def test_a_damaged_start_is_corruption(partition: Path) -> None:
    (partition / "start").write_text('{"log_start_offset": 3, "epochs": [[0, 0]], "checksum": "0"}')
    assert run("verify", str(partition))[0] == CORRUPT


# ---- repair -------------------------------------------------------------------------------------


def test_a_repair_shows_its_plan_and_changes_nothing(segment: Path) -> None:
    hurt = damage.flip_byte(SEGMENT, 4300)
    segment.write_bytes(hurt)
    code, rows = run("verify", str(segment), "--repair")
    assert code == CORRUPT
    assert [row["done"] for row in rows if "repair" in row] == [False, False]
    assert [path.name for path in segment.parent.iterdir()] == [segment.name]
    assert segment.read_bytes() == hurt


def test_a_repaired_segment_keeps_the_evidence_and_every_readable_record(segment: Path) -> None:
    second = oracle.parse_segment(SEGMENT).batches[1]
    hurt = damage.flip_byte(damage.flip_byte(SEGMENT, second.position + 100), 16)
    segment.write_bytes(hurt)
    code, _ = run("verify", str(segment), "--repair", "--execute")
    assert code == OK
    assert segment.with_name(segment.name + ".damaged").read_bytes() == hurt
    assert [record.offset for record in readable(segment.read_bytes())] == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert oracle.parse_segment(segment.read_bytes()).footer is not None
    assert run("verify", str(segment))[0] == OK


def test_a_segment_header_comes_back_from_the_footer(segment: Path) -> None:
    segment.write_bytes(damage.flip_byte(damage.flip_byte(SEGMENT, 8), 4096 + 8))
    assert run("verify", str(segment), "--repair", "--execute")[0] == OK
    assert segment.read_bytes() == SEGMENT


def test_a_footer_comes_back_from_the_batches_and_the_next_segment(partition: Path) -> None:
    path = partition / f"{0:020d}.log"
    footer = oracle.parse_segment(SEGMENT).footer
    assert footer is not None
    path.write_bytes(damage.flip_byte(SEGMENT, footer.position + 9))
    assert run("verify", str(partition))[0] == CORRUPT
    assert run("verify", str(partition), "--repair", "--execute")[0] == OK
    restored = oracle.parse_segment(path.read_bytes()).footer
    assert restored is not None
    assert (restored.position, restored.end_offset, restored.max_timestamp) == (
        footer.position,
        footer.end_offset,
        footer.max_timestamp,
    )


def test_a_damaged_index_is_moved_aside(partition: Path) -> None:
    index = partition / f"{0:020d}.index"
    index.write_bytes(b"pylogidx" + bytes(100))
    assert run("verify", str(partition), "--repair", "--execute")[0] == OK
    assert not index.exists()
    assert index.with_name(index.name + ".damaged").exists()


@given(st.lists(st.tuples(st.integers(0, len(SEGMENT) - 1), st.integers(1, 255)), min_size=1, max_size=6))
@settings(max_examples=60)
def test_a_repair_loses_no_readable_record(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = SEGMENT
    for at, mask in flips:
        data = damage.flip_byte(data, at, mask)
    path = tmp_path_factory.getbasetemp() / f"{0:020d}.log"
    path.write_bytes(data)
    run("verify", str(path), "--repair", "--execute")
    assert [record for record in readable(data) if record not in readable(path.read_bytes())] == []
