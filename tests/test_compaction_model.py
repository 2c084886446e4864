"""Random appends, cleanings and deletions against a dict: last values are there, what stays is unchanged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from clocks import TurnedClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oracle_partition import read_partition

import pylog
from pylog.embedded.engine import EmbeddedEngine

Row = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
Given = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]] | None]

keys = st.none() | st.integers(0, 12).map(lambda n: b"key %d" % n)
values = st.none() | st.binary(max_size=40) | st.integers(1, 3000).map(lambda n: b"v" * n)
headers = st.none() | st.lists(st.tuples(st.text(max_size=4), st.none() | st.binary(max_size=4)), max_size=3)
records = st.tuples(keys, values, headers)


def last_values(rows: list[Row]) -> dict[bytes, bytes]:
    """What a table of the latest values is, to whoever reads the rows in order."""
    table: dict[bytes, bytes] = {}
    for _, _, key, value, _ in rows:
        if key is not None:
            table.pop(key, None)
            if value is not None:
                table[key] = value
    return table


class CompactedLog(RuleBasedStateMachine):
    """One compacted partition of small segments, cleaned by one engine and read by another."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="pylog-model-"))
        self.clock = TurnedClock()
        self.appended: list[Row] = []
        self.start = 0

    @initialize(codec=st.sampled_from(["none", "zstd"]))
    def begin(self, codec: str) -> None:
        self.engine: pylog.Engine = self.open()
        self.engine.create_topic(
            "t",
            segment_bytes=16 << 10,
            cleanup_policy="compact",
            compression_type=codec,  # type: ignore[arg-type]
            durability="os",
        )
        self.other: pylog.Engine = self.open()

    def open(self) -> pylog.Engine:
        return EmbeddedEngine(self.place / "data", clock=self.clock)

    def teardown(self) -> None:
        for name in ("engine", "other"):
            if hasattr(self, name):
                getattr(self, name).close()
        shutil.rmtree(self.place)

    def note(self, offset: int, timestamp: int, record: Given) -> None:
        key, value, headers = record
        self.appended.append((offset, timestamp, key, value, tuple(headers or ())))

    @rule(record=records)
    def append(self, record: Given) -> None:
        key, value, headers = record
        timestamp = self.clock.time_ns()
        found = self.engine.append("t", value, key, headers=headers, timestamp=timestamp)
        self.note(found.offset, timestamp, record)

    @rule(many=st.lists(records, min_size=1, max_size=60))
    def append_many(self, many: list[Given]) -> None:
        stamps = [self.clock.time_ns() + number for number in range(len(many))]
        found = self.engine.append_many(
            "t",
            [value for _, value, _ in many],
            [key for key, _, _ in many],
            headers=[headers for _, _, headers in many],
            timestamps=stamps,
        )
        for place, stamp, record in zip(found, stamps, many, strict=True):
            self.note(place.offset, stamp, record)

    @rule()
    def clean(self) -> None:
        self.engine.sync()
        (report,) = self.engine.clean("t")
        assert report.error is None

    @rule()
    def compact_all(self) -> None:
        (report,) = self.engine.clean("t", now=True)
        assert report.error is None
        found = [key for _, _, key, _, _ in self.rows(self.engine) if key is not None]
        assert len(found) == len(set(found))

    @rule(days=st.floats(0.1, 2))
    def pass_days(self, days: float) -> None:
        self.clock.pass_days(days)

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        self.start = max(self.start, int(share * len(self.appended)))
        assert self.engine.delete_records("t", 0, self.start) == self.start

    @rule()
    def open_again(self) -> None:
        self.engine.close()
        self.engine = self.open()

    def rows(self, engine: pylog.Engine) -> list[Row]:
        return [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in engine.read("t", 0)]

    @invariant()
    def what_is_read_is_what_was_appended_and_all_last_values_are_there(self) -> None:
        if not hasattr(self, "other"):
            return
        kept = self.appended[self.start :]
        for engine in (self.engine, self.other):
            rows = self.rows(engine)
            assert all(row == self.appended[row[0]] for row in rows)
            assert [row[0] for row in rows] == sorted({row[0] for row in rows})
            assert last_values(rows) == last_values(kept)
            assert [row for row in rows if row[2] is None] == [row for row in kept if row[2] is None]
            assert engine.log_end_offset("t", 0) == len(self.appended)

    @invariant()
    def the_document_reads_the_same(self) -> None:
        if not self.appended:
            return
        found = read_partition(self.place / "data" / "topics" / "t" / "0").records()
        oracle = [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in found]
        assert oracle == self.rows(self.engine)


TestCompactedLog = CompactedLog.TestCase
TestCompactedLog.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.soak
class TestCompactedLogLonger(CompactedLog.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=3000, stateful_step_count=60, deadline=None)
