"""A queue worked by several processes: real ones, killed and stopped for real (patterns 3a to 3f)."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from children import Child

import pylog

HOLDER = """
import sys, time, pylog
engine = pylog.open(sys.argv[1])
source = engine.queue_source("jobs")
leases = source.lease(int(sys.argv[2]), timeout=30)
print(len(leases))
for line in sys.stdin:
    try:
        source.ack(leases[0])
        print("acked")
    except pylog.LeaseLostError:
        print("lost")
"""
WORKER = """
import os, random, sys, pylog

def say(line):
    os.write(1, line + b"\\n")  # at once: no kill leaves half a line

engine = pylog.open(sys.argv[1])
source = engine.queue_source("jobs")
rng = random.Random(sys.argv[2])
say(b"ready")
while True:
    for lease in source.lease(rng.randint(1, 20), timeout=1):
        if rng.random() < 0.1:
            source.nack(lease, delay=rng.random() / 100)
            continue
        say(b"acking " + lease.record.value)
        source.ack(lease)
        say(b"acked " + lease.record.value)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("jobs", durability="os")
    return tmp_path / "data"


def source_of(engine: Any, **options: Any) -> Any:
    return engine.queue_source("jobs", **options)


def test_3b_leases_of_a_killed_worker_are_with_another_at_once(data: Path) -> None:
    with pylog.open(data) as engine, Child(HOLDER, data, 10) as holder:
        source = source_of(engine)
        engine.append_many("jobs", [b"%d" % i for i in range(10)])
        assert holder.says() == "10"
        assert source.lease(10) == []
        holder.kill()
        killed = time.monotonic()
        leases = source.lease(10, timeout=30)
        print(f"taken over {(time.monotonic() - killed) * 1000:.1f} ms after the kill")
        assert [lease.delivery_count for lease in leases] == [2] * 10
        assert source.metrics()["reclaimed"] == 10


def test_3a_a_stopped_worker_loses_its_leases_and_cannot_ack_the_newer_delivery(data: Path) -> None:
    with pylog.open(data) as engine, Child(HOLDER, data, 1) as holder:
        source = source_of(engine, visibility_timeout=1.0)
        engine.append("jobs", b"x")
        assert holder.says() == "1"
        holder.stop()
        (newer,) = source.lease(1, timeout=60)
        holder.process.send_signal(signal.SIGCONT)
        holder.tell()
        assert holder.says() == "lost"
        source.ack(newer)
        assert source.counts()[0].finished == 1


def test_3c_a_living_worker_keeps_what_takes_longer_than_the_visibility_timeout(data: Path) -> None:
    with pylog.open(data) as engine, Child(HOLDER, data, 1) as holder:
        source = source_of(engine, visibility_timeout=1.0)
        engine.append("jobs", b"x")
        assert holder.says() == "1"
        assert source.lease(1, timeout=3.0) == []
        holder.tell()
        assert holder.says() == "acked"


@pytest.mark.soak
def test_3c_ten_lease_times_long(data: Path) -> None:
    with pylog.open(data) as engine, Child(HOLDER, data, 1) as holder:
        source = source_of(engine, visibility_timeout=6.0)
        engine.append("jobs", b"x")
        assert holder.says() == "1"
        assert source.lease(1, timeout=60.0) == []
        holder.tell()
        assert holder.says() == "acked"


def test_a_handler_that_never_ends_loses_its_record_after_max_processing(data: Path) -> None:
    with pylog.open(data) as engine, Child(HOLDER, data, 1) as holder:
        source = source_of(engine, max_processing=0.2)
        engine.append("jobs", b"x")
        assert holder.says() == "1"
        (lease,) = source.lease(1, timeout=30)
        assert lease.delivery_count == 2
        source.extend(lease, 3600)
        assert source.lease(1, timeout=0.4) == [], "it was extended"


def test_1d_a_blocked_lease_uses_no_cpu_and_is_woken_by_a_put_elsewhere(data: Path) -> None:
    with pylog.open(data) as engine:
        source = source_of(engine)
        before = time.thread_time()
        source.lease(1, timeout=0.5)
        assert time.thread_time() - before < 0.1
    with pylog.open(data) as engine, Child(HOLDER, data, 1) as waiter:
        source_of(engine).counts()
        engine.append("jobs", b"x")
        assert waiter.says() == "1"


