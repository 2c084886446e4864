"""`pylog copy`: copies a topic into another one, which may have other partitions."""

from __future__ import annotations

import argparse

from pylog.cli.output import Output, counted
from pylog.cli.places import open_engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add both topics and the shape of the new one."""
    parser.add_argument("source")
    parser.add_argument("destination", help="made like the source where it is not there")
    parser.add_argument("-p", "--partitions", type=int, help="of the destination; default: as the source has")


def run(args: argparse.Namespace, out: Output) -> int:
    """Copy what is there now, and say how much that was; once more copies what came since."""
    with open_engine(args.directory, write=True) as engine:
        report = engine.copy_topic(args.source, args.destination, args.partitions)
    out.rows([report._asdict()])
    out.status(f"copied {counted(report.copied, 'record')}")
    return 0
