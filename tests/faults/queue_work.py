"""What processes do to a queue while they are killed: work it, hold it open, drain it. Jobs of a Zygote.

Invariant: what the journal says is said before it is done (acking, moving) or after (acked, moved, synced).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pylog


def create(directory: str, records: int) -> None:
    with pylog.open(directory) as engine:
        engine.create_topic("jobs", durability="os")
        engine.create_topic("dead")
        keys = [b"%d" % (i % 50) if i % 3 else None for i in range(records)]
        engine.append_many("jobs", [b"%d" % i for i in range(records)], keys, durability="sync")
        options: Any = {"order": "key", "visibility_timeout": 3600.0}
        engine.queue_source("jobs", **options)


def say(journal: str, word: str, leases: list[Any]) -> None:
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word} {' '.join(str(lease.record.offset) for lease in leases)}\n".encode())
    os.close(fd)


def work(directory: str, journal: str, most: int) -> None:
    """Lease, ack one by one and together, nack, release, finish in transactions, sync; until it is empty."""
    with pylog.open(directory) as engine:
        source: Any = engine.queue_source("jobs")
        while leases := source.lease(most, timeout=0.05, start=False):
            for lease in leases[: len(leases) // 2]:
                source.start(lease)
            source.extend(leases[0])
            source.nack(leases.pop())
            if leases:
                source.nack(leases.pop(), delay=0.001)
            source.release(leases[-3:])
            del leases[-3:]
            for some in (leases[:3], leases[3:6], leases[6:]):
                say(journal, "acking", some)
                if some is leases[3:6]:
                    for lease in some:
                        source.ack(lease)
                else:
                    assert source.ack_many(some) == []
                say(journal, "acked", some)
            source.sync()
            say(journal, "synced", [])
            finish(engine, source, journal)


def finish(engine: Any, source: Any, journal: str) -> None:
    """Move two records to another topic, each once."""
    leases = source.lease(2)
    say(journal, "moving", leases)
    with engine.transaction() as transaction:
        for lease in leases:
            transaction.append("dead", b"%d" % lease.record.offset)
        transaction.ack(leases)
    say(journal, "moved", leases)


def hold(directory: str, ready: str) -> None:
    """Live with the table open, and leave it to others to mend it."""
    with pylog.open(directory) as engine:
        engine.queue_source("jobs").counts()
        Path(ready).touch()
        while True:
            time.sleep(0.05)


def drain(directory: str, lock_timeout: float = 10.0) -> dict[str, Any]:
    """Work the queue until nothing is left; what came, in its order."""
    with pylog.open(directory, lock_timeout=lock_timeout) as engine:
        source: Any = engine.queue_source("jobs")
        came = []
        try:
            while leases := source.lease(100, timeout=0.1):
                came += [lease.record.offset for lease in leases]
                assert source.ack_many(leases) == []
        except pylog.LockTimeoutError as error:
            return {"stuck": error.pid}
        return {
            "came": came,
            "dead": [int(record.value or b"") for record in engine.read("dead")],
            "counts": list(source.counts()[0][1:5]),
            "began": source._table(0).began,
        }
