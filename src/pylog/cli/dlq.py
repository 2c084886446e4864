"""`pylog dlq`: list, show, redrive or purge the dead letters of work queues."""

from __future__ import annotations

import argparse
import time
from itertools import islice

from pylog.cli.output import Output, Row, counted
from pylog.cli.places import open_engine
from pylog.cli.queue import find, list_each, rounded, text_of
from pylog.config import check_count
from pylog.queues import DeadLetter, Queue
from pylog.queues.dead_letters import MOST_SHOWN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to do, the queue, and which of its dead letters."""
    parser.add_argument("action", choices=("ls", "show", "redrive", "purge"))
    parser.add_argument("queue", nargs="?", help="the queue that buried them; all of them with ls")
    parser.add_argument("-n", type=int, default=10, metavar="N", help="show: so many; default: 10")
    parser.add_argument("--traceback", action="store_true", help="show: with their tracebacks")
    parser.add_argument(
        "--where", metavar="CEL", help='redrive: those for which it is true: "value.total > 9"'
    )
    parser.add_argument(
        "--to", metavar="TOPIC", help="redrive: not to where they came from, but to this topic"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="redrive: at most so many per second")
    parser.add_argument("--limit", type=int, metavar="N", help="redrive: at most so many")
    parser.add_argument(
        "--execute", action="store_true", help="redrive or purge; without it only the plan is shown"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Do what was asked."""
    if args.action == "ls":
        return list_all(args, out)
    with open_engine(args.directory, write=args.execute) as engine:
        with find(engine, args.queue) as queue:
            if args.action == "show":
                show(queue, args, out)
            elif args.action == "redrive":
                redrive(queue, args, out)
            else:
                purge(queue, args, out)
    return 0


def list_all(args: argparse.Namespace, out: Output) -> int:
    """Print a row for each queue that has dead letters."""
    return list_each(args, out, summary_of, "no dead letters")


def summary_of(queue: Queue) -> Row | None:
    """Return what is shown of a queue's dead letters, None where it has none."""
    reasons = queue.dead_letters.by_reason()
    oldest = queue.dead_letters.oldest()
    if not reasons:
        return None
    return {
        "queue": queue.name,
        "topic": queue.dead_letters.topic,
        "dead_letters": sum(reasons.values()),
        "oldest_age": None if oldest is None else rounded(time.time() - oldest / 1e9),
        "reasons": ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()),
    }


def row_of(letter: DeadLetter) -> dict[str, object]:
    """Return what is shown of a dead letter."""
    return {
        "offset": letter.record.offset,
        "origin": f"{letter.topic}-{letter.partition}@{letter.offset}",
        "reason": letter.reason,
        "attempts": letter.attempts,
        "age": rounded(time.time() - letter.time / 1e9),
        "redrives": letter.redrives,
        "exception": letter.exception,
        "message": letter.message,
        "key": text_of(letter.record.key),
        "value": text_of(letter.record.value),
    }


def show(queue: Queue, args: argparse.Namespace, out: Output) -> None:
    """Print a row for each, oldest burial first."""
    check_count(args.n, "-n", 1, MOST_SHOWN)
    letters = list(islice(queue.dead_letters, args.n))
    rows = [row_of(letter) for letter in letters]
    if args.traceback and out.json:
        rows = [{**row, "traceback": letter.traceback} for row, letter in zip(rows, letters, strict=True)]
    out.rows(rows)
    if args.traceback and not out.json:
        for letter in letters:
            for line in (letter.traceback or "").splitlines():
                out.line(line)


def redrive(queue: Queue, args: argparse.Namespace, out: Output) -> None:
    """Print how many would come back; bring them back where told to."""
    where = None
    if args.where is not None:
        from pylog.filters import expression

        where = expression(args.where)
    done = queue.dead_letters.redrive(
        where=where, to=args.to, rate=args.rate, limit=args.limit, dry_run=not args.execute
    )
    out.rows(
        [
            {
                "redrive": queue.name,
                "to": args.to or "origin",
                "records": done.redriven,
                "left": done.left,
                "done": bool(args.execute),
            }
        ]
    )
    out.status("redriven" if args.execute else "nothing was changed; --execute redrives")


def purge(queue: Queue, args: argparse.Namespace, out: Output) -> None:
    """Print what would be thrown away; do it where told to."""
    records = queue.dead_letters.purge() if args.execute else len(queue.dead_letters)
    out.rows([{"purge": queue.dead_letters.topic, "records": records, "done": bool(args.execute)}])
    out.status(
        f"purged {counted(records, 'dead letter')}"
        if args.execute
        else "nothing was changed; --execute purges"
    )
