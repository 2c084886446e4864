"""`pylog cat`: prints records as kcat does, from anywhere to anywhere, once or for ever."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pylog.cli import offsets
from pylog.cli.envelope import Source, encode
from pylog.cli.format import make_format
from pylog.cli.output import Output
from pylog.cli.places import open_engine
from pylog.errors import ConfigError

if TYPE_CHECKING:
    from pylog.config import Isolation
    from pylog.engine import Consumer, Engine
    from pylog.records import Record, TopicPartition

POLL_RECORDS = 1000
POLL_SECONDS = 1.0

EXAMPLES = """\
offsets:  beginning, end, N, -N (the last N), s@MS (start at a time), e@MS (stop before it)
format:   %s value  %k key  %p partition  %o offset  %t topic  %T timestamp in ms  %h headers
          %S and %K lengths (-1 for null)  %%  and \\n \\t \\r \\xHH
examples:
  pylog cat orders -e                             everything, then leave
  pylog cat orders -o -10 -e -f '%o %k %s\\n'      the last ten of each partition
  pylog cat orders -o end                         what comes from now on, until Ctrl-C"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the topic, where to start and stop, and how to print."""
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topic")
    parser.add_argument("-p", "--partition", type=int, action="append", help="a partition; repeatable")
    parser.add_argument("-o", "--offset", action="append", default=[], help="where to start or stop")
    parser.add_argument("-c", "--count", type=int, metavar="N", help="leave after N records")
    parser.add_argument("-e", "--exit", action="store_true", help="leave at the end as it is now")
    parser.add_argument("-f", "--format", help="how to print a record (default: the value and a newline)")
    parser.add_argument(
        "-J", dest="envelope", action="store_true", help="print JSON for `put -J` (as --json)"
    )
    parser.add_argument("-K", "--key-delimiter", metavar="DELIM", help="print key and DELIM, too")
    parser.add_argument("-Z", "--null", action="store_true", help="print NULL for a null key or value")
    parser.add_argument("--synced", action="store_true", help="only what a power cut cannot take away")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing about ends")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the records that were asked for."""
    out.quiet = args.quiet
    offsets.check(args.offset)
    if args.count is not None and args.count < 0:
        raise ConfigError("-c takes a number of records from 0 up")
    printer = make_printer(args, out)
    isolation: Isolation = "synced" if args.synced else "published"
    with open_engine(args.directory) as engine:
        partitions = chosen_partitions(engine, args.topic, args.partition)
        with engine.consumer(isolation=isolation) as consumer:
            wanted = offsets.ranges(consumer, partitions, args.offset, stop_at_end=args.exit)
            found = islice(records(consumer, wanted, out), args.count)
            with out.progress("cat", how_many(wanted, args.count) if out.into_file else 0) as done:
                for record in found:
                    printer(record)
                    done(1)
    return 0


def how_many(wanted: dict[TopicPartition, offsets.Range], most: int | None) -> int:
    """Return how many offsets will be printed, 0 where that has no end."""
    if any(span.stop is None for span in wanted.values()):
        return most or 0
    there = sum(max(0, (span.stop or 0) - span.start) for span in wanted.values())
    return there if most is None else min(there, most)


def chosen_partitions(engine: Engine, topic: str, chosen: list[int] | None) -> list[TopicPartition]:
    """Return the partitions to print, checked against those that there are."""
    from pylog.records import TopicPartition

    there = engine.describe_topic(topic).partitions
    for number in chosen or ():
        if not 0 <= number < there:
            raise ConfigError(f"{topic} has no partition {number}: there are 0 to {there - 1}")
    return [TopicPartition(topic, number) for number in sorted(set(chosen or range(there)))]


def make_printer(args: argparse.Namespace, out: Output) -> Callable[[Source], None]:
    """Return what prints one record."""
    if args.envelope or args.json:
        return lambda record: out.json_line(encode(record))
    text = args.format
    if text is None:
        delimiter = (args.key_delimiter or "").replace("%", "%%").replace("\\", "\\\\")
        text = f"%k{delimiter}%s\\n" if args.key_delimiter else "%s\\n"
    render = make_format(text, null=b"NULL" if args.null else b"", escape=out.on_terminal)
    return lambda record: out.data(render(record))


def records(consumer: Consumer, wanted: dict[TopicPartition, offsets.Range], out: Output) -> Iterator[Record]:
    """Yield records of the ranges as they come; ends when every range with a stop is through."""
    todo = {p: span for p, span in wanted.items() if span.stop is None or span.start < span.stop}
    at_end = False
    if todo:
        consumer.assign(todo)
    for partition, span in todo.items():
        consumer.seek(partition, span.start)
    while todo:
        found = consumer.poll(POLL_RECORDS, POLL_SECONDS if at_end else 0)
        for record in found:
            stop = wanted[record.topic, record.partition].stop  # type: ignore[index]  # a NamedTuple equals its tuple
            if stop is None or record.offset < stop:
                yield record
        for partition, span in list(todo.items()):
            if span.stop is not None and consumer.position(partition) >= span.stop:
                del todo[partition]
                consumer.pause([partition])
        if not found and not at_end:
            at_end = True
            if any(span.stop is None for span in todo.values()):
                out.status("reached the end, waiting for more; Ctrl-C leaves")
        out.flush()
