"""`pylog delete`: shows what would go, and deletes with --execute."""

from __future__ import annotations

import argparse
from pathlib import Path

from pylog.cli.output import Output
from pylog.cli.places import open_engine, stored_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the topic and the word that makes it happen."""
    parser.add_argument("topic")
    parser.add_argument("--execute", action="store_true", help="delete; without it only the plan is shown")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the plan; delete where told to."""
    with open_engine(args.directory, write=args.execute) as engine:
        partitions = engine.describe_topic(args.topic).partitions
        plan = {
            "delete": args.topic,
            "partitions": partitions,
            "records": sum(
                engine.log_end_offset(args.topic, p) - engine.log_start_offset(args.topic, p)
                for p in range(partitions)
            ),
            "bytes": stored_bytes(Path(args.directory, "topics", args.topic)),
        }
        if args.execute:
            engine.delete_topic(args.topic)
    out.rows([{**plan, "done": bool(args.execute)}])
    out.status("deleted" if args.execute else "nothing was changed; --execute deletes")
    return 0
