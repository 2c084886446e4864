"""`pylog alter`: shows what would change of a topic, and changes it with --execute."""

from __future__ import annotations

import argparse
from typing import Any

from pylog.cli.create import parse_config
from pylog.cli.output import Output, shown
from pylog.cli.places import open_engine
from pylog.config import topic_config
from pylog.errors import ConfigError

KEYS_MOVE = "most keys choose another partition from then on: the order per key holds before, and after"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the topic, what is to change and the word that makes it happen."""
    parser.add_argument("topic")
    parser.add_argument("-p", "--partitions", type=int, help="partitions in all; they are never taken away")
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="KEY=VALUE", help="as retention_ms=3600000"
    )
    parser.add_argument("--execute", action="store_true", help="change it; without it only the plan is shown")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print what there is and what there will be; change it where told to."""
    config: dict[str, Any] = dict(parse_config(text) for text in args.config)
    with open_engine(args.directory, write=args.execute) as engine:
        before = engine.describe_topic(args.topic)
        try:
            wanted = topic_config(config, before.config)
        except TypeError as error:                  # a word where a number belongs, or the other way round
            raise ConfigError(f"--config: {error}") from None
        rows = [
            {"option": key, "before": shown(value), "after": shown(getattr(wanted, key))}
            for key, value in before.config.as_dict().items()
            if getattr(wanted, key) != value
        ]
        if args.partitions not in (None, before.partitions):
            if args.partitions < before.partitions:
                raise ConfigError(f"{args.topic} has {before.partitions} partitions: none is taken away")
            rows.insert(0, {"option": "partitions", "before": before.partitions, "after": args.partitions})
            if not args.execute:                    # the engine says so itself where it is done
                out.status(KEYS_MOVE)
        if args.execute:
            if config:
                engine.alter_topic(args.topic, **config)
            if args.partitions is not None:
                engine.create_partitions(args.topic, args.partitions)
    out.rows(rows)
    out.status("changed" if args.execute else "nothing was changed; --execute changes it")
    return 0
