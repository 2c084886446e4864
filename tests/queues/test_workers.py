"""Workers, and queues across processes with real kills (patterns 1, 3 and 15)."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from children import Child
from taking import AT_ONCE, Opened, taken, values

import pylog
from pylog.queues import Workers
from pylog.queues.idempotence import SqliteEffects, idempotent
from pylog.queues.queue import BREAKER_SECONDS


def test_run_handles_all_logs_what_fails_and_goes_on(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = opened(max_deliveries=3)
    jobs.put_many([b"%d" % n for n in range(20)])
    seen: Counter[bytes] = Counter()

    def handle(delivery: pylog.Delivery) -> None:
        seen[delivery.value] += 1
        if delivery.value == b"7":
            raise ValueError("no such order")

    with caplog.at_level(logging.ERROR, "pylog"):
        jobs.run(handle, workers=3, idle=0.0)
    assert seen == {**dict.fromkeys((b"%d" % n for n in range(20)), 1), b"7": 3}
    assert [letter.record.value for letter in jobs.dead_letters] == [b"7"]
    assert caplog.text.count("ValueError: no such order") == 3
    assert jobs.join(0)


def test_3d_more_workers_than_partitions_all_work_at_once(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"%d" % n for n in range(16)])
    together = threading.Barrier(8)  # passed only where eight handlers wait at the same time
    jobs.run(lambda delivery: together.wait(60), workers=8, idle=0.0)
    assert jobs.qsize("finished") == 16


def test_3f_what_was_prefetched_and_not_begun_burns_no_attempt(opened: Opened) -> None:
    jobs = opened(max_deliveries=1)
    jobs.put_many([b"%d" % n for n in range(10)])
    pool: list[Workers] = []

    def handle(delivery: pylog.Delivery) -> None:
        pool[0].stop()

    pool.append(Workers(jobs, handle, prefetch=10))
    pool[0].run()
    assert pool[0].handled == 1
    assert [entry.delivery_count for entry in jobs.peek()] == [0] * 9
    assert jobs.qsize("ready") == 9
    with pytest.raises(pylog.ClosedError):
        pool[0].run()


def test_an_interrupt_of_a_handler_ends_the_run_and_burns_no_attempt(opened: Opened) -> None:
    jobs = opened(max_deliveries=1)
    jobs.put(b"a")

    def handle(delivery: pylog.Delivery) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.run(handle, workers=2)
    assert [entry.delivery_count for entry in jobs.peek()] == [0]


def test_15b_workers_pause_while_the_breaker_is_open(opened: Opened) -> None:
    breaker = pylog.CircuitBreaker(max_failures=3, reset_timeout=3600.0)
    jobs = opened(breaker=breaker, max_deliveries=9)
    jobs.put_many([b"%d" % n for n in range(10)])
    called: list[bytes] = []

    def handle(delivery: pylog.Delivery) -> None:
        called.append(delivery.value)
        raise OSError

    jobs.run(handle, idle=0.0)
    assert len(called) == 3
    assert sum(entry.delivery_count for entry in jobs.peek()) == 3


def test_a_worker_whose_handler_is_refused_rests_though_the_breaker_is_half_open(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    calls: list[float] = []

    def handle(delivery: pylog.Delivery) -> None:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise pylog.CircuitOpenError("a call is being tried", retry_after=0.0)

    jobs.run(handle, idle=0.0)
    assert calls[2] - calls[0] >= 2 * BREAKER_SECONDS
    assert jobs.qsize("finished") == 1


def test_a_handler_that_nobody_would_await_is_refused(opened: Opened) -> None:
    async def handle(delivery: pylog.Delivery) -> None:
        raise AssertionError

    jobs = opened()
    jobs.put(b"a")
    with pytest.raises(TypeError, match="async"):
        jobs.run(handle, idle=0.0)
    assert values(jobs) == [b"a"]


STUCK = """
import os, signal, sys, threading, pylog
from pylog.queues import Workers
def handle(delivery):
    os.kill(os.getpid(), signal.SIGINT)
    pool._stopping.wait()
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()
calm = signal.getsignal(signal.SIGTERM)
with pylog.open(sys.argv[1]) as engine:
    pool = Workers(engine.queue("jobs"), handle)
    try:
        pool.run()
    except KeyboardInterrupt:
        print("left", signal.getsignal(signal.SIGTERM) == calm, flush=True)
        os._exit(0)
