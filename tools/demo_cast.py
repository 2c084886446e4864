"""Who plays in the demo: processes that produce flights, and members of a group that count them.

A consumer counts what it polled in one transaction with its offsets, so that a flight counts once whoever is
killed. Invariant: nobody is left behind, whatever happened.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from array import array
from collections import defaultdict
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import flights as source
from flights import ROWS, Delays, Figures, flights

import pylog

TOPIC, DELAYS, GROUP = "flights", "delays", "delays-by-carrier"
PARTITIONS, PRODUCERS, CONSUMERS = 4, 2, 2
PACE_ROWS = 200
POLL_SECONDS = 0.1


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


def consume(directory: str, name: str, told: Connection) -> None:
    """Count the flights of some partitions; ends behind the last one once the parent says so."""
    with (
        pylog.open(directory) as engine,
        engine.consumer(TOPIC, group=GROUP, auto_offset_reset="earliest") as consumer,
    ):
        finish = False
        while True:
            records = consumer.poll(1000, POLL_SECONDS)
            if records:
                count(engine, consumer, name, records)
            elif finish:
                return
            finish = finish or told.poll()


def count(engine: pylog.Engine, consumer: pylog.Consumer, name: str, records: list[pylog.Record]) -> None:
    """Append what the records add to the figures, and commit their offsets: both or neither."""
    figures: Figures = {}
    rows = array("I")
    for record in records:
        source.count(figures, record.value or b"")
        rows.append(ROWS if record.sequence is None else record.sequence)
    added = {carrier: [one.flights, one.arrived, one.minutes, one.worst] for carrier, one in figures.items()}
    with engine.transaction() as transaction:
        headers = {"rows": rows.tobytes()}
        transaction.append(DELAYS, json.dumps(added).encode(), name.encode(), headers=headers)
        transaction.commit_offsets(consumer)


class Account:
    """What all consumers have counted so far, as the topic DELAYS tells it."""

    def __init__(self, engine: pylog.Engine) -> None:
        self.figures: Figures = {}
        self.seen = bytearray(ROWS + 1)
        self.twice = 0
        self.by: dict[str, int] = defaultdict(int)
        self._consumer = engine.consumer(DELAYS, auto_offset_reset="earliest")

    @property
    def flights(self) -> int:
        """How many were counted."""
        return sum(self.by.values())

    def listen(self, timeout: float) -> None:
        """Take in what the consumers have committed since."""
        for record in self._consumer.poll(1000, timeout):
            rows = array("I", dict(record.headers)["rows"] or b"")
            for row in rows:
                self.twice += self.seen[row]
                self.seen[row] = 1
            self.by[(record.key or b"").decode()] += len(rows)
            for carrier, counted in json.loads(record.value or b"{}").items():
                self.figures.setdefault(carrier, Delays()).merge(Delays(*counted))


class Processes:
    """The producers and consumers."""

    def __init__(self, directory: str, pace: int) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.directory, self.pace = directory, pace
        self.producers: list[BaseProcess] = []
        self.resumed: list[int] = [0] * PRODUCERS
        self.consumers: dict[str, tuple[BaseProcess, Connection]] = {}

    def start(self) -> None:
        """Start those that are there from the beginning."""
        for _ in range(CONSUMERS):
            self.start_consumer()
        self.producers = [self.start_producer(number) for number in range(PRODUCERS)]

    def start_consumer(self) -> str:
        """Start one more member of the group; its name."""
        name = f"consumer {len(self.consumers) + 1}"
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=consume, args=(self.directory, name, theirs))
        process.start()
        theirs.close()
        self.consumers[name] = (process, ours)
        return name

    def start_producer(self, number: int) -> BaseProcess:
        """Start a producer and learn where it begins."""
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=produce, args=(self.directory, number, self.pace, theirs))
        process.start()
        theirs.close()
        self.resumed[number] = ours.recv()
        return process

    def readers(self, engine: pylog.Engine) -> dict[str, list[int]]:
        """Return which partitions each living consumer reads, once the group has settled; {} before."""
        try:
            found = engine.describe_group(GROUP)
        except pylog.UnknownGroupError:
            return {}
        names = {process.pid: name for name, (process, _) in self.consumers.items() if process.is_alive()}
        reads = {names[member.pid]: member.assignment for member in found.members if member.pid in names}
        places = [place.partition for assignment in reads.values() for place in assignment]
        if found.state != "stable" or len(reads) < len(names) or sorted(places) != list(range(PARTITIONS)):
            return {}
        return {name: [place.partition for place in assignment] for name, assignment in sorted(reads.items())}

    def finish(self, account: Account) -> None:
        """Let the consumers go on to the end, and wait for them."""
        for process, end in self.consumers.values():
            if process.is_alive():
                end.send("finish")
        for name, (process, _) in self.consumers.items():
            process.join()
            if process.exitcode not in (0, -9):
                raise SystemExit(f"{name} failed")
        while account.flights < ROWS:
            before = account.flights
            account.listen(5.0)
            if account.flights == before:
                return

    def stop(self) -> None:
        """Leave nobody behind, whatever happened."""
        for process in [*self.producers, *(consumer for consumer, _ in self.consumers.values())]:
            if process.is_alive():
                process.kill()
            process.join()
