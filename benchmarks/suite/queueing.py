"""Contests of the queue facade: put, and get with ack, beside what users would pick instead.

Each record is handled by its own Delivery and acknowledged by itself; in batches both are one call for BATCH
records. The ceiling of a put is `engine.append`, whose work it is. Not synced: a power cut delivers again
what was acked in the last second.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import queues
from benchmarks.contest import Contest, Contestant, Goal, Operation, Row, Timed, Timing
from benchmarks.processes import children
from benchmarks.queues import BATCH, WORKERS, Work, expect, together
from benchmarks.suite import append
from benchmarks.suite.opening import TOPIC, TopicShape, data_directory, engine_with_topic, open_engine
from benchmarks.workload import Workload, workload

PEER_GOALS = {"LMDB queue": 5.0, "persist-queue": 10.0, "Redis consumer group": 5.0}
DELAY = 86_400.0


@contextmanager
def opened(directory: Path) -> Iterator[Any]:
    """A queue over a new topic."""
    with engine_with_topic(directory, TopicShape()) as engine, engine.queue(TOPIC) as queue:
        yield queue


@contextmanager
def put_each(directory: Path, work: Workload) -> Iterator[Timed]:
    """`queue.put`, record by record."""
    with opened(directory) as queue:

        def timed() -> None:
            put = queue.put
            for value in work.values:
                put(value)

        yield timed


@contextmanager
def put_batches(directory: Path, work: Workload) -> Iterator[Timed]:
    """`queue.put_many` of BATCH."""
    with opened(directory) as queue:

        def timed() -> None:
            put_many = queue.put_many
            for values, _keys in work.calls:
                put_many(values)

        yield timed


@contextmanager
def work_each(directory: Path, work: Workload) -> Iterator[Timed]:
    """`queue.get` and `delivery.ack`, record by record."""
    with opened(directory) as queue:
        queue.put_many(work.values)

        def timed() -> None:
            handled = 0
            get = queue.get
            while (delivery := get(timeout=0)) is not None:
                delivery.value  # noqa: B018 - what a worker is there for
                delivery.ack()
                handled += 1
            expect(handled, work.count, "pylog")

        yield timed


def drain(queue: Any) -> int:
    """`queue.get_many` and `queue.ack_many` of BATCH until nothing is left."""
    handled = 0
    get_many, ack_many = queue.get_many, queue.ack_many
    while found := get_many(BATCH, timeout=0):
        for delivery in found:
            delivery.value  # noqa: B018
        ack_many(found)
        handled += len(found)
    return handled


@contextmanager
def work_batches(directory: Path, work: Workload) -> Iterator[Timed]:
    """get_many and ack_many in one process."""
    with opened(directory) as queue:
        queue.put_many(work.values)
        yield lambda: expect(drain(queue), work.count, "pylog")


@contextmanager
def eight_workers(directory: Path, work: Workload) -> Iterator[Timed]:
    """The same by eight processes on one queue of one partition."""
    with opened(directory) as queue:
        queue.put_many(work.values)
        with children(WORKERS, working_process, directory) as workers:
            yield lambda: together(workers, work.count, "pylog")


def working_process(number: int, directory: Path, pipe: Connection) -> None:
    """One of the workers: ready, go, how many records it handled."""
    with open_engine(directory) as engine, engine.queue(TOPIC) as queue:
        pipe.send("ready")
        pipe.recv()
        pipe.send(drain(queue))


RESTART = """
import sys, time, pylog
started = time.perf_counter()
with pylog.open(sys.argv[1]) as engine, engine.queue(sys.argv[2]) as queue:
    assert queue.get(timeout=0) is None
    print(time.perf_counter() - started)
    anonymous = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    print(anonymous.split()[1])
"""


@contextmanager
def delayed(directory: Path, work: Workload) -> Iterator[Timed]:
    """All records are due in a day; a new process opens the queue and looks for one that is due now."""
    with opened(directory) as queue:
        queue.put_many(work.values, delay=DELAY)
        queue.get(timeout=0)
    place = data_directory(directory)

    def timed() -> Timing:
        said = subprocess.run(
            [sys.executable, "-c", RESTART, str(place), TOPIC],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout.split()
        tables = sum(file.stat().st_blocks * 512 for file in (place / "queues").rglob("*") if file.is_file())
        notes = {
            "table_bytes_each": tables / work.count,
            "private_bytes_each": int(said[1]) * 1024 / work.count,
        }
        return Timing(float(said[0]), notes)

    yield timed


WORKS: dict[Work, tuple[str, Operation, Goal]] = {
    "put one by one": ("queue.put", put_each, Goal(ratio=0.9)),
    "put in batches": (f"queue.put_many of {BATCH}", put_batches, Goal()),
    "work one by one": ("queue.get and ack", work_each, Goal(least=300_000)),
    "work in batches": (f"queue.get_many and ack_many of {BATCH}", work_batches, Goal(least=1_000_000)),
    "eight workers": (f"eight processes, get_many and ack_many of {BATCH}", eight_workers, Goal()),
}


def queueing(count: int, slow: float) -> list[Contest]:
    """put, work, eight workers, and what delayed records cost."""
    return [contest(each, count, slow) for each in WORKS] + [restart(count)]


def contest(each: Work, count: int, slow: float) -> Contest:
    """One kind of work, beside the peers that can do it."""
    named, operation, goal = WORKS[each]
    work = workload(100, count // BATCH * BATCH, BATCH)
    others = queues.contestants(each, work, slow)
    names = tuple(peer.name for peer in others)
    ceiling = (Contestant("engine.append", append.append(TopicShape()), work),) if goal.ratio else ()
    return Contest(
        name=f"queue, {each}",
        size=100,
        codec="raw",
        durability="os",
        contestants=(*ceiling, Contestant("queue", operation, work), *others),
        rows=(
            Row(
                named,
                "queue",
                ceiling[0].name if ceiling else None,
                replace(goal, peers={name: PEER_GOALS[name] for name in names}),
                names,
            ),
        ),
    )


def restart(count: int) -> Contest:
    """A million delayed records after a restart."""
    return Contest(
        name="queue, delayed",
        size=100,
        codec="raw",
        durability="os",
        contestants=(Contestant("restart", delayed, workload(100, count)),),
        rows=(Row(f"open a queue of {count:,} delayed records", "restart", None, Goal(most=1000)),),
        unit="ms",
        rounds=1,
        warm_up=False,
    )
