"""Reading one key, and appends that happen only while nobody wrote to it."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from children import Child
from oracle_partition import read_keys

import pylog
from logcore.segment_keys import keys_path
from pylog.cli import main
from pylog.embedded.engine import EmbeddedEngine as Engine

TOPIC = "t"
SEGMENT_BYTES = 16 << 10


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES)
        yield engine


def fill(engine: Engine, keys: int = 20, rounds: int = 200) -> dict[bytes, list[bytes]]:
    """Append to each key in turn, in batches of one and of many; what each key got."""
    dice, wrote = random.Random(7), dict[bytes, list[bytes]]()
    for number in range(rounds):
        names = [b"k%d" % dice.randrange(keys) for _ in range(dice.choice((1, 1, 7)))]
        values = [b"%d of %s" % (number, name) * 20 for name in names]
        if len(names) == 1:
            engine.append(TOPIC, values[0], key=names[0])
        else:
            engine.append_many(TOPIC, values, keys=names)
        for name, value in zip(names, values, strict=True):
            wrote.setdefault(name, []).append(value)
    return wrote


def values(engine: Engine, key: bytes, **options: int | bool) -> list[bytes | None]:
    return [record.value for record in engine.read_key(TOPIC, key, **options)]


def partition(engine: Engine) -> Path:
    return Path(engine.path, "topics", TOPIC, "0")


def test_a_key_is_read_over_sealed_and_active_segments(engine: Engine) -> None:
    wrote = fill(engine)
    for key in [*wrote, b"no such key"]:
        assert values(engine, key) == wrote.get(key, [])
        assert values(engine, key, backward=True) == wrote.get(key, [])[::-1]
    assert len(list(partition(engine).glob("*.keys"))) == len(list(partition(engine).glob("*.log"))) - 1


def test_a_key_is_read_between_offsets_and_up_to_a_number(engine: Engine) -> None:
    fill(engine)
    for key in (b"k1", b"k2"):
        records = engine.read_key(TOPIC, key)
        offsets = [record.offset for record in records]
        assert offsets == [r.offset for r in engine.read(TOPIC) if r.key == key]
        middle = offsets[len(offsets) // 2]
        assert [r.offset for r in engine.read_key(TOPIC, key, first=middle)] == offsets[len(offsets) // 2 :]
        assert [r.offset for r in engine.read_key(TOPIC, key, behind=middle)] == offsets[: len(offsets) // 2]
        assert [r.offset for r in engine.read_key(TOPIC, key, most=2)] == offsets[:2]
        last = engine.read_key(TOPIC, key, most=2, backward=True)
        assert [r.offset for r in last] == offsets[:-3:-1]


def test_what_another_process_appends_is_found(engine: Engine) -> None:
    wrote = fill(engine, rounds=5)
    assert values(engine, b"k1") == wrote.get(b"k1", [])
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    for number in range(200):
        engine.append("t", b"%d" % number * 100, key=b"k1")
"""
    with Child(script, engine.path) as child:
        assert child.ends() == 0
    assert len(engine.read_key(TOPIC, b"k1")) == len(wrote.get(b"k1", [])) + 200


def test_the_file_is_as_the_document_says(engine: Engine) -> None:
    fill(engine)
    engine.read_key(TOPIC, b"k1")
    for log in sorted(partition(engine).glob("*.log"))[:-1]:
        found = read_keys(log)
        here = [r for r in engine.read(TOPIC) if found.base_offset <= r.offset < found.end_offset]
        assert len(here) == len(found.entries)
        for key in {r.key for r in here}:
            assert key is not None
            assert found.offsets(key) == [r.offset for r in here if r.key == key]


@pytest.mark.parametrize("damage", ["gone", "empty", "flipped", "another segment's", "a directory"])
def test_a_file_that_does_not_fit_is_built_anew(tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES)
        wrote = fill(engine)
        engine.read_key(TOPIC, b"k1")
        files = sorted(partition(engine).glob("*.keys"))
    whole = files[0].read_bytes()
    files[0].unlink()
    if damage == "empty":
        files[0].write_bytes(b"")
    elif damage == "flipped":
        files[0].write_bytes(whole[:80] + bytes([whole[80] ^ 1]) + whole[81:])
    elif damage == "another segment's":
        files[0].write_bytes(files[1].read_bytes())
    elif damage == "a directory":
        files[0].mkdir()
    with pylog.open(data) as engine:
        for key in wrote:
            assert values(engine, key) == wrote[key]
    if damage != "a directory":
        assert files[0].read_bytes() == whole


def test_a_directory_that_is_only_read_is_not_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES)
        wrote = fill(engine)
    with pylog.open(data, read_only=True) as engine:
        assert values(engine, b"k1") == wrote[b"k1"]
        assert not list(partition(engine).glob("*.keys"))


