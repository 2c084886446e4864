"""pylog backup: a consistent copy of a data directory, which opening it restores."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pylog.cli.output import Output, counted
from pylog.cli.places import open_engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pylog backup`."""
    parser.add_argument("destination", help="a directory that does not exist yet")


def run(args: argparse.Namespace, out: Output) -> int:
    """Back the directory up and say what the copy holds."""
    with open_engine(args.directory) as engine:
        report = engine.backup(args.destination)
    if out.json:
        out.json_line(asdict(report))
    else:
        out.status(
            f"{report.path}: {counted(report.records, 'record')} in {counted(report.topics, 'topic')}, "
            f"offsets of {counted(report.groups, 'group')}; "
            f"{report.linked_bytes:,} bytes linked, {report.copied_bytes:,} copied"
        )
    return 0
