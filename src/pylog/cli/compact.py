"""`pylog compact`: shows what cleaning would do, and does it with --execute."""

from __future__ import annotations

import argparse

from pylog.cli.output import Output
from pylog.cli.places import open_engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the topic and the word that makes it happen."""
    parser.add_argument("topic", nargs="?", help="default: all topics whose records ever go")
    parser.add_argument("--execute", action="store_true", help="clean; without it only the plan is shown")
    parser.add_argument(
        "--now", action="store_true", help="compact all that is dirty, however young, active segments too"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the plan, or what was done; 1 where a partition could not be cleaned."""
    with open_engine(args.directory, write=True) as engine:
        reports = engine.clean(args.topic, now=args.now, plan=not args.execute)
    out.rows(
        [
            {
                "topic": report.topic,
                "partition": report.partition,
                "log_start_offset": report.log_start_offset,
                "deleted_bytes": report.deleted_bytes,
                "held_bytes": report.held_bytes,
                "held_by": report.held_by,
                "dirty_ratio": round(report.dirty_ratio, 3),
                "bytes_before": report.bytes_before,
                "bytes_after": report.bytes_after if args.execute else None,
                "removed_records": report.removed_records if args.execute else None,
                "error": report.error,
                "done": bool(args.execute),
            }
            for report in reports
        ]
    )
    out.status("cleaned" if args.execute else "nothing was changed; --execute cleans")
    return 1 if any(report.error for report in reports) else 0
