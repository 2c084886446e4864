"""Committed offsets: what a group reads next, through kills, torn copies, zombies and damage."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest
from children import Child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logcore.errors import (
    ClosedError,
    ConfigError,
    CorruptionError,
    DurabilityError,
    FencedError,
    FormatError,
    PylogError,
    ReadOnlyError,
)
from logcore.offsets import OffsetTable
from logcore.processes import Registry

UUID = bytes(range(16))
COPY = struct.Struct("<QqIIIIQ16xQ")
FIRST, SECOND = 8192, 12288  # where the copies of partition 0 stand


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(str(tmp_path))
    yield registry
    registry.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "groups" / "billing" / "orders.offsets"


@pytest.fixture
def table(file: Path, registry: Registry) -> Iterator[OffsetTable]:
    table = OffsetTable(str(file), UUID, 3, registry)
    yield table
    table.close()


def overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as out:
        out.seek(at)
        out.write(data)


def test_a_group_that_never_committed_has_no_offset(table: OffsetTable) -> None:
    assert [table.committed(partition) for partition in range(3)] == [None, None, None]
    assert table.generation(0) == 0


def test_a_commit_is_seen_at_once_by_everybody_and_after_opening_again(
    table: OffsetTable, file: Path, registry: Registry
) -> None:
    other = OffsetTable(str(file), UUID, 3, registry)
    table.commit(1, 42, 7, 3, b"by hand")

    assert other.committed(1) == (42, 7, b"by hand")
    assert other.committed(0) is None
    table.sync()
    other.close()
    table.close()
    again = OffsetTable(str(file), UUID, 3, registry)
    assert again.committed(1) == (42, 7, b"by hand")
    assert again.generation(1) == 3
    again.close()


def test_offsets_may_go_back_after_a_seek(table: OffsetTable) -> None:
    table.commit(0, 9, 0, 1)
    table.commit(0, 2, 0, 1)

    assert table.committed(0) == (2, 0, b"")


def test_the_largest_numbers_and_the_longest_metadata_are_kept(table: OffsetTable) -> None:
    table.commit(2, 2**63 - 1, 2**32 - 1, 2**32 - 1, b"m" * 4096)

    assert table.committed(2) == (2**63 - 1, 2**32 - 1, b"m" * 4096)


@pytest.mark.parametrize(
    ("partition", "offset", "epoch", "generation", "metadata"),
    [
        (3, 0, 0, 0, b""),
        (-1, 0, 0, 0, b""),
        (0, -1, 0, 0, b""),
        (0, 2**63, 0, 0, b""),
        (0, 0, 2**32, 0, b""),
        (0, 0, 0, -1, b""),
        (0, 0, 0, 2**32, b""),
        (0, 0, 0, 0, b"m" * 4097),
        (0, 0, 0, 0, "text"),
    ],
)
def test_a_number_out_of_its_range_changes_nothing(
    table: OffsetTable, partition: int, offset: int, epoch: int, generation: int, metadata: bytes
) -> None:
    table.commit(0, 5, 0, 0)
    with pytest.raises(ConfigError if isinstance(metadata, bytes) else TypeError):
        table.commit(partition, offset, epoch, generation, metadata)
    assert table.committed(0) == (5, 0, b"")


def test_a_zombie_of_an_older_generation_moves_nothing(table: OffsetTable) -> None:
    table.commit(0, 10, 0, 2, b"kept")

    with pytest.raises(FencedError, match="generation 2"):
        table.commit(0, 99, 0, 1)
    assert table.committed(0) == (10, 0, b"kept")
    table.commit(1, 1, 0, 1)  # of another partition it may still be the owner


def test_a_partition_is_fenced_before_its_new_owner_committed(table: OffsetTable) -> None:
    table.commit(0, 10, 4, 1, b"note")
    table.fence(0, 2)
    table.fence(1, 2)

    assert table.committed(0) == (10, 4, b"note")
    assert table.committed(1) is None
    for partition in (0, 1):
        with pytest.raises(FencedError):
            table.commit(partition, 11, 4, 1)
        with pytest.raises(FencedError):
            table.fence(partition, 1)
    table.commit(0, 12, 4, 2)


def test_a_forgotten_offset_is_gone(table: OffsetTable) -> None:
    table.commit(0, 10, 0, 1)
    with pytest.raises(FencedError):
        table.forget(0)
    table.forget(0, generation=1)

    assert table.committed(0) is None
    assert table.generation(0) == 1


def test_a_topic_that_got_more_partitions_keeps_its_offsets(file: Path, registry: Registry) -> None:
    small = OffsetTable(str(file), UUID, 1, registry)
    small.commit(0, 1, 0, 0)
    large = OffsetTable(str(file), UUID, 200, registry)
    large.commit(199, 7, 0, 0)
    small.commit(0, 2, 0, 0)

    assert large.committed(0) == (2, 0, b"")
    small.close()
    small = OffsetTable(str(file), UUID, 1, registry)
    assert small.committed(0) == (2, 0, b"")
    large.close()
    large = OffsetTable(str(file), UUID, 200, registry)
    assert large.committed(199) == (7, 0, b"")
    large.close()
    small.close()


def test_offsets_of_a_deleted_topic_are_void_for_a_new_one_of_its_name(
    table: OffsetTable, file: Path, registry: Registry
) -> None:
    table.commit(0, 10, 0, 1, b"old")
    looking = Registry(str(file.parents[2]), read_only=True)
    assert OffsetTable(str(file), bytes(16), 3, looking).committed(0) is None
    looking.close()
    anew = OffsetTable(str(file), bytes(16), 3, registry)

    assert anew.committed(0) is None
    table.commit(0, 11, 0, 1)  # the old handle writes into a file that is no more
    assert anew.committed(0) is None
    anew.close()


def test_read_only_reads_and_writes_nothing(table: OffsetTable, file: Path, tmp_path: Path) -> None:
    looking = Registry(str(tmp_path), read_only=True)
    nothing = OffsetTable(str(tmp_path / "groups" / "other" / "orders.offsets"), UUID, 3, looking)
    assert nothing.committed(2) is None and nothing.generation(2) == 0
    assert not (tmp_path / "groups" / "other").exists()

    table.commit(0, 10, 0, 1, b"note")
    reading = OffsetTable(str(file), UUID, 3, looking)
    assert reading.committed(0) == (10, 0, b"note")
    for call in (lambda: reading.commit(0, 1, 0, 1), lambda: reading.fence(0, 5), reading.sync):
        with pytest.raises(ReadOnlyError):
            call()
    reading.close()
    looking.close()


def test_a_closed_table_says_so(table: OffsetTable, registry: Registry, file: Path) -> None:
    table.close()
    table.close()
    for call in (lambda: table.commit(0, 1, 0, 1), lambda: table.committed(0), table.sync):
        with pytest.raises(ClosedError):
            call()
    with pytest.raises(ConfigError):
        OffsetTable(str(file), b"short", 3, registry)
    with pytest.raises(ConfigError):
        OffsetTable(str(file), UUID, 0, registry)


def test_files_are_private_and_descriptors_are_given_back(file: Path, registry: Registry) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        table = OffsetTable(str(file), UUID, 3, registry)
        table.commit(0, 1, 0, 0, b"note")
        table.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert {found.stat().st_mode & 0o777 for found in file.parent.iterdir()} == {0o600}
    assert file.parent.stat().st_mode & 0o777 == 0o700


# ---- many writers -------------------------------------------------------------------------------------


def test_threads_and_readers_see_whole_commits_only(table: OffsetTable) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 3000):
            table.commit(0, number, number & 0xFFFF, 1, b"" if number % 16 else str(number).encode())

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1_000_000)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = table.committed(0)
        if found is not None:
            offset, epoch, metadata = found
            assert epoch == offset & 0xFFFF
            assert metadata in ((b"",) if offset % 16 else (str(offset).encode(), None))
    for writer in writers:
        writer.join()
    found = table.committed(0)
    assert found is not None and found[0] in (2999, 1_002_999)


WRITER = """
import mmap, sys
from logcore.offsets import OffsetTable
from logcore.processes import Registry
path, file, acks, first, metadata = sys.argv[1:]
registry = Registry(path)
table = OffsetTable(file, bytes(range(16)), 3, registry)
with open(acks, "r+b") as shared:
    acked = mmap.mmap(shared.fileno(), 8)
