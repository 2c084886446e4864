"""`pylog topics`: one row a topic."""

from __future__ import annotations

import argparse
from pathlib import Path

from pylog.cli.output import Output
from pylog.cli.places import open_engine, stored_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the data directory is all."""


def run(args: argparse.Namespace, out: Output) -> int:
    """Print name, partitions, records and bytes on disk of every topic."""
    with open_engine(args.directory) as engine:
        rows = []
        for name in engine.list_topics():
            partitions = engine.describe_topic(name).partitions
            rows.append(
                {
                    "topic": name,
                    "partitions": partitions,
                    "records": sum(
                        engine.log_end_offset(name, p) - engine.log_start_offset(name, p)
                        for p in range(partitions)
                    ),
                    "bytes": stored_bytes(Path(args.directory, "topics", name)),
                }
            )
    out.rows(rows)
    if not rows:
        out.status(f"no topics in {args.directory}")
    return 0