def run_storm(data: Path, records: int, kills: int, workers: int, seed: int) -> None:
    """Kill workers at random instants while they work; every record is acked, none twice by two of them."""
    rng = random.Random(seed)
    acking: list[str] = []
    acked: list[str] = []

    def end(child: Child) -> None:
        """Kill it, and take what it said last."""
        assert child.process.stdout is not None
        child.kill()
        for line in child.process.stdout.read().splitlines():
            word, _, value = line.partition(" ")
            if word == "acked":
                acked.append(value)
            elif word == "acking":
                acking.append(value)
        child.__exit__(None, None, None)

    with pylog.open(data) as engine:
        source = source_of(engine)
        engine.append_many("jobs", [b"%d" % i for i in range(records)])
        running = [Child(WORKER, data, rng.random()) for _ in range(workers)]
        try:
            for _ in range(kills):
                victim = rng.randrange(workers)
                assert running[victim].says() == "ready"
                time.sleep(rng.random() / 50)
                end(running[victim])
                running[victim] = Child(WORKER, data, rng.random())
            rest = []
            while source.counts()[0].finished < records:
                leases = source.lease(100, timeout=0.2)
                assert source.ack_many(leases) == []
                rest += [(lease.record.value or b"").decode() for lease in leases]
        finally:
            for child in running:
                end(child)
    assert [value for value, times in Counter(acked).items() if times > 1] == []
    assert not set(acked) & set(rest), "acked, and delivered again"
    assert set(acking) | set(rest) == {str(i) for i in range(records)}


def test_every_record_is_acked_once_under_a_storm_of_kills(data: Path) -> None:
    run_storm(data, records=3000, kills=12, workers=3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_every_record_is_acked_once_under_a_long_storm_of_kills(data: Path, seed: int) -> None:
    run_storm(data, records=100_000, kills=100, workers=4, seed=seed)


def churn(data: Path, records: int) -> None:
    """Finish records far out of order; the table stays as large as what is unfinished."""
    rng = random.Random(3)
    with pylog.open(data) as engine:
        source = source_of(engine)
        held: list[Any] = []
        for _ in range(records // 2000):
            engine.append_many("jobs", [b"x"] * 2000)
            held += source.lease(2000)
            rng.shuffle(held)
            assert source.ack_many(held[500:]) == []
            del held[500:]
        table = data / "queues" / "jobs" / "0.deliveries"
        source.sync()
        assert table.stat().st_blocks * 512 < 400_000
        assert source.counts()[0].in_flight == 500


def test_3e_state_stays_as_large_as_what_is_unfinished(data: Path) -> None:
    churn(data, 200_000)


@pytest.mark.soak
def test_3e_state_stays_as_large_as_what_is_unfinished_after_ten_million(data: Path) -> None:
    churn(data, 10_000_000)


LIMITED = """
import resource, sys, pylog
engine = pylog.open(sys.argv[1])
source = engine.queue_source("jobs")
source.counts()
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
leases = []
try:
    while True:
        leases += source.lease(50)
except pylog.DiskFullError:
    print(len(leases))
print(len(source.ack_many(leases[:100])))
print(len(source.lease(100)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(len(source.lease(1000)) + len(source.lease(1000)))
"""


def test_2d_a_full_disk_is_told_and_what_is_in_flight_is_finished_all_the_same(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.append_many("jobs", [b"x"] * 1000)
        source = source_of(engine)
        with Child(LIMITED, data) as child:
            leased = int(child.says())
            assert 0 < leased < 1000
            assert child.says() == "0"
            assert child.says() == "100", "in the slots of what was acked"
            assert child.says() == str(1000 - leased - 100)
            assert child.ends() == 0
        assert len(source.lease(1000, timeout=10)) == 900


@pytest.mark.soak
def test_a_million_delayed_records_cost_64_bytes_each_and_start_in_a_second(data: Path) -> None:
    count, later = 1_000_000, time.time_ns() + 3600 * 10**9
    with pylog.open(data) as engine:
        source = source_of(engine)
        for first in range(0, count, 10_000):
            dues = [{"pylog-due": b"%d" % (later + (first + i) * 7919 % 1_000_003)} for i in range(10_000)]
            engine.append_many("jobs", [b"x"] * 10_000, headers=dues)
        assert source.lease(1) == []
        assert source.counts()[0].delayed == count
    table = data / "queues" / "jobs" / "0.deliveries"
    each = table.stat().st_blocks * 512 / count
    print(f"{each:.1f} bytes a record")
    assert each <= 64
    began = time.monotonic()
    with pylog.open(data) as engine:
        assert source_of(engine).counts()[0].delayed == count
    print(f"opened in {time.monotonic() - began:.2f} s")