view = memoryview(acked).cast("q")
print("ready", flush=True)
for number in range(int(first), 1 << 60):
    table.commit(1, number, number & 0xFFFF, 1, str(number).encode() if metadata == "yes" else b"")
    view[0] = number
"""


@pytest.mark.parametrize("metadata", ["no", "yes"])
def test_a_writer_killed_anywhere_loses_no_commit_and_tears_none(
    tmp_path: Path, file: Path, table: OffsetTable, metadata: str
) -> None:
    acks = tmp_path / "acks"
    acks.write_bytes(bytes(8))
    first = 1
    for turn in range(8):
        with Child(WRITER, tmp_path, file, acks, first, metadata) as child:
            child.says()
            with acks.open("r+b") as shared, mmap.mmap(shared.fileno(), 8) as acked:
                while int.from_bytes(acked[:], "little") < first + turn * 700:
                    table.committed(1)
            child.kill()
        acked_last = int.from_bytes(acks.read_bytes(), "little")
        found = table.committed(1)
        assert found is not None
        offset, epoch, note = found
        assert acked_last <= offset <= acked_last + 1
        assert epoch == offset & 0xFFFF
        assert note == (str(offset).encode() if metadata == "yes" else b"")
        table.commit(1, offset + 1, (offset + 1) & 0xFFFF, 1)  # its lock was taken over
        first = offset + 2


def test_two_processes_commit_to_one_partition(tmp_path: Path, file: Path, table: OffsetTable) -> None:
    acks = tmp_path / "acks"
    acks.write_bytes(bytes(8))
    with Child(WRITER, tmp_path, file, acks, 1 << 40, "no") as child:
        child.says()
        for number in range(20_000):
            table.commit(1, number, number & 0xFFFF, 1)
            found = table.committed(1)
            assert found is not None and found[1] == found[0] & 0xFFFF
            assert found[0] >= 1 << 40 or found[0] == number


def test_a_commit_through_an_inherited_table_is_refused(tmp_path: Path, file: Path) -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from logcore.errors import ClosedError
from logcore.offsets import OffsetTable
from logcore.processes import Registry
registry = Registry(sys.argv[1])
table = OffsetTable(sys.argv[2], bytes(range(16)), 1, registry)
table.commit(0, 1, 0, 0)
pid = os.fork()
if pid == 0:
    try:
        table.commit(0, 2, 0, 0)
    except ClosedError:
        os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
print(table.committed(0)[0], flush=True)
"""
    with Child(script, tmp_path, file) as child:
        assert child.says() == "1"


