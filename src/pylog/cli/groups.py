"""`pylog groups`: one row a consumer group."""

from __future__ import annotations

import argparse

from pylog.cli.output import Output, as_kafka_writes
from pylog.cli.places import open_engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the data directory is all."""


def run(args: argparse.Namespace, out: Output) -> int:
    """Print name, state, members and lag of every group."""
    with open_engine(args.directory) as engine:
        found = [engine.describe_group(name) for name in engine.list_groups()]
    rows = [
        {
            "group": group.group,
            "state": group.state,
            "members": len(group.members),
            "topics": len({row.topic for row in group.partitions}),
            "lag": group.lag,
            "lag_seconds": round(group.lag_seconds, 3),
        }
        for group in found
    ]
    out.rows(rows, head=as_kafka_writes)
    if not rows:
        out.status(f"no groups in {args.directory}")
    return 0
