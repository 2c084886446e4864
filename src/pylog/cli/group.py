"""`pylog group`: describe, delete or reset a consumer group, in the words of Kafka's tool."""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pylog.cli.output import Output, as_kafka_writes, counted
from pylog.cli.places import open_engine
from pylog.errors import ConfigError

if TYPE_CHECKING:
    from pylog.engine import Engine, ResetTarget
    from pylog.groups import GroupDescription
    from pylog.records import TopicPartition

DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the group, what to do with it, and where a reset goes."""
    parser.add_argument("group")
    parser.add_argument("action", nargs="?", choices=("describe", "delete", "reset"), default="describe")
    parser.add_argument("--members", action="store_true", help="describe: one row a member")
    parser.add_argument(
        "--execute", action="store_true", help="delete or reset; without it only a plan is shown"
    )
    parser.add_argument("--force", action="store_true", help="reset also while members live: they begin anew")
    parser.add_argument(
        "--topic",
        action="append",
        metavar="TOPIC[:N,N...]",
        help="reset: a topic or some of its partitions; all of the group's where left out",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--to-earliest", action="store_true", help="to the first records that are there")
    where.add_argument("--to-latest", action="store_true", help="behind the last ones")
    where.add_argument("--to-offset", type=int, metavar="N", help="to this offset")
    where.add_argument("--shift-by", type=int, metavar="N", help="so many on, or back where negative")
    where.add_argument("--to-datetime", metavar="TIME", help="ISO 8601 with a zone: 2026-11-25T08:00:00Z")
    where.add_argument("--by-duration", metavar="DURATION", help="so long before now, as in P7D or PT1H30M")
    where.add_argument(
        "--from-file", metavar="CSV", help="lines of topic,partition,offset, as --export prints"
    )
    parser.add_argument("--export", action="store_true", help="reset: print the plan as --from-file reads it")


def run(args: argparse.Namespace, out: Output) -> int:
    """Do what was asked of the group."""
    if args.action == "describe":
        with open_engine(args.directory) as engine:
            found = engine.describe_group(args.group)
        out.rows(member_rows(found) if args.members else partition_rows(found), head=as_kafka_writes)
        members = counted(len(found.members), "member")
        out.status(f"{found.group}: {found.state}, {members}, generation {found.generation}")
        return 0
    if args.action == "delete":
        return delete(args, out)
    return reset(args, out)


def partition_rows(found: GroupDescription) -> list[dict[str, object]]:
    """Return a row for each partition."""
    members = {member.member_id: member for member in found.members}
    return [
        {
            "group": found.group,
            "topic": row.topic,
            "partition": row.partition,
            "current_offset": row.committed,
            "log_end_offset": row.log_end_offset,
            "lag": row.lag,
            "lag_seconds": None if row.lag_seconds is None else round(row.lag_seconds, 3),
            "consumer_id": row.member_id,
            "host": None if row.member_id is None else members[row.member_id].host,
            "client_id": None if row.member_id is None else members[row.member_id].pid,
            "metadata": row.metadata.decode("utf-8", "backslashreplace"),
        }
        for row in found.partitions
    ]


def member_rows(found: GroupDescription) -> list[dict[str, object]]:
    """Return a row for each member."""
    return [
        {
            "group": found.group,
            "consumer_id": member.member_id,
            "host": member.host,
            "client_id": member.pid,
            "group_instance_id": member.instance_id,
            "partitions": len(member.assignment),
            "assignment": " ".join(f"{topic}-{number}" for topic, number in member.assignment),
        }
        for member in found.members
    ]


def delete(args: argparse.Namespace, out: Output) -> int:
    """Print what would be forgotten; forget it where told to."""
    with open_engine(args.directory, write=args.execute) as engine:
        found = engine.describe_group(args.group)
        if args.execute:
            engine.delete_group(args.group)
    plan = {"delete": args.group, "members": len(found.members), "offsets": len(found.partitions)}
    out.rows([{**plan, "done": bool(args.execute)}])
    out.status("deleted" if args.execute else "nothing was changed; --execute deletes")
    return 0


def reset(args: argparse.Namespace, out: Output) -> int:
    """Print the plan; commit it where told to."""
    to = target(args)
    with open_engine(args.directory, write=args.execute) as engine:
        chosen = None if args.topic is None else partitions_of(engine, args.topic)
        plan = engine.reset_offsets(
            args.group, chosen, to=to, by=args.shift_by, execute=args.execute, force=args.force
        )
    if args.export:
        for change in plan:
            out.line(f"{change.topic},{change.partition},{change.new_offset}")
    else:
        rows = [
            {
                "group": args.group,
                "topic": change.topic,
                "partition": change.partition,
                "current_offset": change.committed,
                "new_offset": change.new_offset,
            }
            for change in plan
        ]
        out.rows(rows, head=as_kafka_writes)
    out.status("reset" if args.execute else "nothing was changed; --execute resets")
    return 0


def target(args: argparse.Namespace) -> ResetTarget | None:
    """Return where the arguments say that the group shall go on; None for --shift-by."""
    if args.to_earliest:
        return "earliest"
    if args.to_latest:
        return "latest"
    if args.to_offset is not None:
        return int(args.to_offset)
    if args.to_datetime is not None:
        try:
            return datetime.fromisoformat(args.to_datetime)
        except ValueError:
            raise ConfigError(f"--to-datetime {args.to_datetime}: write 2026-11-25T08:00:00Z") from None
    if args.by_duration is not None:
        return duration(args.by_duration)
    if args.from_file is not None:
        return offsets_in(Path(args.from_file))
    if args.shift_by is None:
        raise ConfigError("reset needs --to-earliest, --to-latest, --to-offset, --shift-by or another place")
    return None


def duration(text: str) -> timedelta:
    """Return an ISO 8601 duration of days, hours, minutes and seconds."""
    match = DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise ConfigError(f"--by-duration {text}: write P7D, PT1H30M or the like")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    try:
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise ConfigError(f"--by-duration {text} is longer than all time") from None


def offsets_in(path: Path) -> dict[TopicPartition | tuple[str, int], int]:
    """Return the offsets in a file of lines topic,partition,offset."""
    found: dict[TopicPartition | tuple[str, int], int] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                topic, partition, offset = row
                found[topic, int(partition)] = int(offset)
            except ValueError:
                raise ConfigError(f"{path} line {number}: not topic,partition,offset") from None
    return found


def partitions_of(engine: Engine, texts: Sequence[str]) -> list[str | tuple[str, int]]:
    """Return the topics and partitions in texts like `orders` and `orders:0,3`."""
    found: list[str | tuple[str, int]] = []
    for text in texts:
        topic, colon, numbers = text.partition(":")
        engine.describe_topic(topic)  # named before anything else is wrong
        if not colon:
            found.append(topic)
            continue
        try:
            found += [(topic, int(number)) for number in numbers.split(",")]
        except ValueError:
            raise ConfigError(f"--topic {text}: write TOPIC or TOPIC:0,1") from None
    return found