# ---- the bytes ----------------------------------------------------------------------------------------


def test_the_bytes_are_as_the_document_says(table: OffsetTable, file: Path) -> None:
    table.commit(0, 10, 3, 5)
    table.commit(0, 11, 3, 5, b"note")
    data = file.read_bytes()

    for at in (0, 2048):
        magic, version, blocks, uuid, salt, checksum = struct.unpack_from("<8sII16sQ16xQ", data, at)
        assert (magic, version, blocks, uuid) == (b"pylogoff", 1, 1, UUID)
        assert checksum == oracle.header_checksum(data[at : at + 56], 0, at)
    assert len(data) == 8192 + 8192
    for which, at in enumerate((FIRST, SECOND)):
        fields = COPY.unpack_from(data, at)
        assert fields[:7] == (2, 11, 3, 5, 4, 0, oracle.xxh3(b"note"))
        assert fields[7] == oracle.header_checksum(data[at : at + 56], salt, at)
        notes = file.with_suffix(".metadata").read_bytes()
        assert notes[which * 4096 :][:4] == b"note"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commits=st.integers(1, 5),
    which=st.sampled_from([FIRST, SECOND]),
    torn=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_a_copy_torn_in_any_way_never_yields_another_offset(
    tmp_path: Path, registry: Registry, commits: int, which: int, torn: list[bool]
) -> None:
    """A page that reached the disk in the middle of a commit holds any mixture of old and new words."""
    file = tmp_path / "torn.offsets"
    table = OffsetTable(str(file), os.urandom(16), 1, registry)
    for number in range(commits):
        table.commit(0, number, 0, 0)
    before = file.read_bytes()
    table.commit(0, commits, 0, 0)
    after = file.read_bytes()
    mixed = b"".join((after if new else before)[which + 8 * i :][:8] for i, new in enumerate(torn))
    overwrite(file, which, mixed)

    assert table.committed(0) == (commits, 0, b"")  # the other copy had arrived
    other = FIRST + SECOND - which
    overwrite(file, other, before[other : other + 64])  # and here it had not
    old, new = (commits - 1, 0, b""), (commits, 0, b"")
    assert table.committed(0) == (new if mixed == after[which : which + 64] else old)
    table.commit(0, commits + 1, 0, 0)
    assert table.committed(0) == (commits + 1, 0, b"")
    table.close()


