"""Per-key parallelism, pattern 11: many workers inside a partition, order per key kept (11b, 11c)."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pylog
from pylog.parallel import Progress


@pytest.fixture
def filled(engine: pylog.Engine) -> pylog.Engine:
    """A topic of two partitions with 400 records of 20 keys, numbered by key."""
    engine.create_topic("t", partitions=2)
    for number in range(400):
        engine.append("t", b"%d" % (number // 20), key=b"k%d" % (number % 20))
    return engine


def committed(engine: pylog.Engine, group: str = "g") -> list[int | None]:
    with engine.consumer(group=group) as consumer:
        return [consumer.committed(("t", partition)) for partition in range(2)]


def ends(engine: pylog.Engine) -> list[int]:
    return [engine.log_end_offset("t", partition) for partition in range(2)]


@given(order=st.permutations(range(12)))
def test_11c_a_commit_never_passes_an_unfinished_record(order: list[int]) -> None:
    progress = Progress()
    for offset in range(12):
        progress.begin(offset)
    ended: set[int] = set()
    for offset in order:
        progress.end(offset)
        ended.add(offset)
        first_unfinished = next(n for n in range(13) if n not in ended)
        assert progress.committable == (first_unfinished or -1)
        assert progress.in_flight == 12 - len(ended)


def test_11c_records_of_one_key_are_handled_in_their_order(filled: pylog.Engine) -> None:
    seen: dict[bytes, list[int]] = defaultdict(list)
    threads: set[str] = set()

    def handle(record: pylog.Record) -> None:
        threads.add(threading.current_thread().name)
        seen[record.key or b""].append(int(record.value or b""))

    pylog.ParallelConsumer(filled, "t", handle, group="g", workers=8).run(idle=0.2)
    assert seen == {b"k%d" % key: list(range(20)) for key in range(20)}
    assert len(threads) > 2
    assert committed(filled) == ends(filled)


def test_11c_more_workers_than_partitions_all_work_at_once(filled: pylog.Engine) -> None:
    together = threading.Barrier(6, timeout=20)
    first = threading.Semaphore(6)

    def handle(record: pylog.Record) -> None:
        if first.acquire(blocking=False):
            together.wait()                                       # passes only where six are in here

    pylog.ParallelConsumer(filled, "t", handle, group="g", workers=16).run(idle=0.2)
    assert committed(filled) == ends(filled)


def test_11c_a_record_that_is_stuck_holds_its_commit_and_no_other_key(filled: pylog.Engine) -> None:
    stuck, release = threading.Event(), threading.Event()
    handled: list[pylog.Record] = []

    def handle(record: pylog.Record) -> None:
        if (record.partition, record.offset) == (0, 3):
            stuck.set()
            release.wait(20)
        handled.append(record)

    pool = pylog.ParallelConsumer(filled, "t", handle, group="g", workers=8)
    running = threading.Thread(target=pool.run)
    running.start()
    assert stuck.wait(20)
    key = next(record.key for record in filled.read("t", 0, 3))
    others = sum(record.key != key for record in filled.read("t"))
    while len([record for record in handled if record.key != key]) < others * 0.7:
        pass
    assert (committed(filled)[0] or 0) <= 3
    release.set()
    while committed(filled) != ends(filled):
        pass
    pool.stop()
    running.join(20)


def test_11c_what_a_handler_raises_ends_the_pool_and_is_delivered_again(filled: pylog.Engine) -> None:
    def fail(record: pylog.Record) -> None:
        if (record.partition, record.offset) == (1, 50):
            raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        pylog.ParallelConsumer(filled, "t", fail, group="g", workers=4).run()
    assert (committed(filled)[1] or 0) <= 50
    again: list[tuple[int, int]] = []
    pylog.ParallelConsumer(
        filled, "t", lambda record: again.append((record.partition, record.offset)), group="g"
    ).run(idle=0.2)
    assert (1, 50) in again
    assert committed(filled) == ends(filled)


def test_no_more_than_max_in_flight_are_read_and_not_finished(filled: pylog.Engine) -> None:
    gate = threading.Semaphore(0)
    begun: list[int] = []

    def handle(record: pylog.Record) -> None:
        begun.append(record.offset)
        assert gate.acquire(timeout=20)

    pool = pylog.ParallelConsumer(filled, "t", handle, group="g", workers=50, order="none", max_in_flight=10)
    running = threading.Thread(target=pool.run, kwargs={"idle": 0.2})
    running.start()
    for finished in range(0, 400, 10):
        while len(begun) < finished + 10:
            pass
        assert len(begun) == finished + 10
        gate.release(10)
    running.join(20)
    assert committed(filled) == ends(filled)


def test_a_partition_that_moves_is_drained_first(filled: pylog.Engine) -> None:
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def handle(record: pylog.Record) -> None:
        with lock:
            seen.append((record.partition, record.offset))

    pools = [pylog.ParallelConsumer(filled, "t", handle, group="g", max_in_flight=5) for _ in range(2)]
    running = [threading.Thread(target=pool.run, kwargs={"idle": 1.0}) for pool in pools]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert sorted(seen) == [(p, offset) for p, end in enumerate(ends(filled)) for offset in range(end)]


@pytest.mark.parametrize("options", [{"workers": 0}, {"order": "keys"}, {"enable_auto_commit": True}])
def test_bad_options_are_refused(filled: pylog.Engine, options: dict[str, Any]) -> None:
    with pytest.raises(pylog.ConfigError):
        pylog.ParallelConsumer(filled, "t", print, group="g", **options)


def test_11b_order_per_key_holds_from_several_producers_to_several_consumers(
    engine: pylog.Engine, tmp_path: Path
) -> None:
    engine.create_topic("t", partitions=4)

    def produce(name: int) -> None:
        with engine.producer() as producer:
            for number in range(300):
                producer.send("t", b"%d" % number, b"%d-%d" % (name, number % 7))

    producers = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
    for thread in producers:
        thread.start()
    for thread in producers:
        thread.join()
    seen: dict[bytes, list[int]] = defaultdict(list)

    def handle(record: pylog.Record) -> None:
        seen[record.key or b""].append(int(record.value or b""))

    pools = [pylog.ParallelConsumer(engine, "t", handle, group="g", workers=4) for _ in range(2)]
    running = [threading.Thread(target=pool.run, kwargs={"idle": 1.0}) for pool in pools]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert len(seen) == 28
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 1200
