"""One process's way past every failpoint of the core, and a companion that has to go on beside it.

Jobs of a Zygote. The tour is the same each time (durability "os": no thread syncs beside it), so that the
n-th hit of a point is always the same place. Invariant: what it cuts away itself was never acknowledged.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pylog
from faults.failpoints import ERROR_ONCE, Failpoints
from faults.journal import Journal, value_of
from faults.workload import GROUP, TOPIC, Writer
from pylog.engine import Consumer, Engine

PARTITIONS = 2
SEGMENT_BYTES = 32 << 10
SHORT_TIMEOUT = 0.3  # seconds that the companion waits for a lock whose holder is stopped


def tour(
    directory: str,
    journal: str,
    name: str,
    table: str,
    fault: tuple[str, int, int] | None = None,
    poison: bool = True,
) -> None:
    """Open, append by all ways, roll, sync, produce, commit, transact, delete; `poison`: fail a sync, cut.

    Meets the `fault`, a point with what it does at which hit of this process, wherever on the way that is.
    """
    said = Journal(Path(journal), name)
    points = Failpoints(Path(table), make=False)
    if fault is not None:
        points.arm(fault[0], fault[1], at=fault[2], pid=os.getpid())
    with pylog.open(directory) as engine:
        writer = Writer(engine, said, random.Random(), PARTITIONS)
        said.say("opened", pid=os.getpid())
        for durability in (None, "sync"):
            writer.append(0, 1, 60, durability)
            writer.append(0, 3, 60, durability)
            writer.append(0, 1, 9000, durability)
        fill_segments(writer, "os")
        writer.append(0, 1, 60, "sync")
        produce(engine, said)
        fill_segments(writer, "os")
        consume(engine, said)
        transact(engine, said)
        writer.append(0, 1, 60, guard=-1)
        engine.sync(TOPIC)
        delete_head(engine, said)
        if poison:
            fail_a_sync(engine, writer, points)
        writer.append(1, 1, 60, "sync")


def fill_segments(writer: Writer, durability: str) -> None:
    for _ in range(14):
        writer.append(0, 1, 3000, durability)


def produce(engine: Engine, said: Journal) -> None:
    """One batch of an idempotent producer; its flush tells no offset, so it is not called acknowledged."""
    options: Any = {"producer_id": "loader"}
    with engine.producer(**options) as producer:
        first = producer.last_sequence(TOPIC, 0) or 0
        batch = f"{said.writer}-p{first}"
        said.say("intent", batch=batch, p=0, n=1)
        producer.send(TOPIC, value_of(batch, 0, 1, 60), batch.encode(), partition=0, sequence=first + 1)


def consume(engine: Engine, said: Journal) -> None:
    options: Any = {"group": GROUP, "auto_offset_reset": "earliest"}
    with engine.consumer(**options) as consumer:
        consumer.assign([(TOPIC, 0)])
        for _ in range(2):
            hand_and_commit(consumer, said)


def hand_and_commit(consumer: Consumer, said: Journal) -> None:
    records = consumer.poll(5, 0)
    said.say("handed", records=[[record.partition, record.offset] for record in records])
    consumer.commit()
    said.say("committed", offsets=[[0, consumer.position((TOPIC, 0))]])


def transact(engine: Engine, said: Journal) -> None:
    """One transaction of a batch in each partition and an offset."""
    options: Any = {"group": GROUP, "auto_offset_reset": "earliest"}
    with engine.consumer(**options) as consumer:
        consumer.assign([(TOPIC, 0)])
        records = consumer.poll(5, 0)
        said.say("handed", records=[[record.partition, record.offset] for record in records])
        transaction = engine.transaction()
        batches = [f"{said.writer}-x{os.getpid()}-{p}" for p in range(PARTITIONS)]
        for p, batch in enumerate(batches):
            said.say("intent", batch=batch, p=p, n=1)
            transaction.append(TOPIC, value_of(batch, 0, 1, 60), batch.encode(), partition=p)
        transaction.commit_offsets(consumer)
        said.say("together", batches=batches)
        places = transaction.commit()
        for batch, place in zip(batches, places, strict=True):
            said.say("ack", batch=batch, offset=place.offset, durability=None)
        said.say("committed", offsets=[[0, consumer.position((TOPIC, 0))]])


def delete_head(engine: Engine, said: Journal) -> None:
    """Delete what is below the last records, each of which is a batch of its own."""
    before = engine.log_end_offset(TOPIC, 0) - 3
    said.say("deleting", p=0, offset=before)
    engine.delete_records(TOPIC, 0, before)


def fail_a_sync(engine: Engine, writer: Writer, points: Failpoints) -> None:
    """Let the next fdatasync fail, which poisons the partition, and cut it."""
    points.arm("sync.fdatasync", ERROR_ONCE, pid=os.getpid(), error=errno.EIO)
    try:
        writer.append(0, 1, 200, "sync")
    except pylog.DurabilityError:
        engine.recover(TOPIC, 0)
    writer.append(0, 1, 60, "sync")


def orphan_a_lock(directory: str, journal: str, name: str) -> None:
    """Append once; the test kills us inside the append section."""
    said = Journal(Path(journal), name)
    with pylog.open(directory) as engine:
        Writer(engine, said, random.Random(), PARTITIONS).append(0, 3, 60)


def companion(directory: str, journal: str, name: str, commands: str, answers: str) -> None:
    """Go a round at each line of the pipe `commands`, say in `answers` what came of it; end at "end".

    A round appends a synced record to each partition, and with "commit" commits. Its answer has for each
    partition 0 where it went on, or the pid of who keeps the lock.
    """
    said = Journal(Path(journal), name)
    with (
        pylog.open(directory, lock_timeout=SHORT_TIMEOUT) as engine,
        Path(commands).open() as heard,
        Path(answers).open("w") as told,
    ):
        writer = Writer(engine, said, random.Random(), PARTITIONS)
        for p in range(PARTITIONS):
            engine.log_end_offset(TOPIC, p)
        told.write("ready\n")
        told.flush()
        for line in heard:
            if line.strip() == "end":
                return
            stuck = [append_or_name_the_holder(engine, writer, p) for p in range(PARTITIONS)]
            if "commit" in line:
                consume(engine, said)
            told.write(" ".join(str(pid) for pid in stuck) + "\n")
            told.flush()


def append_or_name_the_holder(engine: Engine, writer: Writer, partition: int) -> int:
    try:
        try:
            writer.append(partition, 1, 60, "sync")
        except pylog.DurabilityError:  # whoever poisoned it may have died before it could cut
            engine.recover(TOPIC, partition)
            writer.append(partition, 1, 60, "sync")
    except pylog.LockTimeoutError as error:
        return error.pid
    return 0