def test_every_flipped_byte_is_the_same_offset_or_a_named_error(
    table: OffsetTable, file: Path, registry: Registry
) -> None:
    table.commit(0, 10, 3, 5)
    table.commit(0, 11, 3, 5, b"note")
    table.close()
    whole = file.read_bytes()
    places = [at + i for at in (0, 2048, FIRST, SECOND) for i in range(64)]
    for at in places:
        overwrite(file, at, bytes([whole[at] ^ 0x10]))
        again = OffsetTable(str(file), UUID, 3, registry)
        assert again.committed(0) == (11, 3, b"note")
        again.close()
        overwrite(file, at, whole[at : at + 1])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 2048, 2112, 4096, 8192, 8256, 12288, 16383])
def test_every_truncation_is_a_named_error(
    table: OffsetTable, file: Path, registry: Registry, size: int
) -> None:
    table.commit(0, 10, 3, 5)
    table.close()
    os.truncate(file, size)

    with pytest.raises(CorruptionError):
        OffsetTable(str(file), UUID, 3, registry)


def test_both_headers_damaged_is_corruption(table: OffsetTable, file: Path, registry: Registry) -> None:
    table.commit(0, 10, 3, 5)
    table.close()
    overwrite(file, 16, b"\xff")
    overwrite(file, 2048 + 16, b"\xff")

    with pytest.raises(CorruptionError, match="header"):
        OffsetTable(str(file), UUID, 3, registry)


def test_both_copies_damaged_is_corruption_of_that_partition_only(table: OffsetTable, file: Path) -> None:
    table.commit(0, 10, 3, 5)
    table.commit(1, 20, 3, 5)
    overwrite(file, FIRST + 8, b"\xff")
    overwrite(file, SECOND + 8, b"\xff")

    with pytest.raises(CorruptionError) as raised:
        table.committed(0)
    assert (raised.value.path, raised.value.position) == (str(file), FIRST)
    with pytest.raises(CorruptionError):
        table.commit(0, 11, 3, 5)
    assert table.committed(1) == (20, 3, b"")
    table.forget(0)
    assert table.committed(0) is None
    table.commit(0, 11, 3, 5)
    assert table.committed(0) == (11, 3, b"")


