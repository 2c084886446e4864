"""`pylog topic skew`: which partitions and keys of a topic get more than their share.

Up to MOST_KEYS different keys of a partition are counted exactly; beyond that those that came least are
forgotten now and then, so that a hot key is found all the same and may be counted too low.
Invariant: nothing is changed, and memory does not depend on the number of keys.
"""

from __future__ import annotations

import argparse
from collections import Counter

from pylog.cli.output import Output
from pylog.cli.places import open_engine
from pylog.engine import Engine

MOST_KEYS = 200_000
HOTTEST = 10


class PartitionCount:
    """What was counted in one partition."""

    def __init__(self) -> None:
        self.records = self.bytes = self.without_key = 0
        self.keys: Counter[bytes] = Counter()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is asked of a topic, and of how much of it."""
    parser.add_argument("action", choices=["skew"], help="skew: show hot partitions and keys")
    parser.add_argument("topic")
    parser.add_argument("--last", type=int, metavar="N", help="only the last N records of each partition")
    parser.add_argument("-n", type=int, default=HOTTEST, metavar="N", help=f"how many keys ({HOTTEST})")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the partitions, then the keys that came most; with --json an object a line, its kind first."""
    with open_engine(args.directory) as engine:
        partitions = engine.describe_topic(args.topic).partitions
        counted = [count(engine, args.topic, number, args.last) for number in range(partitions)]
    records = sum(found.records for found in counted)
    rows = [
        {
            "kind": "partition",
            "partition": number,
            "records": found.records,
            "bytes": found.bytes,
            "keys": len(found.keys),
            "without_key": found.without_key,
            "times_the_mean": round(found.records * partitions / records, 2) if records else 0.0,
        }
        for number, found in enumerate(counted)
    ]
    hottest = sorted(
        ((times, key, number) for number, found in enumerate(counted) for key, times in top(found, args.n)),
        reverse=True,
    )[: args.n]
    keys = [
        {
            "kind": "key",
            "key": key.decode("utf-8", "backslashreplace"),
            "partition": number,
            "records": times,
            "percent": round(100 * times / records, 2),
        }
        for times, key, number in hottest
    ]
    for table in (rows, keys):
        out.rows(table)
    out.status(f"{records:,} records counted")
    return 0


def count(engine: Engine, topic: str, partition: int, last: int | None) -> PartitionCount:
    """Go through a partition, or through its last records."""
    found = PartitionCount()
    place, end = (topic, partition), engine.log_end_offset(topic, partition)
    with engine.consumer(auto_offset_reset="earliest") as consumer:
        consumer.assign([place])
        first = engine.log_start_offset(topic, partition)
        if last is not None:
            first = max(first, end - max(last, 0))
            consumer.seek(place, first)
        for batch in consumer.batches(timeout=0.0):
            begin = int((batch.offsets < first).sum())          # a batch comes whole
            rows = int((batch.offsets < end).sum())
            found.records += rows - begin
            found.bytes += int(batch.value_lengths[begin:rows].clip(0).sum())
            found.bytes += int(batch.key_lengths[begin:rows].clip(0).sum())
            keys = [key for key in batch.keys()[begin:rows] if key is not None]
            found.without_key += rows - begin - len(keys)
            found.keys.update(keys)
            if len(found.keys) > MOST_KEYS:
                found.keys = Counter(dict(found.keys.most_common(MOST_KEYS // 2)))
    return found


def top(found: PartitionCount, number: int) -> list[tuple[bytes, int]]:
    """Return the keys that came most."""
    return found.keys.most_common(number)
