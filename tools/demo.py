"""The demo: a year of real flights through an event log, with processes killed in the middle (`make demo`).

Two producer processes stream the flights that left New York in 2013 into a topic of 4 partitions, keyed by
aircraft, while the members of a consumer group work out the delays of each carrier: two at first, a third one
joins on the way. One producer is killed with SIGKILL and started again: its producer_id tells it where it
was. One consumer is killed: the others have its partitions at once. In the end every figure is checked
against a plain fold of the source. Invariant: it ends with 0 only where all of them agree.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import demo_aircraft
from demo_cast import CONSUMERS, DELAYS, GROUP, PARTITIONS, POLL_SECONDS, PRODUCERS, TOPIC, Account, Processes
from demo_screen import Screen
from flights import ROWS, flights, plain_fold

import pylog

COPY = "flights-at-full-speed"
JOIN_AT, KILL_PRODUCER_AT, KILL_CONSUMER_AT = 0.2, 0.4, 0.6
LONGEST_REBALANCE = 30.0

Say = Callable[[str], None]


# ---- the story ----------------------------------------------------------------------------------


class Story:
    """Everybody runs to the end, and on the way one joins and two are killed."""

    def __init__(self, processes: Processes, engine: pylog.Engine, screen: Screen) -> None:
        self.processes, self.engine, self.screen = processes, engine, screen
        self.account = Account(engine)
        self.events = [
            (JOIN_AT, self.join),
            (KILL_PRODUCER_AT, self.kill_a_producer),
            (KILL_CONSUMER_AT, self.kill_a_consumer),
        ]
        self.third = self.killed = ""
        self.taken_over_ms = 0

    def run(self) -> None:
        """Tell it."""
        processes, screen = self.processes, self.screen
        processes.start()
        self.settle("the group shares the partitions")
        while any(process.is_alive() for process in processes.producers):
            there = self.show()
            if self.events and there >= self.events[0][0] * ROWS:
                self.events.pop(0)[1]()
            if any(process.exitcode not in (None, 0) for process in processes.producers):
                raise SystemExit("a producer failed")
        processes.finish(self.account)
        screen.show(ROWS, self.account.figures, self.account.flights)
        if self.events:
            raise SystemExit("the producers were through too soon: use a slower --pace")

    def show(self) -> int:
        """Take in what was counted and show it; the flights that are in the log."""
        self.account.listen(POLL_SECONDS)
        there = sum(self.engine.log_end_offset(TOPIC, p) for p in range(PARTITIONS))
        self.screen.show(there, self.account.figures, self.account.flights)
        return there

    def settle(self, what: str) -> dict[str, list[int]]:
        """Wait until the group has settled, and show who reads what."""
        until = time.monotonic() + LONGEST_REBALANCE
        while not (reads := self.processes.readers(self.engine)):
            if time.monotonic() > until:
                raise SystemExit("the group does not settle")
            time.sleep(0.002)
        self.screen.readers(reads, what)
        return reads

    def join(self) -> None:
        """One more consumer takes its share."""
        self.third = self.processes.start_consumer()
        self.settle(f"{self.third} joins")

    def kill_a_producer(self) -> None:
        """Kill one and start it again."""
        processes, victim = self.processes, self.processes.producers[0]
        self.screen.say(f"kill -9 {victim.pid}: producer loader-0 is dead")
        victim.kill()
        victim.join()
        processes.producers[0] = processes.start_producer(0)
        self.screen.say(f"producer loader-0 is back and resumes at row {processes.resumed[0]:,}")

    def kill_a_consumer(self) -> None:
        """Kill one: what it had is with the others at once."""
        self.killed = next(iter(self.processes.consumers))
        victim = self.processes.consumers[self.killed][0]
        began = time.monotonic()
        victim.kill()
        victim.join()
        self.settle(f"kill -9 {victim.pid}: {self.killed} is dead")
        self.taken_over_ms = int(1000 * (time.monotonic() - began))
        self.screen.say(f"what it had was with the others after {self.taken_over_ms} ms")


def check(engine: pylog.Engine, story: Story, say: Say) -> bool:
    """Hold everything against the source: what the consumers counted, and the log itself."""
    account = story.account
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
    expected = plain_fold()
    lag = sum(row.lag for row in engine.describe_group(GROUP).partitions)
    results = {
        f"the log holds each of the {ROWS:,} flights once, unchanged, by aircraft": not rows and not wrong,
        "each producer's flights are in their order": not order_wrong,
        "the consumers counted every flight": all(account.seen[:ROWS]) and lag == 0,
        "the consumers counted no flight twice": not account.twice and account.flights == ROWS,
        f"{len(account.by)} consumers did it, {story.third} and the killed {story.killed} too": (
            len(account.by) == CONSUMERS + 1 and {story.third, story.killed} <= set(account.by)
        ),
        f"the delays of all {len(expected)} carriers equal a plain fold of the source": (
            account.figures == expected
        ),
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


# ---- the whole of it -----------------------------------------------------------------------------

NEXT = """
Now look around (the data stay in {directory}):
  {pylog} -C {directory} topics
  {pylog} -C {directory} describe flights
  {pylog} -C {directory} cat flights -e -o -2 -f '%p %o %k  %s\\n'     the last two of each partition
  {pylog} -C {directory} cat flights -e -o s@1380585600000 -c 3        from the 1st of October on
  {pylog} -C {directory} cat flights -e -p 0 -c 1 -J                   one record with everything
  {pylog} -C {directory} group delays-by-carrier                       how far the group came
  {pylog} -C {directory} cat delays -e -o -1                           what a consumer counted last
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
            engine.create_topic(DELAYS)
            story = Story(processes, engine, screen)
            with screen.live():
                story.run()
            took = time.monotonic() - screen.begun
            screen.say(f"streamed in {took:.1f} s: {ROWS / took:,.0f} flights/s at the pace of the producers")
            screen.say("is it right?")
            right = check(engine, story, screen.say)
            screen.say("the same flights as events of each aircraft, with a read model in SQLite:")
            right = demo_aircraft.tell(engine, screen.say) and right
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