"""


def test_a_second_interrupt_leaves_a_handler_that_hangs(engine: pylog.Engine, data: Path) -> None:
    jobs = engine.queue("jobs")
    jobs.put(b"a")
    with Child(STUCK, data) as child:
        assert child.says() == "left True"
        assert child.ends() == 0
    assert [entry.record.value for entry in jobs.peek()] == [b"a"]


WORKER = """
import sys, pylog
def handle(delivery):
    print(delivery.value.decode())
    sys.stdin.readline()
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs")
    jobs.run(handle, workers=1, prefetch=4)
    print("drained")
"""


def test_sigterm_drains_what_is_in_flight_and_gives_back_the_rest(
    engine: pylog.Engine, data: Path
) -> None:
    jobs = engine.queue("jobs", max_deliveries=1)
    jobs.put_many([b"%d" % n for n in range(100)])
    with Child(WORKER, data) as child:
        said = [child.says()]
        child.process.send_signal(signal.SIGTERM)
        while said[-1] != "drained":  # the signal takes a moment, in which others may begin
            child.tell()  # the handler goes on, and returns
            said.append(child.says())
        assert child.ends() == 0
    handled = len(said) - 1
    assert 1 <= handled < 100
    assert said[:-1] == [str(n) for n in range(handled)]
    assert [entry.delivery_count for entry in jobs.peek(100)] == [0] * (100 - handled)
    assert values(jobs) == [b"%d" % n for n in range(handled, 100)]


def test_3b_the_leases_of_a_killed_worker_are_free_at_once(engine: pylog.Engine, data: Path) -> None:
    jobs = engine.queue("jobs", visibility_timeout=3600.0, retry=AT_ONCE)
    jobs.put(b"a")
    with Child(WORKER, data) as child:
        assert child.says() == "a"
        assert jobs.get(0) is None
        child.kill()
        delivery = jobs.get(60)
    assert delivery is not None
    assert (delivery.value, delivery.delivery_count) == (b"a", 2)
    delivery.ack()


def test_3a_a_worker_that_was_stopped_too_long_cannot_end_what_others_have(
    engine: pylog.Engine, data: Path
) -> None:
    jobs = engine.queue("jobs", visibility_timeout=1.0, retry=AT_ONCE)
    jobs.put(b"a")
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    delivery = engine.queue("jobs").get(30)
    print("got")
    sys.stdin.readline()
    for end in (delivery.ack, delivery.nack, delivery.reject):
        try:
            end()
            print("ended")
        except pylog.LeaseLostError:
            print("lost")
"""
    with Child(script, data) as child:
        assert child.says() == "got"
        child.stop()
        delivery = jobs.get(60)
        assert delivery is not None
        child.process.send_signal(signal.SIGCONT)
        child.tell()
        assert [child.says() for _ in range(3)] == ["lost"] * 3
    assert jobs.qsize("in_flight") == 1
    delivery.ack()
    assert len(jobs.dead_letters) == 0


@pytest.mark.soak
def test_3c_a_task_ten_lease_times_long_is_delivered_once(opened: Opened) -> None:
    jobs = opened(visibility_timeout=1.0)
    jobs.put(b"long")
    with taken(jobs):
        assert jobs.get(10) is None
    assert jobs.join(0)


def test_3g_an_effect_that_cannot_be_committed_leaves_the_store_usable(
    opened: Opened, tmp_path: Path
) -> None:
    store = SqliteEffects(tmp_path / "effects.db")
    store.connection.execute("PRAGMA foreign_keys = ON")
    store.connection.executescript(
        "CREATE TABLE owners (name TEXT PRIMARY KEY);"
        "CREATE TABLE paid (owner TEXT REFERENCES owners (name) DEFERRABLE INITIALLY DEFERRED);"
    )
    jobs = opened()
    jobs.put_many([b"nobody", b"somebody"])

    @idempotent(store)
    def pay(delivery: pylog.Delivery) -> None:
        if delivery.value == b"somebody":
            store.connection.execute("INSERT INTO owners VALUES ('somebody')")
        store.connection.execute("INSERT INTO paid VALUES (?)", (delivery.value.decode(),))

    nobody, somebody = jobs.get_many(2, 0)
    with pytest.raises(sqlite3.IntegrityError):
        pay(nobody)  # found by COMMIT
    pay(somebody)
    assert store.connection.execute("SELECT owner FROM paid").fetchall() == [("somebody",)]
    assert store.connection.execute("SELECT count(*) FROM pylog_effects").fetchone() == (1,)
    store.close()


