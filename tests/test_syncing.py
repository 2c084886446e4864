"""Syncing: what a roll waits for, what many writers share, and the descriptors it keeps."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pylog

SEGMENT_BYTES = 16 << 10
WRITERS = 8


def open_files(data: Path) -> int:
    """Descriptors that this process holds of files in `data`."""
    return sum(os.path.realpath(link).startswith(f"{data}/") for link in Path("/proc/self/fd").iterdir())


def segments(data: Path) -> list[Path]:
    return sorted((data / "topics" / "t" / "0").glob("*.log"))


def test_a_roll_waits_until_the_segment_before_the_last_is_on_disk(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", segment_bytes=SEGMENT_BYTES, durability="os")
        while len(segments(tmp_path / "data")) < 3:
            engine.append("t", bytes(1000))

        assert engine.synced_offset("t", 0) >= int(segments(tmp_path / "data")[1].stem)


def test_syncing_segment_after_segment_keeps_no_more_descriptors(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=SEGMENT_BYTES)
        engine.append("t", bytes(1000), durability="sync")
        engine.append("t", bytes(1000), durability="sync")
        first = open_files(data)
        while len(segments(data)) < 10:
            engine.append("t", bytes(1000), durability="sync")

        assert open_files(data) == first
    assert open_files(data) == 0


def test_more_partitions_than_descriptors_are_kept_for_are_synced_all_the_same(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=300, segment_bytes=SEGMENT_BYTES)
        for partition in range(300):
            engine.append("t", b"x", partition=partition, durability="sync")

        assert all(engine.synced_offset("t", partition) == 1 for partition in range(300))
        assert open_files(data) < 2 * 300


def test_what_many_threads_append_at_once_is_on_disk_on_return(tmp_path: Path) -> None:
    missed = []

    def write(engine: pylog.Engine) -> None:
        for _ in range(100):
            offset = engine.append("t", b"x", durability="sync").offset
            if engine.synced_offset("t", 0) <= offset:
                missed.append(offset)

    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t")
        threads = [threading.Thread(target=write, args=(engine,)) for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert missed == []
        assert engine.log_end_offset("t", 0) == WRITERS * 100


def test_space_that_is_made_ready_for_synced_appends_holds_nothing_that_others_wrote(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as one, pylog.open(tmp_path / "data") as other:
        one.create_topic("t", segment_bytes=1 << 20)
        values = []
        for number in range(600):
            engine = (one, one, other)[number % 3]
            values.append(bytes([number % 251]) * (500 + 37 * number % 9000))
            engine.append("t", values[-1], durability="sync" if number % 5 == 0 else "os")

        assert [record.value for record in one.read("t")] == values
