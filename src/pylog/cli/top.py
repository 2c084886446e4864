"""`pylog top`: the lag of all groups and the rates of writing and consuming, again and again."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple

from pylog.cli.output import Output, as_kafka_writes, table_of
from pylog.cli.places import open_engine
from pylog.errors import ConfigError, UnknownGroupError

if TYPE_CHECKING:
    from pylog.engine import Engine

LEAST_SECONDS = 0.01


class Look(NamedTuple):
    """What one group has of one topic at one moment."""

    state: str
    members: int
    lag: int
    lag_seconds: float
    committed: int
    """Sum of the partitions, as is `end`: their differences in time are rates."""
    end: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how often and how many times."""
    parser.add_argument("-d", dest="seconds", type=float, default=1.0, metavar="S", help="seconds between")
    parser.add_argument(
        "-n", dest="times", type=int, metavar="N", help="print N times and end; default: for ever"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Look, wait, look again, and print what happened in between."""
    if not args.seconds >= LEAST_SECONDS or (args.times is not None and args.times < 1):
        raise ConfigError(f"-d takes {LEAST_SECONDS} seconds or more, -n 1 or more")
    with open_engine(args.directory) as engine:
        if out.on_terminal and not out.json and args.times is None:
            watch(engine, args.seconds)
        before, at = look(engine), time.monotonic()
        for _ in range(args.times) if args.times is not None else iter(int, 1):
            time.sleep(args.seconds)
            now, then = look(engine), time.monotonic()
            out.rows(rates(before, now, then - at), head=as_kafka_writes)
            out.flush()
            before, at = now, then
    return 0


def watch(engine: Engine, seconds: float) -> None:
    """Draw the same table anew until Ctrl-C."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    before, at = look(engine), time.monotonic()
    with Live(Text("looking ..."), console=Console(highlight=False), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(seconds)
            now, then = look(engine), time.monotonic()
            rows = rates(before, now, then - at)
            shown = table_of(rows, head=as_kafka_writes) if rows else Text("no groups")
            live.update(Group(shown, Text("Ctrl-C ends")), refresh=True)
            before, at = now, then


def look(engine: Engine) -> dict[tuple[str, str], Look]:
    """Return how far each group is in each of its topics."""
    found: dict[tuple[str, str], Look] = {}
    for name in engine.list_groups():
        try:
            group = engine.describe_group(name)
        except UnknownGroupError:  # deleted just now
            continue
        for topic in sorted({row.topic for row in group.partitions}):
            rows = [row for row in group.partitions if row.topic == topic]
            found[name, topic] = Look(
                group.state,
                len(group.members),
                sum(row.lag for row in rows),
                max(row.lag_seconds or 0.0 for row in rows),
                sum(row.log_end_offset - row.lag for row in rows),
                sum(row.log_end_offset for row in rows),
            )
    return found


def rates(
    before: dict[tuple[str, str], Look], now: dict[tuple[str, str], Look], seconds: float
) -> list[dict[str, object]]:
    """Return a row for each group and topic; what was not there before did nothing yet."""
    rows: list[dict[str, object]] = []
    for (group, topic), found in now.items():
        earlier = before.get((group, topic), found)
        rows.append(
            {
                "group": group,
                "topic": topic,
                "state": found.state,
                "members": found.members,
                "lag": found.lag,
                "lag_seconds": round(found.lag_seconds, 3),
                "written_per_second": round((found.end - earlier.end) / seconds, 1),
                "consumed_per_second": round((found.committed - earlier.committed) / seconds, 1),
            }
        )
    return rows