def test_a_first_commit_that_was_torn_is_none(table: OffsetTable, file: Path) -> None:
    table.commit(0, 10, 3, 5)
    copy = file.read_bytes()[FIRST : FIRST + 64]
    overwrite(file, SECOND, bytes(64))
    overwrite(file, FIRST, copy[:24] + bytes(40))

    assert table.committed(0) is None
    table.commit(0, 12, 3, 5)
    assert table.committed(0) == (12, 3, b"")


def test_copies_moved_to_another_partition_or_table_are_not_believed(
    table: OffsetTable, file: Path, registry: Registry, tmp_path: Path
) -> None:
    table.commit(0, 10, 3, 5)
    copies = file.read_bytes()
    for at in (FIRST, SECOND):
        overwrite(file, at + 64, copies[at : at + 64])
    with pytest.raises(CorruptionError):
        table.committed(1)

    other_file = tmp_path / "groups" / "other" / "orders.offsets"
    other = OffsetTable(str(other_file), UUID, 3, registry)
    for at in (FIRST, SECOND):
        overwrite(other_file, at, copies[at : at + 64])
    with pytest.raises(CorruptionError):
        other.committed(0)
    other.close()


def test_lost_metadata_is_told_and_the_offset_holds(table: OffsetTable, file: Path) -> None:
    table.commit(0, 10, 3, 5, b"note")
    notes = file.with_suffix(".metadata")
    overwrite(notes, 0, b"vote")
    assert table.committed(0) == (10, 3, b"note")
    overwrite(notes, 4096, b"vote")

    assert table.committed(0) == (10, 3, None)
    table.commit(0, 11, 3, 5, b"new")
    assert table.committed(0) == (11, 3, b"new")


def test_a_newer_release_is_refused(table: OffsetTable, file: Path, registry: Registry) -> None:
    table.close()
    for at in (0, 2048):
        header = bytearray(file.read_bytes()[at : at + 56])
        header[8] = 2
        checksum = oracle.header_checksum(bytes(header), 0, at)
        overwrite(file, at, bytes(header) + checksum.to_bytes(8, "little"))

    with pytest.raises(FormatError, match="version 2"):
        OffsetTable(str(file), UUID, 3, registry)


def test_a_failed_sync_poisons_the_table_for_all_until_everybody_had_gone(
    table: OffsetTable, file: Path, tmp_path: Path, registry: Registry
) -> None:
    table.commit(0, 10, 3, 5)
    # what sync() leaves behind where fdatasync failed: the errno, behind session, mutex and holder
    overwrite(file, 4096 + 8 + 40 + 4, (5).to_bytes(4, "little"))

    for call in (lambda: table.commit(0, 11, 3, 5), table.sync):
        with pytest.raises(DurabilityError, match="open again"):
            call()
    assert table.committed(0) == (10, 3, b"")
    table.close()
    registry.close()
    with_new_session = Registry(str(tmp_path))
    again = OffsetTable(str(file), UUID, 3, with_new_session)
    again.commit(0, 11, 3, 5)
    again.close()
    with_new_session.close()


def test_a_lock_left_by_a_dead_session_keeps_nobody_out(file: Path, tmp_path: Path) -> None:
    """After a power cut the file may hold a mutex that a thread of another boot had."""
    registry = Registry(str(tmp_path))
    OffsetTable(str(file), UUID, 3, registry).close()
    registry.close()
    overwrite(file, 4096 + 8, os.urandom(40))

    registry = Registry(str(tmp_path))
    table = OffsetTable(str(file), UUID, 3, registry)
    table.commit(0, 1, 0, 0)
    assert table.committed(0) == (1, 0, b"")
    table.close()
    registry.close()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_plain_file_is_refused(file: Path, registry: Registry, tmp_path: Path, kind: str) -> None:
    file.parent.mkdir(parents=True)
    if kind == "link":
        (tmp_path / "target").write_bytes(b"precious")
        file.symlink_to(tmp_path / "target")
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()

    with pytest.raises(PylogError, match="plain file"):
        OffsetTable(str(file), UUID, 3, registry)
