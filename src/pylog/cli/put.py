"""`pylog put`: appends what it reads, one record a line or one JSON object a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO

from pylog.cli.envelope import Envelope, decode
from pylog.cli.output import Output
from pylog.cli.places import open_engine
from pylog.errors import ConfigError, SerializationError

if TYPE_CHECKING:
    from pylog.config import Durability

EXAMPLES = """\
examples:
  echo paid | pylog put orders -k order-7        one record with a key
  pylog put orders -K : < orders.txt             lines of key:value
  pylog cat orders -e -J | pylog -C copy put orders -J   a copy without loss"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the topic, where records come from and what each gets."""
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topic", nargs="?", help="topic; with -J it may come from the records")
    parser.add_argument("file", nargs="?", default="-", help="file to read (default: standard input)")
    parser.add_argument("-p", "--partition", type=int, help="partition (default: by key)")
    parser.add_argument("-k", "--key", help="key of every record")
    parser.add_argument("-K", "--key-delimiter", metavar="DELIM", help="the key is what stands before DELIM")
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="NAME=VALUE", help="header; repeatable"
    )
    parser.add_argument("-Z", "--null", action="store_true", help="an empty value is null")
    parser.add_argument("-J", dest="envelope", action="store_true", help="read the JSON that `cat -J` prints")
    parser.add_argument(
        "--sync", action="store_true", help="on disk before the command ends, whatever the topic says"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no summary")


def run(args: argparse.Namespace, out: Output) -> int:
    """Append the records and say how many there were."""
    out.quiet = args.quiet
    if args.topic is None and not args.envelope:
        raise ConfigError("which topic? `pylog put TOPIC`")
    if args.envelope and (args.key is not None or args.key_delimiter or args.header or args.null):
        raise ConfigError("-J takes keys, headers and nulls from the records: leave -k, -K, -H and -Z out")
    source = nullcontext(sys.stdin.buffer) if args.file == "-" else open(args.file, "rb")  # noqa: SIM115, PTH123
    read = read_envelopes if args.envelope else read_lines
    count = size = 0
    with source as lines, open_engine(args.directory, write=True) as engine:
        durability: Durability | None = "sync" if args.sync else None
        try:
            with engine.producer(durability=durability) as producer:
                for record in read(lines, args):
                    producer.send(
                        record.topic,
                        record.value,
                        record.key,
                        partition=record.partition if args.partition is None else args.partition,
                        timestamp=record.timestamp,
                        headers=record.headers or None,
                    )
                    count += 1
                    size += len(record.value or b"") + len(record.key or b"")
        finally:
            if not args.json:
                out.status(f"{count:,} records, {size:,} bytes")
    if args.json:
        out.json_line({"records": count, "bytes": size})
    return 0


def read_lines(lines: BinaryIO, args: argparse.Namespace) -> Iterator[Envelope]:
    """Make a record of every line."""
    fixed_key = None if args.key is None else args.key.encode("utf-8", "surrogateescape")
    delimiter = (args.key_delimiter or "").encode("utf-8", "surrogateescape")
    headers = [parse_header(text) for text in args.header]
    for line in lines:
        value: bytes | None = line.removesuffix(b"\n")
        key = fixed_key
        if delimiter and value is not None and delimiter in value:
            key, _, value = value.partition(delimiter)
        if args.null and not value:
            value = None
        yield Envelope(args.topic, None, None, key, value, headers)


def read_envelopes(lines: BinaryIO, args: argparse.Namespace) -> Iterator[Envelope]:
    """Make a record of every line of JSON; the topic of the command line goes before that of the record."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = decode(line)
            if not (args.topic or record.topic):
                raise SerializationError("no topic, neither here nor on the command line")
        except SerializationError as error:
            raise SerializationError(f"line {number}: {error}; what stands before it is in") from None
        yield record._replace(topic=args.topic or record.topic)


def parse_header(text: str) -> tuple[str, bytes | None]:
    """Read NAME=VALUE, or NAME alone for a null."""
    name, equals, value = text.partition("=")
    if not name or any("\ud800" <= c <= "\udfff" for c in name):
        raise ConfigError(f"header {text!r}: write NAME=VALUE, or NAME for a null; a name is UTF-8")
    return name, value.encode("utf-8", "surrogateescape") if equals else None
