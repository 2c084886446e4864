"""The demo: a year of real flights through an event log, with a producer killed in the middle (`make demo`).

Two producer processes stream the flights that left New York in 2013 into a topic of 4 partitions, keyed by
aircraft, while two consumer processes work out the delays of each carrier. One producer is killed with
SIGKILL on the way and started again: its producer_id tells it where it was. In the end every figure is
checked against a plain fold of the source. Invariant: it ends with 0 only where all of them agree.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import flights as source
from flights import ROWS, Figures, carrier_names, flights, merged, plain_fold

import pylog

TOPIC, COPY = "flights", "flights-at-full-speed"
PARTITIONS, PRODUCERS, CONSUMERS = 4, 2, 2
KILL_AT = 0.4
PACE_ROWS = 200
REPORT_SECONDS = 0.1
SLOWEST = 6

Say = Callable[[str], None]


# ---- the processes ------------------------------------------------------------------------------


def produce(directory: str, number: int, pace: int, report: Connection) -> None:
    """Send every second flight, from where this producer_id had come to."""
    begun, sent = time.monotonic(), 0
    with pylog.open(directory) as engine, engine.producer(producer_id=f"loader-{number}") as producer:
        first = producer.resume_from(TOPIC)
        report.send(first)
        for flight in flights():
            if flight.number < first or flight.number % PRODUCERS != number:
                continue
            producer.send(
                TOPIC,
                flight.line,
                flight.aircraft,
                timestamp=flight.timestamp,
                sequence=flight.number,
            )
            sent += 1
            if pace and sent % PACE_ROWS == 0:
                time.sleep(max(0.0, begun + sent / pace - time.monotonic()))


class Counted(NamedTuple):
    """What a consumer has worked out so far; `seen` has a byte per row and comes with the last one only."""

    number: int
    records: int
    twice: int
    figures: Figures
    seen: bytes


def consume(directory: str, number: int, report: Connection) -> None:
    """Work out the delays in some partitions; ends behind the last record once the parent says so."""
    figures: Figures = {}
    seen = bytearray(ROWS)
    records = twice = 0
    last_report = 0.0
    finish = False
    with pylog.open(directory) as engine, engine.consumer(auto_offset_reset="earliest") as consumer:
        consumer.assign([(TOPIC, p) for p in range(number, PARTITIONS, CONSUMERS)])
        while True:
            found = consumer.poll(1000, REPORT_SECONDS)
            for record in found:
                source.count(figures, record.value or b"")
                row = record.sequence
                twice += row is None or seen[row]
                if row is not None:
                    seen[row] = 1
            records += len(found)
            if time.monotonic() - last_report > REPORT_SECONDS:
                report.send(Counted(number, records, twice, figures, b""))
                last_report = time.monotonic()
            if finish and not found:
                break
            finish = finish or report.poll()
    report.send(Counted(number, records, twice, figures, bytes(seen)))


class Processes:
    """The producers and consumers, and what they last said."""

    def __init__(self, directory: str, pace: int) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.directory, self.pace = directory, pace
        self.producers: list[BaseProcess] = []
        self.resumed: list[int] = [0] * PRODUCERS
        self.consumers: list[tuple[BaseProcess, Connection]] = []
        self.counted: dict[int, Counted] = {}

    def start(self) -> None:
        """Start all of them."""
        for number in range(CONSUMERS):
            ours, theirs = self.context.Pipe()
            process = self.context.Process(target=consume, args=(self.directory, number, theirs))
            process.start()
            theirs.close()
            self.consumers.append((process, ours))
        self.producers = [self.start_producer(number) for number in range(PRODUCERS)]

    def start_producer(self, number: int) -> BaseProcess:
        """Start a producer and learn where it begins."""
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=produce, args=(self.directory, number, self.pace, theirs))
        process.start()
        theirs.close()
        self.resumed[number] = ours.recv()
        return process

    def listen(self, timeout: float) -> None:
        """Take in what the consumers say."""
        open_ends = {id(end): end for _, end in self.consumers}
        for ready in wait(list(open_ends.values()), timeout):
            assert isinstance(ready, Connection)
            try:
                counted: Counted = ready.recv()
            except EOFError:
                continue
            self.counted[counted.number] = counted

    def finish(self) -> None:
        """Let the consumers go on to the end, and wait for them."""
        for _, end in self.consumers:
            end.send("finish")
        while any(not counted.seen for counted in self.counted.values()) or len(self.counted) < CONSUMERS:
            self.listen(1.0)
            if any(process.exitcode not in (None, 0) for process, _ in self.consumers):
                raise SystemExit("a consumer failed")
        for process, _ in self.consumers:
            process.join()

    def stop(self) -> None:
        """Leave nobody behind, whatever happened."""
        for process in [*self.producers, *(consumer for consumer, _ in self.consumers)]:
            if process.is_alive():
                process.kill()
            process.join()


# ---- the story ----------------------------------------------------------------------------------


def stream(processes: Processes, engine: pylog.Engine, screen: Screen) -> None:
    """Run producers and consumers to the end, with a kill on the way."""
    processes.start()
    killed = False
    while any(process.is_alive() for process in processes.producers):
        processes.listen(REPORT_SECONDS)
        there = sum(engine.log_end_offset(TOPIC, p) for p in range(PARTITIONS))
        screen.show(there, processes.counted)
        if not killed and there >= KILL_AT * ROWS:
            killed = True
            victim = processes.producers[0]
            screen.say(f"kill -9 {victim.pid}: producer loader-0 is dead, {there:,} flights are in the log")
            victim.kill()
            victim.join()
            processes.producers[0] = processes.start_producer(0)
            screen.say(f"producer loader-0 is back and resumes at row {processes.resumed[0]:,}")
        if any(process.exitcode not in (None, 0) for process in processes.producers):
            raise SystemExit("a producer failed")
    processes.finish()
    screen.show(ROWS, processes.counted)
    if not killed:
        raise SystemExit("the producers were through before one could be killed: use a slower --pace")


def check(engine: pylog.Engine, processes: Processes, say: Say) -> bool:
    """Hold everything against the source: what the consumers saw, their figures, and the log itself."""
    counted = list(processes.counted.values())
    seen = bytes(a | b for a, b in zip(*(part.seen for part in counted), strict=True))
    rows = {flight.number: flight for flight in flights()}
    wrong = order_wrong = 0
    home: dict[bytes, int] = {}
    for partition in range(PARTITIONS):
        last = [-1] * PRODUCERS
        for record in engine.read(TOPIC, partition):
            flight = rows.pop(record.sequence if record.sequence is not None else -1, None)
            if flight is None:
                wrong += 1
                continue
            same = (record.value, record.key, record.timestamp) == (
                flight.line,
                flight.aircraft,
                flight.timestamp,
            )
            wrong += not same or home.setdefault(flight.aircraft, partition) != partition
            loader = flight.number % PRODUCERS
            order_wrong += flight.number <= last[loader]
            last[loader] = flight.number
    figures, expected = merged([part.figures for part in counted]), plain_fold()
    results = {
        f"the log holds each of the {ROWS:,} flights once, unchanged, by aircraft": not rows and not wrong,
        "each producer's flights are in their order": not order_wrong,
        "the consumers saw every flight": all(seen),
        "the consumers saw no flight twice": not sum(part.twice for part in counted),
        f"the delays of all {len(expected)} carriers equal a plain fold of the source": figures == expected,
    }
    for promise, held in results.items():
        say(f"  {'yes' if held else 'NO '}  {promise}")
    return all(results.values())


def full_speed(engine: pylog.Engine) -> Iterator[tuple[str, int, float]]:
    """Yield name, records and seconds of what the log does when nobody paces it."""
    import numpy  # noqa: F401 - its import is nobody's reading speed

    rows = list(flights())
    values, keys = [flight.line for flight in rows], [flight.aircraft for flight in rows]
    engine.create_topic(COPY, partitions=PARTITIONS)
    begun = time.perf_counter()
    engine.append_many(COPY, values, keys=keys)
    yield "append_many", len(rows), time.perf_counter() - begun
    begun = time.perf_counter()
    with engine.producer() as producer:
        for value, key in zip(values, keys, strict=True):
            producer.send(COPY, value, key)
    yield "producer.send", len(rows), time.perf_counter() - begun
    total = 2 * len(rows)
    with engine.consumer(auto_offset_reset="earliest") as consumer:
        consumer.assign([(COPY, p) for p in range(PARTITIONS)])
        begun, found = time.perf_counter(), 0
        while found < total:
            found += sum(record.value is not None for record in consumer.poll(1000, 1.0))
        yield "poll, every value read", found, time.perf_counter() - begun
        consumer.seek_to_beginning()
        begun, size = time.perf_counter(), 0
        found = 0
        for batch in consumer.batches(timeout=0.0):
            size += int(batch.value_lengths.sum())
            found += len(batch)
            if found == total:
                break
        yield "columnar batches, checksums verified", found, time.perf_counter() - begun


# ---- what is shown ------------------------------------------------------------------------------


class Screen:
    """A progress bar and a live table on a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)
        self.names = carrier_names()
        self.begun = self.last_line = time.monotonic()

    @contextmanager
    def live(self) -> Iterator[Screen]:
        """Keep the picture on the screen while the block runs."""
        from rich.live import Live

        self.picture = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self.picture is None:
            yield self
            return
        with self.picture:
            yield self

    def say(self, text: str) -> None:
        """Say something that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, there: int, counted: dict[int, Counted]) -> None:
        """Show how far everybody is and whose flights are the latest."""
        done = sum(part.records for part in counted.values())
        if self.picture is None:
            if time.monotonic() - self.last_line >= 2 or done == ROWS:
                self.last_line = time.monotonic()
                self.say(f"{self.last_line - self.begun:5.1f} s  {there:,} flights in the log, {done:,} read")
            return
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(title="mean arrival delay, live", title_justify="left", box=None, pad_edge=False)
        for column in ("carrier", "flights", "minutes"):
            table.add_column(column, justify="left" if column == "carrier" else "right", min_width=10)
        figures = merged([part.figures for part in counted.values()])
        for carrier, delays in islice(sorted(figures.items(), key=lambda item: -item[1].mean), SLOWEST):
            table.add_row(self.names.get(carrier, carrier), f"{delays.flights:,}", f"{delays.mean:.1f}")
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            ProgressBar(ROWS, done, width=40),
            Text(f"{there:,} of {ROWS:,} flights in the log, {done:,} read"),
        )
        self.picture.update(Group(progress, table), refresh=True)


NEXT = """
Now look around (the data stay in {directory}):
  {pylog} -C {directory} topics
  {pylog} -C {directory} describe flights
  {pylog} -C {directory} cat flights -e -o -2 -f '%p %o %k  %s\\n'     the last two of each partition
  {pylog} -C {directory} cat flights -e -o s@1380585600000 -c 3        from the 1st of October on
  {pylog} -C {directory} cat flights -e -p 0 -c 1 -J                   one record with everything
  {pylog} -C {directory} dump flights | tail -3                        the batches on disk
  {pylog} -C {directory} verify                                        every byte checked
