"""Idempotent producers: one holder an id, and every batch let in once."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import oracle
import pytest
from children import Child
from hypothesis import given, settings
from hypothesis import strategies as st

from logcore.errors import ConfigError, CorruptionError, FormatError
from logcore.producers import ProducerIdentity, ProducerTable

ENTRY = struct.Struct("<QIIqqqq16x")
PRODUCER_BIT = 1 << 17


def batch(
    producer: int,
    epoch: int,
    first: int,
    last: int,
    offset: int,
    *,
    count: int | None = None,
    at: int = 7,
) -> bytes:
    """A batch header with a producer block; its body plays no part here."""
    records = last - first + 1 if count is None else count
    header = struct.pack("<IIqIIIIqqQQ", 0, 96, offset, records, PRODUCER_BIT, 0, 0, at, 0, 0, 0)
    return header + struct.pack("<QIIqq", producer, epoch, 0, first, last)


def footer(entries: bytes) -> bytes:
    fixed = bytearray(256)
    fixed[64:68] = (len(entries) // 64).to_bytes(4, "little")
    return bytes(fixed) + entries


# ---- the table ----------------------------------------------------------------------------------------


def test_a_batch_of_an_unknown_producer_is_new() -> None:
    table = ProducerTable()

    assert table.verdict(1, 1, 0, 9) == ("new", -1)
    assert table.last_sequence(1) is None and table.offset(1, 0) is None
    assert table.count == 0


def test_a_repeated_batch_is_a_duplicate_with_its_offset() -> None:
    table = ProducerTable()
    table.note_batch(batch(1, 1, 0, 9, 100))
    table.note_batch(batch(1, 1, 10, 19, 500))

    assert table.verdict(1, 1, 0, 9) == ("duplicate", 100)
    assert table.verdict(1, 1, 10, 19) == ("duplicate", 500)
    assert table.verdict(1, 1, 5, 12) == ("duplicate", 105)
    assert table.verdict(1, 1, 20, 29) == ("new", -1)
    assert table.verdict(1, 1, 15, 25) == ("overlap", 505)
    assert table.last_sequence(1) == 19


def test_sequences_with_gaps_are_told_apart_only_at_the_ends_of_their_batch() -> None:
    table = ProducerTable()
    table.note_batch(batch(1, 1, 10, 40, 100, count=4))

    assert table.offset(1, 10) == 100
    assert table.offset(1, 40) == 103
    assert table.offset(1, 20) is None
    assert table.verdict(1, 1, 20, 20) == ("duplicate", -1)
    assert table.verdict(1, 1, 41, 41) == ("new", -1)


def test_a_sequence_in_a_gap_between_batches_is_a_duplicate_without_an_offset() -> None:
    table = ProducerTable()
    table.note_batch(batch(1, 1, 0, 0, 100))
    table.note_batch(batch(1, 1, 10, 10, 101))

    assert table.verdict(1, 1, 5, 5) == ("duplicate", -1)


def test_an_older_epoch_is_fenced_and_a_newer_one_goes_on_with_the_sequences() -> None:
    table = ProducerTable()
    table.note_batch(batch(1, 3, 0, 9, 100))

    assert table.verdict(1, 2, 10, 19) == ("fenced", -1)
    assert table.verdict(1, 2, 0, 9) == ("fenced", -1)
    assert table.verdict(1, 4, 0, 9) == ("duplicate", 100)
    assert table.verdict(1, 4, 10, 10) == ("new", -1)
    table.note_batch(batch(1, 4, 10, 10, 110))
    assert table.verdict(1, 3, 11, 11) == ("fenced", -1)


def test_beyond_the_last_64_batches_a_duplicate_has_no_offset() -> None:
    table = ProducerTable()
    for number in range(200):
        table.note_batch(batch(1, 1, number, number, 1000 + number))

    for number in range(200):
        known = 1000 + number if number >= 200 - 64 else -1
        assert table.verdict(1, 1, number, number) == ("duplicate", known)


def test_batches_without_a_producer_are_passed_over() -> None:
    table = ProducerTable()
    plain = bytearray(batch(1, 1, 0, 9, 100))
    plain[20:24] = bytes(4)
    table.note_batch(bytes(plain))

    assert table.count == 0


def test_a_batch_read_twice_changes_nothing() -> None:
    table = ProducerTable()
    for _ in range(2):
        table.note_batch(batch(1, 1, 0, 9, 100))
        table.note_batch(batch(1, 1, 10, 19, 110))
    table.note_batch(batch(1, 1, 0, 9, 100))

    assert table.last_sequence(1) == 19
    assert table.verdict(1, 1, 0, 0) == ("duplicate", 100)


def test_the_footer_carries_the_table_as_the_document_says() -> None:
    table = ProducerTable()
    table.note_batch(batch(7, 2, 0, 9, 100, at=55))
    table.note_batch(batch(8, 1, 5, 5, 110, at=66))

    entries = table.footer_entries()
    assert [ENTRY.unpack_from(entries, 64 * i) for i in range(2)] == [
        (7, 2, 0, 0, 9, 109, 55),
        (8, 1, 0, 5, 5, 110, 66),
    ]
    again = ProducerTable()
    again.note_footer(footer(entries))
    assert again.footer_entries() == entries
    assert again.verdict(7, 2, 0, 9) == ("duplicate", -1)  # where its first record is the footer does not say
    assert again.verdict(7, 2, 9, 9) == ("duplicate", 109)
    assert again.verdict(7, 1, 10, 10) == ("fenced", -1)


def test_the_most_recent_go_into_a_footer_that_has_no_room_for_all() -> None:
    table = ProducerTable()
    for producer in (1, 2, 3, 1):
        table.note_batch(batch(producer, 1, 0 if producer != 1 else table.count, 5, 100))
    assert [entry[0] for entry in ENTRY.iter_unpack(table.footer_entries())] == [2, 3, 1]
    assert [entry[0] for entry in ENTRY.iter_unpack(table.footer_entries(2))] == [3, 1]
    assert table.footer_entries(0) == b"" == ProducerTable().footer_entries()


def test_the_longest_silent_producer_makes_room_when_there_are_4096() -> None:
    table = ProducerTable()
    for producer in range(4096):
        table.note_batch(batch(producer, 1, 0, 0, producer))
    table.note_batch(batch(0, 1, 1, 1, 9999))
    for producer in range(5000, 5010):
        assert table.verdict(producer, 1, 0, 0) == ("new", -1)
        table.note_batch(batch(producer, 1, 0, 0, producer))

    assert table.count == 4096
    assert table.last_sequence(0) == 1
    assert [table.last_sequence(producer) for producer in range(1, 11)] == [None] * 10
    assert [table.last_sequence(producer) for producer in range(11, 4096)] == [0] * 4085
    assert [table.last_sequence(producer) for producer in range(5000, 5010)] == [0] * 10


Model = dict[int, tuple[int, int, list[tuple[int, int, int]]]]


def expected(model: Model, producer: int, epoch: int, first: int, last: int) -> tuple[str, int]:
    if producer not in model:
        return "new", -1
    known_epoch, known_last, batches = model[producer]
    if epoch < known_epoch:
        return "fenced", -1
    if first > known_last:
        return "new", -1
    verdict = "duplicate" if last <= known_last else "overlap"
    for begin, end, base in batches[-64:]:
        if begin <= first <= end:
            return verdict, base + first - begin
    return verdict, -1


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 400), st.integers(0, 20)),
        max_size=200,
    ),
    st.booleans(),
)
def test_the_table_decides_like_a_plain_model(asked: list[tuple[int, int, int, int]], sealed: bool) -> None:
    table, model, next_offset = ProducerTable(), Model(), 0
    for small, epoch, first, length in asked:
        producer = small * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        last = first + length
        verdict = table.verdict(producer, epoch, first, last)
        assert verdict == expected(model, producer, epoch, first, last)
        if verdict[0] == "new":
            table.note_batch(batch(producer, epoch, first, last, next_offset))
            batches = model[producer][2] if producer in model else []
            model[producer] = epoch, last, [*batches, (first, last, next_offset)]
            next_offset += length + 1
    if sealed:
        again = ProducerTable()
        again.note_footer(footer(table.footer_entries()))
        assert again.footer_entries() == table.footer_entries()
    for producer, (epoch, last, _) in model.items():
        assert table.last_sequence(producer) == last
        assert not epoch or table.verdict(producer, epoch - 1, last + 1, last + 1)[0] == "fenced"
    assert table.count == len(model)


def test_half_a_batch_or_footer_is_refused() -> None:
    table = ProducerTable()
    with pytest.raises(ValueError, match="whole"):
        table.note_batch(batch(1, 1, 0, 0, 0)[:-1])
    with pytest.raises(ValueError, match="whole"):
        table.note_footer(footer(bytes(64))[:-1])


# ---- the identity -------------------------------------------------------------------------------------


def test_opening_an_id_again_fences_the_older_holder(tmp_path: Path) -> None:
    older = ProducerIdentity(str(tmp_path), "loader")
    assert (older.epoch, older.fenced()) == (1, False)
    newer = ProducerIdentity(str(tmp_path), "loader")

    assert older.fenced() and not newer.fenced()
    assert (newer.epoch, newer.id) == (2, older.id)
    other = ProducerIdentity(str(tmp_path), "other")
    assert other.id != newer.id and not newer.fenced()


def test_a_closed_identity_writes_no_more(tmp_path: Path) -> None:
    identity = ProducerIdentity(str(tmp_path), "loader")
    identity.close()

    assert identity.fenced()
    with pytest.raises(ConfigError):
        ProducerIdentity.__init__(identity, str(tmp_path), "loader")


def test_the_file_is_as_the_document_says(tmp_path: Path) -> None:
    identity = ProducerIdentity(str(tmp_path), "loader")
    file = tmp_path / "producers" / "loader"
    data = file.read_bytes()

    magic, version, epoch, producer, checksum = struct.unpack("<8sIIQ32xQ", data)
    assert (magic, version, epoch, producer) == (b"pylogprd", 1, 1, identity.id)
    assert checksum == oracle.header_checksum(data[:56], 0, 0)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "../up", "a/b", "x" * 201, "ü"])
def test_an_id_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="producer id"):
        ProducerIdentity(str(tmp_path), name)
    assert not (tmp_path / "producers").exists()


def test_every_flipped_byte_is_a_named_error_and_nothing_is_guessed(tmp_path: Path) -> None:
    ProducerIdentity(str(tmp_path), "loader")
    file = tmp_path / "producers" / "loader"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises((CorruptionError, FormatError)):
            ProducerIdentity(str(tmp_path), "loader")
    for size in (0, 1, 63, 65, 4096):
        file.write_bytes((whole + bytes(4096))[:size])
        with pytest.raises(CorruptionError):
            ProducerIdentity(str(tmp_path), "loader")
    file.write_bytes(whole)
    assert ProducerIdentity(str(tmp_path), "loader").epoch == 2


def test_an_id_whose_epochs_are_used_up_says_so(tmp_path: Path) -> None:
    ProducerIdentity(str(tmp_path), "loader")
    file = tmp_path / "producers" / "loader"
    data = bytearray(file.read_bytes())
    data[12:16] = b"\xff" * 4
    data[56:] = oracle.header_checksum(bytes(data[:56]), 0, 0).to_bytes(8, "little")
    file.write_bytes(data)

    with pytest.raises(ConfigError, match="use another one"):
        ProducerIdentity(str(tmp_path), "loader")


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "producers").mkdir()
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "producers" / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "producers" / "pipe")

    for name in ("link", "pipe"):
        with pytest.raises(FormatError):
            ProducerIdentity(str(tmp_path), name)
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_what_a_killed_creator_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "producers").mkdir()
    (tmp_path / "producers" / ".loader.0011223344556677.tmp").write_bytes(b"half")
    ProducerIdentity(str(tmp_path), "loader")

    assert [found.name for found in (tmp_path / "producers").iterdir()] == ["loader"]


OPENER = """
import sys
from logcore.producers import ProducerIdentity
last = 0
for turn in range(100_000):
    identity = ProducerIdentity(sys.argv[1], "loader")
    assert identity.epoch > last
    last = identity.epoch
    print(last, identity.id, flush=True)
"""


def test_no_epoch_is_given_twice_by_processes_that_are_killed_at_random(tmp_path: Path) -> None:
    seen: list[int] = []
    ids: set[int] = set()
    for turn in range(5):
        with Child(OPENER, tmp_path) as one, Child(OPENER, tmp_path) as two:
            for child in (one, two, *([one, two] * (turn + 2))):
                epoch, producer = map(int, child.says().split())
                seen.append(epoch)
                ids.add(producer)
            one.kill()
            two.kill()
        ours = ProducerIdentity(str(tmp_path), "loader")
        assert ours.epoch > max(seen)
        assert not ours.fenced()
        seen.append(ours.epoch)
    assert len(set(seen)) == len(seen)
    assert len(ids) == 1


def test_an_inherited_identity_is_fenced_in_the_child_and_not_in_the_parent(tmp_path: Path) -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from logcore.producers import ProducerIdentity
identity = ProducerIdentity(sys.argv[1], "loader")
pid = os.fork()
if pid == 0:
    os._exit(0 if identity.fenced() else 1)
assert os.waitpid(pid, 0)[1] == 0
print("fenced" if identity.fenced() else "holds", flush=True)
"""
    with Child(script, tmp_path) as child:
        assert child.says() == "holds"