def test_compaction_and_retention_take_the_file_along(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES, cleanup_policy="compact")
        wrote = fill(engine)
        assert values(engine, b"k1") == wrote[b"k1"]
        engine.clean(TOPIC, now=True)
        for key in wrote:
            assert values(engine, key) == wrote[key][-1:]
        end = engine.log_end_offset(TOPIC, 0)
        engine.delete_records(TOPIC, 0, end)
        assert values(engine, b"k1") == []
        stems = {path.stem for path in partition(engine).glob("*.log")}
        assert {path.stem for path in partition(engine).glob("*.keys")} <= stems
        engine.append(TOPIC, b"new", key=b"k1")
        assert values(engine, b"k1") == [b"new"]


def test_a_backup_takes_it_along(engine: Engine, tmp_path: Path) -> None:
    wrote = fill(engine)
    assert values(engine, b"k1") == wrote[b"k1"]
    engine.backup(tmp_path / "copy")
    with pylog.open(tmp_path / "copy", read_only=True) as copy:
        assert {path.name for path in partition(copy).glob("*.keys")} == {
            path.name for path in partition(engine).glob("*.keys")
        }
        assert values(copy, b"k1") == wrote[b"k1"]


def test_damage_is_told_to_those_whose_records_it_took(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES)
        for number in range(30):
            engine.append(TOPIC, b"%d" % number * 2000, key=b"k%d" % number)
        engine.read_key(TOPIC, b"k1")
        first = min(partition(engine).glob("*.log"))
    content = first.read_bytes()
    at = content.index(b"3" * 100)
    first.write_bytes(content[:at] + b"x" + content[at + 1 :])
    with pylog.open(data) as engine:
        assert values(engine, b"k2") == [b"2" * 2000]
        with pytest.raises(pylog.CorruptionError) as told:
            engine.read_key(TOPIC, b"k3")
        assert (told.value.first_offset, told.value.next_offset) == (3, 4)
    Path(keys_path(str(first))).unlink()
    with pylog.open(data) as engine:
        with pytest.raises(pylog.CorruptionError):  # it might be anybody's
            engine.read_key(TOPIC, b"k2")