Break a copy of a segment and see what verify says:
  python tools/damage.py {directory}/topics/flights/0/{segment:020d}.log flip --at 100000 -o /tmp/hurt.log
  {pylog} verify /tmp/hurt.log"""


def main() -> int:
    """Run the demo; return 0 where every figure agrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--pace", type=int, default=12_000, help="flights a second of each producer; 0: no limit"
    )
    parser.add_argument("--directory", type=Path, default=Path("demo-data"), help="made anew by each run")
    args = parser.parse_args()
    directory: Path = args.directory
    if directory.exists():
        if not (directory / "format").exists() and any(directory.iterdir()):
            parser.error(f"{directory} holds something else than a log: choose another --directory")
        shutil.rmtree(directory)
    begun = time.monotonic()
    screen = Screen()
    screen.say(f"{PRODUCERS} producers and {CONSUMERS} consumers, {ROWS:,} flights, {PARTITIONS} partitions")
    if args.pace:
        screen.say(f"each producer holds back to {args.pace:,} flights/s, to be watched; full speed is last")
    processes = Processes(str(directory), args.pace)
    try:
        with pylog.open(directory) as engine:
            engine.create_topic(TOPIC, partitions=PARTITIONS)
            with screen.live():
                stream(processes, engine, screen)
            took = time.monotonic() - screen.begun
            screen.say(f"streamed in {took:.1f} s: {ROWS / took:,.0f} flights/s at the pace of the producers")
            screen.say("is it right?")
            right = check(engine, processes, screen.say)
            screen.say("and at full speed, one process:")
            for name, records, seconds in full_speed(engine):
                screen.say(f"  {records / seconds:12,.0f} records/s  {name}")
            engine.delete_topic(COPY)
    finally:
        processes.stop()
    screen.say(f"{time.monotonic() - begun:.0f} s in all")
    if not right:
        screen.say("the demo found a mistake: please report it")
        return 1
    command = Path(sys.executable).with_name("pylog")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command.name
    screen.say(NEXT.format(directory=directory, pylog=shown, segment=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
