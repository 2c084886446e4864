"""What the processes of the fault tests do: write, read, consume, verify. Jobs of a Zygote.

Each says in the journal what it is about to do, and what came of it as soon as the call returned.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pylog
from faults.journal import Journal, name_of, value_of
from pylog.engine import Engine

TOPIC = "t"
GROUP = "g"
SIZES = (10, 60, 60, 200, 900, 3000)
BULK = 9000  # beyond the size from which batches go by pwrite
SPRINT = 100  # batches that a writer appends at full speed; then slowly, or nobody could check it all


class Writer:
    """Appends batches of one and of many."""

    def __init__(self, engine: Engine, journal: Journal, rng: random.Random, partitions: int) -> None:
        self.engine, self.journal, self.rng, self.partitions = engine, journal, rng, partitions
        self.life = f"{rng.getrandbits(40):x}"
        self.batches = 0

    def step(self, durability: str | None = None) -> None:
        """Append one batch and say so; now and then ask how far the disk has it."""
        rng, partition = self.rng, self.rng.randrange(self.partitions)
        count = rng.choice([1, 1, 1, 2, 5, 12])
        size = BULK if count == 1 and rng.random() < 0.1 else rng.choice(SIZES[:4] if count > 2 else SIZES)
        self.append(partition, count, size, durability)
        if self.batches % 7 == 0:
            self.say_synced(partition)

    def append(
        self, partition: int, count: int, size: int, durability: str | None = None, **guard: int
    ) -> None:
        self.batches += 1
        batch = f"{self.journal.writer}-{self.life}-{self.batches}"
        values = [value_of(batch, i, count, size) for i in range(count)]
        key = batch.encode()
        options: Any = {"partition": partition, "durability": durability, **guard}
        self.journal.say("intent", batch=batch, p=partition, n=count)
        if count == 1:
            place = self.engine.append(TOPIC, values[0], key, **options)
        else:
            place = self.engine.append_many(TOPIC, values, [key] * count, **options)[0]
        self.journal.say("ack", batch=batch, offset=place.offset, durability=durability)

    def say_synced(self, partition: int) -> None:
        self.journal.say("synced", p=partition, offset=self.engine.synced_offset(TOPIC, partition))


class Reader:
    """Reads all partitions from their beginning and says what it saw, and where the ends were."""

    def __init__(self, engine: Engine, journal: Journal, partitions: int, isolation: str) -> None:
        self.engine, self.journal, self.partitions, self.isolation = engine, journal, partitions, isolation
        options: Any = {"auto_offset_reset": "earliest", "isolation": isolation}
        self.consumer = engine.consumer(**options)
        self.consumer.assign([(TOPIC, p) for p in range(partitions)])

    def step(self, timeout: float) -> int:
        """Poll once; the number of records."""
        synced = [self.engine.synced_offset(TOPIC, p) for p in range(self.partitions)]
        before = [self.engine.log_end_offset(TOPIC, p) for p in range(self.partitions)]
        records = self.consumer.poll(200, timeout)
        after = [self.engine.log_end_offset(TOPIC, p) for p in range(self.partitions)]
        ends = {"synced": synced, "before": before, "after": after}
        self.journal.say("saw", records=[seen_of(r) for r in records], isolation=self.isolation, **ends)
        return len(records)


def seen_of(record: pylog.Record) -> list[Any]:
    """What the checker wants of a record: partition, offset, epoch, batch, index, count."""
    batch, index, count = name_of(record.value)
    if record.key != batch.encode():
        raise ValueError(f"offset {record.offset} has the key {record.key!r} and a value of {batch}")
    return [record.partition, record.offset, record.epoch, batch, index, count]


# ---- jobs -------------------------------------------------------------------------------------------------


def create(directory: str, partitions: int, segment_bytes: int, durability: str) -> None:
    """Create the topic of the tests, or take it as it is."""
    options: Any = {"partitions": partitions, "segment_bytes": segment_bytes, "durability": durability}
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, **options)


def write(
    directory: str,
    journal: str,
    name: str,
    seed: int,
    partitions: int,
    durability: str | None = None,
    steps: int = 1 << 60,
) -> None:
    """Write until killed, or so many batches."""
    said = Journal(Path(journal), name)
    with pylog.open(directory) as engine:
        writer = Writer(engine, said, random.Random(seed), partitions)
        said.say("opened", pid=os.getpid())
        while writer.batches < steps:
            writer.step(durability)
            if writer.batches > SPRINT:
                time.sleep(0.005)
        ends = [engine.log_end_offset(TOPIC, p) for p in range(partitions)]
    said.say("flushed", ends=ends)


def roll_once(directory: str, journal: str, name: str) -> None:
    """Fill the first segment of partition 0 and begin the second."""
    said = Journal(Path(journal), name)
    with pylog.open(directory) as engine:
        writer = Writer(engine, said, random.Random(), 1)
        while writer.batches < 14:
            writer.append(0, 1, SIZES[-1], "os")


def read(directory: str, journal: str, name: str, partitions: int, isolation: str = "published") -> None:
    """Read until killed."""
    said = Journal(Path(journal), name)
    with pylog.open(directory) as engine:
        reader = Reader(engine, said, partitions, isolation)
        said.say("opened", pid=os.getpid())
        while True:
            reader.step(0.2)


def consume(directory: str, journal: str, name: str, own: list[int]) -> None:
    """Hand records to an application that only notes them, then commit: at least once. Until killed."""
    said = Journal(Path(journal), name)
    with (
        pylog.open(directory) as engine,
        engine.consumer(group=GROUP, auto_offset_reset="earliest") as consumer,
    ):
        consumer.assign([(TOPIC, p) for p in own])
        for p in own:
            committed, position = consumer.committed((TOPIC, p)), consumer.position((TOPIC, p))
            said.say("resumed", p=p, committed=committed, position=position)
        said.say("opened", pid=os.getpid())
        while True:
            records = consumer.poll(50, 0.2)
            if records:
                said.say("handed", records=[[record.partition, record.offset] for record in records])
                consumer.commit()
                said.say("committed", offsets=[[p, consumer.position((TOPIC, p))] for p in own])


def verify(
    directory: str, journal: str, partitions: int, name: str = "verify", group: bool = False
) -> dict[str, Any]:
    """Open, read all there is, append and read again; what was found, for the checker."""
    said = Journal(Path(journal), name)
    began = time.monotonic_ns()
    with pylog.open(directory) as engine:
        opened = time.monotonic_ns()
        if TOPIC not in engine.list_topics():
            # its making was cut short: whatever anybody was told of it, the checker misses
            engine.create_topic(TOPIC, partitions=partitions, segment_bytes=32 << 10)
        # offsets before ends: others may commit while we look
        committed = committed_offsets(engine, partitions) if group else []
        found = read_back(engine, partitions) | {"committed": committed}
        found["probe_seconds"] = probe(engine, said, partitions)
    return found | {"began": began, "open_seconds": (opened - began) / 1e9}


def read_back(engine: Engine, partitions: int) -> dict[str, Any]:
    # the ends first: others may write while we read
    ends = [engine.log_end_offset(TOPIC, p) for p in range(partitions)]
    synced = [engine.synced_offset(TOPIC, p) for p in range(partitions)]
    reports = [
        [report.topic, report.partition, report.epoch, report.dropped_bytes, report.cut]
        for report in engine.recovery_reports()
    ]
    starts = [engine.log_start_offset(TOPIC, p) for p in range(partitions)]
    published = (record for p in range(partitions) for record in engine.read(TOPIC, p, starts[p]))
    records = [record for record in published if record.offset < ends[record.partition]]
    return {
        "records": [seen_of(record) for record in records],
        "ends": ends,
        "starts": starts,
        "synced": [min(pair) for pair in zip(synced, ends, strict=True)],
        "reports": reports,
    }


def read_again(directory: str, partitions: int, read_only: bool = False) -> dict[str, Any]:
    """Open and read all there is, and write nothing."""
    with pylog.open(directory, read_only=read_only) as engine:
        return read_back(engine, partitions)


def committed_offsets(engine: Engine, partitions: int) -> list[int | None]:
    with engine.consumer(group=GROUP, auto_offset_reset="earliest") as consumer:
        return [consumer.committed((TOPIC, p)) for p in range(partitions)]


def probe(engine: Engine, journal: Journal, partitions: int) -> float:
    """Append to and read from every partition; the seconds that it took."""
    began = time.monotonic()
    writer = Writer(engine, journal, random.Random(), partitions)
    for p in range(partitions):
        writer.append(p, 1, 20)
        end = engine.log_end_offset(TOPIC, p)
        last = next(iter(engine.read(TOPIC, p, end - 1)))
        assert last.offset == end - 1
    return time.monotonic() - began