def test_verify_tells_a_damaged_file_and_repair_moves_it_away(engine: Engine) -> None:
    wrote = fill(engine)
    engine.read_key(TOPIC, b"k1")
    path = engine.path
    engine.close()
    file = min(Path(path, "topics", TOPIC, "0").glob("*.keys"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert main(["verify", path]) == 3
    assert main(["verify", path, "--repair", "--execute"]) in (0, 3)
    with pylog.open(path) as again:
        assert values(again, b"k1") == wrote[b"k1"]
    assert main(["verify", path]) == 0


# ---- guards --------------------------------------------------------------------------------------------


def test_a_guard_lets_in_who_knows_the_last_record(engine: Engine) -> None:
    first = engine.append(TOPIC, b"1", key=b"k", guard=-1)
    engine.append(TOPIC, b"other", key=b"o")
    second = engine.append(TOPIC, b"2", key=b"k", guard=first.offset)
    for guard in (-1, first.offset, second.offset + 1):
        with pytest.raises(pylog.VersionConflictError) as told:
            engine.append(TOPIC, b"3", key=b"k", guard=guard)
        assert (told.value.stream, told.value.expected, told.value.actual) == ("k", guard, second.offset)
    assert values(engine, b"k") == [b"1", b"2"]


def test_a_guard_holds_at_the_beginning_of_a_segment(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES, cleanup_policy="compact")
        at = -1
        for number in range(3):
            at = engine.append(TOPIC, b"%d" % number, key=b"k", guard=at).offset
            engine.clean(TOPIC, now=True)  # rolls: nothing stands in the active segment
            with pytest.raises(pylog.VersionConflictError):
                engine.append(TOPIC, b"no", key=b"k", guard=at - 1)
        assert values(engine, b"k") == [b"2"]


def test_a_guard_over_several_keys_is_one_batch_or_nothing(engine: Engine) -> None:
    engine.append_many(TOPIC, [b"1", b"2"], keys=[b"a", b"b"], guard={b"a": -1, b"b": -1})
    with pytest.raises(pylog.VersionConflictError):
        engine.append_many(TOPIC, [b"3", b"4"], keys=[b"a", b"c"], guard={b"a": 0, b"b": 0, b"c": -1})
    engine.append_many(TOPIC, [b"3", b"4"], keys=[b"a", b"c"], guard={b"a": 0, b"b": 1, b"c": -1})
    assert [r.value for r in engine.read(TOPIC)] == [b"1", b"2", b"3", b"4"]


def test_what_no_guard_can_be_is_refused(engine: Engine) -> None:
    engine.create_topic("many", partitions=8)
    for wrong in (True, 1.5, "1"):
        with pytest.raises(TypeError):
            engine.append(TOPIC, b"x", key=b"k", guard=wrong)
    with pytest.raises(TypeError):
        engine.append(TOPIC, b"x", guard=1)
    with pytest.raises(pylog.ConfigError):
        engine.append_many("many", [b"x"] * 9, keys=[b"%d" % n for n in range(9)], guard={b"1": -1})
    with pytest.raises(pylog.ConfigError):
        engine.append_many("many", [b"x"], guard={b"1": -1})
    assert list(engine.read(TOPIC)) == list(engine.read("many")) == []


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_threads_that_race_have_one_winner_a_round(tmp_path: Path, codec: str) -> None:
    with pylog.open(tmp_path / "data") as engine, ThreadPoolExecutor(8) as pool:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES, compression_type=codec)

        def race(number: int) -> int:
            won = 0
            while (last := engine.read_key(TOPIC, b"k", most=1, backward=True)) == [] or int(
                (last[0].value or b"").split()[0]
            ) < 200:
                turn, at = (int((last[0].value or b"").split()[0]), last[0].offset) if last else (0, -1)
                engine.append(TOPIC, b"noise" * 50, key=b"%d" % number)
                try:
                    engine.append(TOPIC, b"%d by %d" % (turn + 1, number), key=b"k", guard=at)
                    won += 1
                except pylog.VersionConflictError as error:
                    assert error.actual > at
            return won

        assert sum(pool.map(race, range(8))) == 200
        turns = [int((r.value or b"").split()[0]) for r in engine.read_key(TOPIC, b"k")]
        assert turns == list(range(1, 201))


def test_transactions_that_race_have_one_winner_a_round(engine: Engine) -> None:
    engine.create_topic("told", partitions=2)

    def race(number: int) -> int:
        won = 0
        while len(found := engine.read_key(TOPIC, b"k")) < 60:
            transaction = engine.transaction()
            transaction.append(TOPIC, b"%d" % len(found), key=b"k", guard=found[-1].offset if found else -1)
            transaction.append("told", b"%d" % len(found), partition=number % 2)
            with suppress(pylog.VersionConflictError):
                transaction.commit()
                won += 1
        return won

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(race, range(4))) == len(engine.read_key(TOPIC, b"k"))
    numbers = [int(record.value) for record in engine.read_key(TOPIC, b"k")]
    assert numbers == list(range(len(numbers)))
    assert sorted(int(record.value) for record in engine.read("told")) == numbers


def test_a_transaction_commits_only_while_its_guards_hold(engine: Engine) -> None:
    engine.create_topic("other")
    at = engine.append(TOPIC, b"1", key=b"k").offset
    with engine.transaction() as tx:
        tx.append(TOPIC, b"2", key=b"k", guard=at)
        tx.append("other", b"told")
    with pytest.raises(pylog.VersionConflictError), engine.transaction() as tx:
        tx.append("other", b"never")
        tx.append(TOPIC, b"3", key=b"k", guard=at)
    tx = engine.transaction()
    tx.append(TOPIC, b"3", key=b"k", guard=at + 1)
    engine.append(TOPIC, b"quicker", key=b"k")
    with pytest.raises(pylog.VersionConflictError):
        tx.commit()
    assert values(engine, b"k") == [b"1", b"2", b"quicker"]
    assert [r.value for r in engine.read("other")] == [b"told"]


CLOSING = """
import sys, threading, pylog
for _ in range(40):
    engine = pylog.open(sys.argv[1])
    started = threading.Barrier(4)
    def look():
        engine.read_key("t", b"k1")
        started.wait()
        try:
            while True:
                engine.read_key("t", b"k1")
                engine.append("t", b"x" * 500, b"k%d" % threading.get_native_id())
        except pylog.ClosedError:
            pass
    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    engine.close()
    for thread in threads:
        thread.join()
print("closed", flush=True)
"""


def test_closing_ends_look_ups_of_other_threads_by_an_error(engine: Engine, tmp_path: Path) -> None:
    fill(engine)
    with Child(CLOSING, tmp_path / "data") as child:
        assert child.says() == "closed"
        assert child.ends() == 0


def test_a_deleted_topic_is_let_go_of(engine: Engine) -> None:
    fill(engine)
    assert len(values(engine, b"k1")) > 10
    engine.delete_topic(TOPIC)
    with pytest.raises(pylog.UnknownTopicError):
        values(engine, b"k1")
    gc.collect()
    kept = [line for line in Path("/proc/self/maps").read_text().splitlines() if engine.path in line]
    assert [line for line in kept if TOPIC in Path(line.split()[5]).parts] == []
