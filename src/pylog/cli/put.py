"""`pylog put`: appends what it reads, one record a line or one JSON object a line."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

from pylog.cli.envelope import Envelope, decode
from pylog.cli.output import Output, counted
from pylog.cli.places import open_engine
from pylog.errors import ConfigError, SerializationError

if TYPE_CHECKING:
    from pylog.config import Durability
    from pylog.engine import Engine

Pairs = list[tuple[str, bytes | None]]
READ_BYTES = 256 << 10

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
    headers = [parse_header(text) for text in args.header]
    source = nullcontext(sys.stdin.buffer) if args.file == "-" else open(args.file, "rb")  # noqa: SIM115, PTH123
    records = size = number = 0
    with source as stream, open_engine(args.directory, write=True) as engine:
        if args.topic is not None:
            engine.describe_topic(args.topic)
        try:
            with out.progress("put", size_of(stream)) as done:
                for lines in arriving(stream):
                    read, mistake = read_lines(lines, args, headers, number)
                    append(engine, read, args)
                    number += len(lines)
                    records += len(read)
                    size += sum(len(record.value or b"") + len(record.key or b"") for record in read)
                    done(sum(map(len, lines)) + len(lines))
                    if mistake is not None:
                        raise mistake
        finally:
            if not args.json:
                out.status(f"{counted(records, 'record')}, {counted(size, 'byte')}")
    if args.json:
        out.json_line({"records": records, "bytes": size})
    return 0


def size_of(stream: BinaryIO) -> int:
    """Return the bytes of a plain file, 0 for what has no end to be known, as a pipe."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def arriving(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield lines as they arrive, as many as there are: none is held back for others to come."""
    begun: list[bytes] = []
    while data := stream.read1(READ_BYTES):  # type: ignore[attr-defined]
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            begun.append(data)
            continue
        lines = b"".join([*begun, whole]).split(b"\n")
        begun = [rest]
        yield lines
    if last := b"".join(begun):
        yield [last]


def read_lines(
    lines: list[bytes], args: argparse.Namespace, headers: Pairs, before: int
) -> tuple[list[Envelope], SerializationError | None]:
    """Return the records up to the first mistake, and the mistake with the number of its line."""
    if not args.envelope:
        return [parse_line(line, args, headers) for line in lines], None
    read: list[Envelope] = []
    for number, line in enumerate(lines, before + 1):
        if not line.strip():
            continue
        try:
            record = decode(line)
            if not (args.topic or record.topic):
                raise SerializationError("no topic, neither here nor on the command line")
        except SerializationError as error:
            return read, SerializationError(f"line {number}: {error}; what stands before it is in")
        read.append(record)
    return read, None


def parse_line(line: bytes, args: argparse.Namespace, headers: Pairs) -> Envelope:
    """Make a record of a line of text."""
    key = None if args.key is None else args.key.encode("utf-8", "surrogateescape")
    value: bytes | None = line
    if args.key_delimiter:
        delimiter = args.key_delimiter.encode("utf-8", "surrogateescape")
        before, found, behind = line.partition(delimiter)
        key, value = (before, behind) if found else (key, line)
    if args.null and not value:
        value = None
    return Envelope(args.topic, None, None, key, value, headers)


def append(engine: Engine, read: list[Envelope], args: argparse.Namespace) -> None:
    """Append records in their order, those of the same topic and partition by one call."""

    def together(record: Envelope) -> tuple[str, int, bool]:
        partition = record.partition if args.partition is None else args.partition
        return args.topic or record.topic, -1 if partition is None else partition, record.timestamp is None

    durability: Durability | None = "sync" if args.sync else None
    for (topic, partition, now), group in groupby(read, together):
        records = list(group)
        engine.append_many(
            topic,
            [record.value for record in records],
            keys=[record.key for record in records] if any(r.key is not None for r in records) else None,
            partition=None if partition < 0 else partition,
            timestamps=None if now else [record.timestamp for record in records],
            headers=[record.headers for record in records] if any(r.headers for r in records) else None,
            durability=durability,
        )


def parse_header(text: str) -> tuple[str, bytes | None]:
    """Read NAME=VALUE, or NAME alone for a null."""
    name, equals, value = text.partition("=")
    if not name or any("\ud800" <= c <= "\udfff" for c in name):
        raise ConfigError(f"header {text!r}: write NAME=VALUE, or NAME for a null; a name is UTF-8")
    return name, value.encode("utf-8", "surrogateescape") if equals else None
