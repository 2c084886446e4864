"""A delivery table that is damaged, cut short or missing: no record is lost, and none comes early."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import pylog
from pylog.queue_options import DUE_HEADER

RECORDS = 300
DELAYED = 20


def make(data: Path) -> None:
    """Leave a queue with finished, ready, nacked and scheduled records."""
    with pylog.open(data) as engine:
        engine.create_topic("jobs", durability="os")
        far = b"%d" % (2**62)
        for i in range(RECORDS):
            headers: dict[str, bytes | None] | None = {DUE_HEADER: far} if i % 15 == 0 else None
            engine.append("jobs", b"%d" % i, headers=headers)
        source: Any = engine.queue_source("jobs")
        leases: list[Any] = []
        while len(leases) < 200:
            leases += source.lease(200 - len(leases))
        assert source.ack_many([lease for lease in leases if lease.record.offset % 4]) == []
        for lease in leases:
            if lease.record.offset % 4 == 0:
                source.nack(lease)


def unfinished() -> set[int]:
    """What make() left to deliver: leased 200 of those that are not scheduled."""
    plain = [i for i in range(RECORDS) if i % 15]
    return {i for i in plain[:200] if i % 4 == 0} | set(plain[200:])


def drained(data: Path) -> set[int]:
    """Everything that comes, each once; what is scheduled stays."""
    with pylog.open(data) as engine:
        source: Any = engine.queue_source("jobs")
        came: list[int] = []
        while leases := source.lease(50):
            came += [lease.record.offset for lease in leases]
            assert source.ack_many(leases) == []
        assert len(set(came)) == len(came)
        assert source.counts()[0].delayed == DELAYED
        assert not {offset for offset in came if offset % 15 == 0}, "early"
        return set(came)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path / "data")
    return tmp_path / "data"


def table_of(data: Path) -> Path:
    return data / "queues" / "jobs" / "0.deliveries"


def test_an_undamaged_table_delivers_exactly_what_is_left(data: Path) -> None:
    assert drained(data) == unfinished()


def test_a_missing_table_begins_at_the_floor(data: Path) -> None:
    table_of(data).unlink()
    assert drained(data) >= unfinished()


def test_a_missing_queue_directory_delivers_everything(data: Path) -> None:
    shutil.rmtree(data / "queues")
    assert drained(data) >= unfinished()


def test_the_table_of_a_topic_that_was_made_anew_is_void(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.delete_topic("jobs")
        engine.create_topic("jobs")
        engine.append("jobs", b"new")
        source: Any = engine.queue_source("jobs")
        assert [lease.record.value for lease in source.lease(10)] == [b"new"]


def test_a_queue_whose_topic_was_deleted_is_made_anew_with_its_levels(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.queue("levels", priorities=3).close()
        engine.delete_topic("levels")
    with pylog.open(data, read_only=True) as engine:
        with pytest.raises(pylog.UnknownTopicError):
            engine.queue("levels")
    with pylog.open(data) as engine, engine.queue("levels") as jobs:
        jobs.put(b"urgent", priority=2)
        assert engine.describe_topic("levels").partitions == 3
        (entry,) = jobs.peek()
        assert entry.record.partition == 2


def test_what_a_damaged_table_counted_is_not_believed(data: Path) -> None:
    content = bytearray(table_of(data).read_bytes())
    content[4096:] = b"\x77" * len(content[4096:])
    table_of(data).write_bytes(content)
    for read_only in (True, False):
        with pylog.open(data, read_only=read_only) as engine:
            assert sum(engine.queue_source("jobs").counts()[0][1:5]) <= RECORDS
            assert engine.queue_source("jobs").counts()[0].finished <= RECORDS


def test_damaged_options_are_named(data: Path) -> None:
    path = data / "queues" / "jobs" / "queue.json"
    path.write_text(path.read_text().replace('"max_deliveries": 5', '"max_deliveries": 7'))
    with pylog.open(data) as engine, pytest.raises(pylog.CorruptionError):
        engine.queue_source("jobs")


def test_a_table_of_a_later_release_is_refused(data: Path) -> None:
    from logcore.hashing import checksum_header

    with table_of(data).open("r+b") as file:
        front = bytearray(file.read(40))
        front[8] = 2
        file.seek(0)
        file.write(front + checksum_header(bytes(front), 0, 0).to_bytes(8, "little"))
    with pylog.open(data) as engine, pytest.raises(pylog.FormatError):
        engine.queue_source("jobs").counts()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flip a byte, cut the file, zero a page or swap two."""
    changed = bytearray(content)
    kind = rng.randrange(6)
    if kind < 3:
        at = rng.choice([rng.randrange(64), rng.randrange(4096, 8192), rng.randrange(24576, len(content))])
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del changed[rng.randrange(len(content)) :]
    else:
        pages = [at for at in range(0, len(content), 4096) if at != 8192]
        a, b = rng.sample(pages, 2)
        if kind == 4:
            changed[a : a + 4096] = bytes(4096)
        else:
            changed[a : a + 4096], changed[b : b + 4096] = content[b : b + 4096], content[a : a + 4096]
    return bytes(changed)


def damage_again_and_again(data: Path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    content = table_of(data).read_bytes()
    saved = data.parent / "saved"
    shutil.copytree(data, saved)
    for _ in range(rounds):
        shutil.rmtree(data)
        shutil.copytree(saved, data)
        table_of(data).write_bytes(damaged(content, rng))
        assert drained(data) >= unfinished()


def test_no_record_is_lost_and_none_comes_early_whatever_is_damaged(data: Path) -> None:
    damage_again_and_again(data, rounds=40, seed=5)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_no_record_is_lost_whatever_is_damaged_at_length(data: Path, seed: int) -> None:
    damage_again_and_again(data, rounds=2000, seed=seed)
