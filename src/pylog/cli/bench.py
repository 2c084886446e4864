"""`pylog bench`: a quick look at what this machine does; `make bench` of the project is the real thing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pylog.cli import ERROR, OK
from pylog.cli.output import Output
from pylog.errors import ConfigError

if TYPE_CHECKING:
    from pylog.engine import Engine

TOPIC = "pylog-bench"
KEYS, KEY_BYTES = 1024, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how much to measure."""
    parser.epilog = "Works in a temporary directory below DIR and removes it."
    parser.add_argument("-n", "--records", type=int, default=1_000_000, help="records (default: 1000000)")
    parser.add_argument("-s", "--size", type=int, default=100, help="bytes of a value (default: 100)")
    parser.add_argument("-p", "--partitions", type=int, default=1, help="partitions (default: 1)")


def run(args: argparse.Namespace, out: Output) -> int:
    """Measure each operation once and print its rate."""
    if args.records < 1 or args.size < 0:
        raise ConfigError("bench takes at least one record and a size of 0 or more")
    import pylog

    rows: list[dict[str, object]] = []
    failed = 0
    with TemporaryDirectory(prefix="pylog-bench-", dir=args.directory) as directory:
        with pylog.open(directory) as engine, out.progress("bench", len(OPERATIONS)) as done:
            for name, (durability, share, operation) in OPERATIONS.items():
                count = max(args.records // share, 1)
                try:
                    rate = count / operation(engine, count, args.size, args.partitions)
                except (pylog.PylogError, ImportError) as error:
                    out.status(f"{name} could not be measured: {error}")
                    failed += 1
                    continue
                rows.append(
                    {
                        "operation": name,
                        "durability": durability,
                        "records": count,
                        "per_second": round(rate),
                        "megabytes_per_second": round(rate * (args.size + KEY_BYTES) / 1e6, 1),
                    }
                )
                done(1)
    out.rows(rows)
    return ERROR if failed else OK


def fresh_topic(engine: Engine, partitions: int) -> None:
    """Begin with an empty topic."""
    if TOPIC in engine.list_topics():
        engine.delete_topic(TOPIC)
    engine.create_topic(TOPIC, partitions=partitions, durability="os")


def keys() -> list[bytes]:
    """Return the keys that the records take in turn."""
    return [b"key%05d" % n for n in range(KEYS)]


def send(engine: Engine, count: int, size: int, partitions: int) -> float:
    """Send one by one through a producer."""
    fresh_topic(engine, partitions)
    value, key = bytes(size), keys()
    begun = time.perf_counter()
    with engine.producer() as producer:
        push = producer.send
        for n in range(count):
            push(TOPIC, value, key[n % KEYS])
    return time.perf_counter() - begun


def poll(engine: Engine, count: int, size: int, partitions: int) -> float:
    """Read back what append_many() left, record by record."""
    begun = time.perf_counter()
    found = 0
    with engine.consumer(auto_offset_reset="earliest") as consumer:
        consumer.assign([(TOPIC, p) for p in range(partitions)])
        while found < count:
            records = consumer.poll(1000, 10.0)
            if not records:
                break
            for record in records:
                found += record.value is not None
    return time.perf_counter() - begun


def append_many(engine: Engine, count: int, size: int, partitions: int) -> float:
    """Append lists of values and keys."""
    fresh_topic(engine, partitions)
    step = 10_000
    values, chosen = [bytes(size)] * step, (keys() * (step // KEYS + 1))[:step]
    begun = time.perf_counter()
    for start in range(0, count, step):
        wanted = min(step, count - start)
        engine.append_many(TOPIC, values[:wanted], keys=chosen[:wanted])
    return time.perf_counter() - begun


def append(engine: Engine, count: int, size: int, partitions: int) -> float:
    """Append one by one, each visible on return."""
    fresh_topic(engine, partitions)
    value = bytes(size)
    begun = time.perf_counter()
    for _ in range(count):
        engine.append(TOPIC, value)
    return time.perf_counter() - begun


def append_synced(engine: Engine, count: int, size: int, partitions: int) -> float:
    """Append one by one, each on disk on return."""
    fresh_topic(engine, partitions)
    value = bytes(size)
    begun = time.perf_counter()
    for _ in range(count):
        engine.append(TOPIC, value, durability="sync")
    return time.perf_counter() - begun


Operation = Callable[["Engine", int, int, int], float]
OPERATIONS: dict[str, tuple[str, int, Operation]] = {
    "send": ("os", 1, send),
    "append_many": ("os", 1, append_many),
    "poll": ("-", 1, poll),
    "append": ("os", 5, append),
    "append synced": ("sync", 500, append_synced),
}
