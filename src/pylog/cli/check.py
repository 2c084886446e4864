"""`pylog check lag`: for a monitor, whose alarm is the exit code."""

from __future__ import annotations

import argparse

from pylog.cli import CHECK_FAILED, OK
from pylog.cli.group import partition_rows
from pylog.cli.output import Output, as_kafka_writes, counted
from pylog.cli.places import open_engine
from pylog.errors import ConfigError
from pylog.groups import PartitionLag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is checked, of whom, and the limits."""
    parser.add_argument("what", choices=("lag",))
    parser.add_argument("--group", action="append", help="check this group (may be repeated); default: all")
    parser.add_argument("--max-records", type=int, metavar="N", help="most records that a partition may lag")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="longest that a record may wait")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the partitions that lag beyond a limit; 3 where there are some."""
    if args.max_records is None and args.max_seconds is None:
        raise ConfigError("check lag needs a limit: --max-records, --max-seconds or both")
    with open_engine(args.directory) as engine:
        found = [engine.describe_group(name) for name in args.group or engine.list_groups()]
    late: list[dict[str, object]] = []
    for group in found:
        for row, lag in zip(partition_rows(group), group.partitions, strict=True):
            if is_late(lag, args.max_records, args.max_seconds):
                late.append(row)
    out.rows(late, head=as_kafka_writes)
    out.status(f"{counted(len(late), 'partition')} of {counted(len(found), 'group')} beyond the limit")
    return CHECK_FAILED if late else OK


def is_late(lag: PartitionLag, max_records: int | None, max_seconds: float | None) -> bool:
    """Return whether a partition lags beyond a limit; one whose next record cannot be read does in time."""
    if max_records is not None and lag.lag > max_records:
        return True
    return max_seconds is not None and (lag.lag_seconds is None or lag.lag_seconds > max_seconds)
