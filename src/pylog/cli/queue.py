"""`pylog queue`: list, show, peek at or purge work queues."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

from pylog.cli.output import Output, Row, counted
from pylog.cli.places import open_engine
from pylog.errors import ConfigError, PylogError, UnknownTopicError
from pylog.queue_options import DeliveryState

if TYPE_CHECKING:
    from pylog.engine import Engine
    from pylog.queues import Queue

MOST_VALUE_BYTES = 100
STATES = tuple(state for state in get_args(DeliveryState) if state != "finished")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do, the queue, and how much to show."""
    parser.add_argument("action", choices=("ls", "show", "peek", "purge"))
    parser.add_argument("queue", nargs="?", help="its name; all of them with ls")
    parser.add_argument("-n", type=int, default=10, metavar="N", help="peek: at so many records; default: 10")
    parser.add_argument("--state", choices=STATES, help="peek: at records in this state")
    parser.add_argument("--execute", action="store_true", help="purge; without it only the plan is shown")


def run(args: argparse.Namespace, out: Output) -> int:
    """Do what was asked."""
    if args.action == "ls":
        return list_all(args, out)
    with open_engine(args.directory, write=args.action == "purge" and args.execute) as engine:
        with find(engine, args.queue) as queue:
            if args.action == "show":
                show(queue, out)
            elif args.action == "peek":
                peek(queue, args, out)
            else:
                purge(queue, args, out)
    return 0


def find(engine: Engine, name: str | None) -> Queue:
    """Open a queue that is there. Raises UnknownTopicError."""
    if name is None:
        raise ConfigError("which queue? `pylog queue ls` lists them")
    if name not in engine.list_queues():
        raise UnknownTopicError(f"there is no queue {name!r}")
    return engine.queue(name)


def list_all(args: argparse.Namespace, out: Output) -> int:
    """Print a row for each queue."""
    return list_each(args, out, row_of, "no queues")


def row_of(queue: Queue) -> Row:
    """Return what is shown of a queue."""
    ages = [queue.oldest_age(level) for level in range(queue.priorities)]
    return {
        "queue": queue.name,
        "topic": queue.topic,
        "levels": queue.priorities,
        **{state: queue.qsize(state) for state in STATES},
        "oldest_age": rounded(max((age for age in ages if age is not None), default=None)),
        "dead_letters": len(queue.dead_letters),
    }


def list_each(
    args: argparse.Namespace, out: Output, row: Callable[[Queue], Row | None], nothing: str
) -> int:
    """Print a row for each queue that has one; one that cannot be opened does not hide the others.

    Raises:
        PylogError: why the first of these could not; after the rows.
    """
    rows: list[Row] = []
    failed: list[PylogError] = []
    with open_engine(args.directory) as engine:
        for name in engine.list_queues():
            try:
                with engine.queue(name) as queue:
                    found = row(queue)
            except PylogError as error:
                error.add_note(f"queue {name!r} is left out")
                failed.append(error)
                continue
            if found is not None:
                rows.append(found)
    out.rows(rows)
    if failed:
        raise failed[0]
    if not rows:
        out.status(f"{nothing} in {args.directory}")
    return 0


def show(queue: Queue, out: Output) -> None:
    """Print a row for each level, the most urgent first, and what is stored with the queue."""
    rows = [
        {
            "queue": queue.name,
            "level": counts.level,
            **{state: getattr(counts, state) for state in (*STATES, "finished")},
            "oldest_age": rounded(queue.oldest_age(counts.level)),
        }
        for counts in sorted(queue.counts(), reverse=True)
    ]
    out.rows(rows)
    options = {"topic": queue.topic, "dead_letter": queue.dead_letters.topic, **asdict(queue.source.config)}
    out.status(", ".join(f"{name}={value}" for name, value in options.items()))
    due = queue.source.next_due()
    if due is not None:
        out.status(f"the next delayed record is due in {due / 1e9 - time.time():.3g} s")


def peek(queue: Queue, args: argparse.Namespace, out: Output) -> None:
    """Print a row for each record, and change nothing."""
    now = time.time()
    out.rows(
        [
            {
                "partition": entry.record.partition,
                "offset": entry.record.offset,
                "state": entry.state,
                "deliveries": entry.delivery_count,
                "due_in": None if entry.due is None else rounded(entry.due / 1e9 - now),
                "key": text_of(entry.record.key),
                "value": text_of(entry.record.value),
            }
            for entry in queue.peek(args.n, args.state)
        ]
    )


def purge(queue: Queue, args: argparse.Namespace, out: Output) -> None:
    """Print what would be finished; finish it where told to."""
    records = queue.purge() if args.execute else queue.qsize()
    out.rows([{"purge": queue.name, "records": records, "done": bool(args.execute)}])
    if args.execute:
        out.status(f"purged {counted(records, 'record')}; what is in flight was left alone")
    else:
        out.status("nothing was changed; --execute purges")


def rounded(seconds: float | None) -> float | None:
    """Return seconds as they are shown."""
    return None if seconds is None else round(seconds, 3)


def text_of(data: bytes | None) -> str | None:
    """Return the beginning of a key or value as text."""
    if data is None:
        return None
    text = data[:MOST_VALUE_BYTES].decode("utf-8", "backslashreplace")
    return text if len(data) <= MOST_VALUE_BYTES else f"{text}... ({len(data)} bytes)"
