"""`pylog create`: makes a topic, and the data directory where there is none."""

from __future__ import annotations

import argparse
from typing import Any

from pylog.cli.output import Output, counted
from pylog.cli.places import open_engine
from pylog.errors import ConfigError

LISTS = frozenset({"retention_groups"})
"""Options that take several values, with commas between them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add name, shape and configuration."""
    parser.add_argument("topic")
    parser.add_argument("-p", "--partitions", type=int, help="number of partitions (default: 1)")
    parser.add_argument("--partitioner", choices=["murmur2", "xxh3"], help="how keys choose partitions")
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as segment_bytes=1048576",
    )
    parser.add_argument("--if-not-exists", action="store_true", help="take a topic that agrees as it is")


def run(args: argparse.Namespace, out: Output) -> int:
    """Create the topic and show what it became."""
    config: dict[str, Any] = dict(parse_config(text) for text in args.config)
    with open_engine(args.directory, write=True, create=True) as engine:
        there = args.topic in engine.list_topics()
        try:
            topic = engine.create_topic(
                args.topic,
                partitions=args.partitions,
                partitioner=args.partitioner,
                if_exists="compare" if args.if_not_exists else "raise",
                **config,
            )
        except TypeError as error:                  # a word where a number belongs, or the other way round
            raise ConfigError(f"--config: {error}") from None
    if out.json:
        out.json_line({"topic": topic.name, "uuid": topic.uuid, "partitions": topic.partitions})
    else:
        done = "found" if there else "created"
        out.status(f"{done} {topic.name} with {counted(topic.partitions, 'partition')}")
    return 0


def parse_config(text: str) -> tuple[str, int | str | list[str]]:
    """Read KEY=VALUE; whole numbers become int, true and false bool, a,b a list.

    The engine knows which keys there are.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--config {text}: write KEY=VALUE")
    if key in LISTS:
        return key, [item for item in value.split(",") if item]
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, int(value)
    except ValueError:
        return key, value
