"""`pylog describe`: a topic's configuration, and one row a partition."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from pylog.cli.output import Output, plain, shown
from pylog.cli.places import open_engine, segments_of, stored_bytes
from pylog.engine import Engine
from pylog.errors import UnknownGroupError
from pylog.records import TopicDescription

LARGEST_OFFSET = (1 << 63) - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the topic."""
    parser.add_argument("topic")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the topic; with --json one object that holds everything."""
    with open_engine(args.directory) as engine:
        topic = engine.describe_topic(args.topic)
        consumed = consumed_offsets(engine, topic)
        partitions = [
            {
                "partition": number,
                "log_start_offset": engine.log_start_offset(args.topic, number),
                "log_end_offset": engine.log_end_offset(args.topic, number),
                "synced_offset": engine.synced_offset(args.topic, number),
                **({"consumed_offset": consumed[number]} if consumed else {}),
                **files_of(Path(args.directory, "topics", args.topic, str(number))),
            }
            for number in range(topic.partitions)
        ]
    facts: dict[str, object] = {
        "topic": topic.name,
        "uuid": topic.uuid,
        "partitions": topic.partitions,
        "partitioner": topic.partitioner,
    }
    if out.json:
        out.json_line({**facts, "config": topic.config.as_dict(), "partition_list": partitions})
        return 0
    options = {**facts, **topic.config.as_dict()}
    out.rows([{"option": name, "value": plain(shown(value))} for name, value in options.items()])
    out.rows(partitions)
    return 0


def files_of(partition: Path) -> dict[str, int]:
    """Count the segments of a partition and the bytes that its files take on disk."""
    return {"segments": len(segments_of(partition)), "bytes": stored_bytes(partition)}


def consumed_offsets(engine: Engine, topic: TopicDescription) -> list[int]:
    """Return how far all groups that retention waits for have come in each partition; [] without any."""
    groups = topic.config.retention_groups
    found = [LARGEST_OFFSET] * topic.partitions
    for group in groups:
        committed = [0] * topic.partitions
        with suppress(UnknownGroupError):
            for row in engine.describe_group(group).partitions:
                if row.topic == topic.name:
                    committed[row.partition] = row.committed or 0
        found = [min(pair) for pair in zip(found, committed, strict=True)]
    return found if groups else []