def test_3g_an_effect_happens_once_though_its_worker_died_before_the_ack(
    engine: pylog.Engine, data: Path, tmp_path: Path
) -> None:
    jobs = engine.queue("jobs", retry=AT_ONCE, max_deliveries=50)
    jobs.put_many([b"%d" % n for n in range(5)])
    script = """
import os, sys, pylog
from pylog.queues.idempotence import SqliteEffects, idempotent
from pylog.queues.queue import BREAKER_SECONDS
store = SqliteEffects(sys.argv[2])
store.connection.execute("CREATE TABLE IF NOT EXISTS paid (job TEXT)")
@idempotent(store)
def pay(delivery):
    store.connection.execute("INSERT INTO paid VALUES (?)", (delivery.value.decode(),))
with pylog.open(sys.argv[1]) as engine:
    delivery = engine.queue("jobs").get(30)
    pay(delivery)
    os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        with Child(script, data, tmp_path / "effects.db") as child:
            child.process.wait()
    store = SqliteEffects(tmp_path / "effects.db")

    @idempotent(store)
    def pay(delivery: pylog.Delivery) -> None:
        store.connection.execute("INSERT INTO paid VALUES (?)", (delivery.value.decode(),))
        if delivery.delivery_count == 1 and delivery.value == b"4":
            raise ValueError("rolled back with its mark")

    jobs.run(pay, idle=0.0)
    store.close()
    with sqlite3.connect(tmp_path / "effects.db") as connection:
        assert sorted(connection.execute("SELECT job FROM paid")) == [(str(n),) for n in range(5)]
    connection.close()


# ---- conservation ---------------------------------------------------------------------------------------

PRODUCER = """
import os, sys, pylog
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs")
    with open(sys.argv[2], "a", buffering=1) as put:
        for n in range(int(sys.argv[3]), int(sys.argv[4])):
            jobs.put(b"%d" % n, key=b"%d" % (n % 5), delay=0.01 if n % 7 == 0 else None)
            print(n, file=put)
    print("done")
"""
CONSUMER = """
import os, sys, time, pylog
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs", retry=pylog.Retry.fixed(0.0))
    with open(sys.argv[2], "a", buffering=1) as acked:
        for delivery in jobs:
            due = dict(delivery.headers).get("pylog-due")
            if due is not None and int(due) > time.time_ns():
                print("early", file=acked)
            n = int(delivery.value)
            if n % 11 == 0:
                delivery.reject("every eleventh")
            elif n % 5 == 0 and delivery.delivery_count == 1:
                delivery.nack()
            else:
                delivery.ack()
                print(n, file=acked)
"""


def numbers(directory: Path, name: str) -> list[str]:
    """Return the whole lines of the files of that name; a killed writer may leave a part of one."""
    found: list[str] = []
    for path in directory.glob(f"{name}*"):
        found += [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line.strip() for line in found]


class Storm:
    """Two producers and two consumers; each is killed after it got somewhere, and another takes its place."""

    def __init__(self, engine: pylog.Engine, data: Path, notes: Path, each: int) -> None:
        self.jobs = engine.queue(
            "jobs", retry=AT_ONCE, max_deliveries=60_000, visibility_timeout=600.0, durability="os"
        )
        self._data, self._notes, self._each = data, notes, each
        self._begun = 0
        self.children: list[Child] = []
        self._paths: list[Path] = []
        self._sizes: list[int] = []
        for place in range(4):
            self.children.append(self._begin(place))

    def _begin(self, place: int) -> Child:
        """Begin a producer in places 0 and 1, a consumer in 2 and 3."""
        self._begun += 1
        path = self._notes / (f"put{place}" if place < 2 else f"acked{self._begun}")
        size = path.stat().st_size if path.exists() else 0
        self._paths[place : place + 1] = [path]
        self._sizes[place : place + 1] = [size]
        if place > 1:
            return Child(CONSUMER, self._data, path)
        # goes on behind what it knows to be in: what was put and not noted is put twice
        last = max((int(n) for n in numbers(self._notes, f"put{place}")), default=place * self._each - 1)
        return Child(PRODUCER, self._data, path, last + 1, (place + 1) * self._each)

    def kill(self, place: int) -> None:
        """Kill who is there once it did something, or has nothing left to do."""
        path, size = self._paths[place], self._sizes[place]
        while not (path.exists() and path.stat().st_size > size + 20) and self._busy(place):
            time.sleep(0.001)
        with self.children[place]:
            pass
        self.children[place] = self._begin(place)

    def _busy(self, place: int) -> bool:
        if place < 2:
            return self.children[place].process.poll() is None
        return bool(self.jobs.qsize() + self.jobs.qsize("in_flight"))

    def end(self) -> None:
        """Wait until all is put and finished."""
        for child in self.children[:2]:
            assert child.says() == "done"
        assert self.jobs.join(120)

    def close(self) -> None:
        for child in self.children:
            with child:
                pass


def conserves(engine: pylog.Engine, data: Path, tmp_path: Path, *, each: int, kills: int) -> None:
    """Have producers and consumers killed again and again; every id ends acked or dead."""
    storm = Storm(engine, data, tmp_path, each)
    try:
        for kill in range(kills):
            storm.kill(kill % 4)
        storm.end()
    finally:
        storm.close()
    put = [int(record.value or b"") for record in engine.read("jobs")]
    expected = set(range(2 * each))
    assert set(put) == expected, "no acknowledged put is lost"
    assert len(put) <= len(expected) + kills, "one put at most is repeated by each kill"
    acked = numbers(tmp_path, "acked")
    assert "early" not in acked
    dead = sorted(letter.offset for letter in storm.jobs.dead_letters)
    assert dead == [offset for offset, n in enumerate(put) if n % 11 == 0], "dead once each, and no other"
    alive = Counter(n for n in put if n % 11)
    told = Counter(int(n) for n in acked)
    assert not told - alive, "none acked twice"
    assert (alive - told).total() <= kills, "who dies between ack and note tells nothing, once"


def test_1b_1c_under_a_kill_storm_every_record_ends_acked_or_dead(
    engine: pylog.Engine, data: Path, tmp_path: Path
) -> None:
    conserves(engine, data, tmp_path, each=150, kills=8)


@pytest.mark.soak
def test_1b_1c_under_a_long_kill_storm_every_record_ends_acked_or_dead(
    engine: pylog.Engine, data: Path, tmp_path: Path
) -> None:
    conserves(engine, data, tmp_path, each=100_000, kills=400)


MANY_PRODUCER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs")
    first, count = int(sys.argv[2]), int(sys.argv[3])
    for n in range(first, first + count, 50):
        jobs.put_many([b"%d" % i for i in range(n, n + 50)])
    print("done")
"""
MANY_CONSUMER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs")
    while batch := jobs.get_many(100, 2.0):
        print(*(delivery.value.decode() for delivery in batch))
        jobs.ack_many(batch)
    print("empty")
"""


def multiset(data: Path, each: int) -> None:
    """Four processes put, four get and ack: what goes in comes out."""
    producers = [Child(MANY_PRODUCER, data, number * each, each) for number in range(4)]
    consumers = [Child(MANY_CONSUMER, data) for _ in range(4)]
    found: Counter[int] = Counter()
    try:
        for consumer in consumers:
            while (line := consumer.says()) != "empty":
                found.update(map(int, line.split()))
    finally:
        for child in (*producers, *consumers):
            with child:
                pass
    assert found == Counter(range(4 * each))


def test_1b_four_producers_and_four_consumers_multiset_in_is_multiset_out(
    engine: pylog.Engine, data: Path
) -> None:
    engine.queue("jobs").close()
    multiset(data, 1000)


@pytest.mark.soak
def test_1b_a_million_items(engine: pylog.Engine, data: Path) -> None:
    engine.queue("jobs").close()
    multiset(data, 250_000)


@pytest.mark.soak
def test_1d_a_blocked_get_uses_no_cpu_and_wakes_fast(opened: Opened) -> None:
    jobs = opened()
    before = time.process_time()
    assert jobs.get(5.0) is None
    assert time.process_time() - before < 0.25
    delays = []

    def put() -> None:
        time.sleep(0.02)
        jobs.put(b"%d" % time.perf_counter_ns())

    for _ in range(50):
        thread = threading.Thread(target=put)
        thread.start()
        with jobs.get(30) as delivery:  # type: ignore[union-attr]
            delays.append(time.perf_counter_ns() - int(delivery.value))
        thread.join()
    assert sorted(delays)[25] < 1_000_000


def test_a_forked_child_does_not_end_its_parents_deliveries(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    delivery = taken(jobs)
    pid = os.fork()
    if pid == 0:
        try:
            delivery.ack()
        except pylog.LeaseLostError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    delivery.ack()
    assert jobs.join(0)
