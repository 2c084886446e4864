"""Random operations on a queue against a dict: what is leased, when, how often counted, and what is left."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from clocks import ManualClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pylog.embedded.engine import EmbeddedEngine
from pylog.queue_options import DUE_HEADER


class Modelled:
    """What the model knows of one record."""

    def __init__(self, key: bytes | None, due: float) -> None:
        self.key, self.due, self.scheduled = key, due, due > 0
        self.count = 0
        self.lease: Any = None
        self.holds = False
        """It came to its key's turn: later records of the key wait for it."""


class QueueMachine(RuleBasedStateMachine):
    """One partition, one process; the clock stands still between steps."""

    order = "none"

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="pylog-model-"))
        self.clock = ManualClock()
        self.records: dict[int, Modelled] = {}
        self.stale: list[Any] = []

    @initialize()
    def begin(self) -> None:
        self.open()

    def open(self) -> None:
        self.engine = EmbeddedEngine(self.place / "data", clock=self.clock)
        self.engine.create_topic("jobs", durability="os", segment_bytes=16 << 10)
        options: Any = {"order": self.order, "visibility_timeout": 1e6}
        self.source: Any = self.engine.queue_source("jobs", **options)

    # ---- what happens ------------------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 5),
        key=st.sampled_from([None, b"a", b"b"]),
        delay=st.sampled_from([0, 0, 5, 9]),
    )
    def put(self, count: int, key: bytes | None, delay: int) -> None:
        due = self.clock.now + delay if delay else 0.0
        headers: Any = [{DUE_HEADER: b"%d" % round(due * 1e9)}] * count if delay else None
        for record_id in self.engine.append_many("jobs", [b"x"] * count, [key] * count, headers=headers):
            self.records[record_id.offset] = Modelled(key if self.order == "key" else None, due)

    @rule(most=st.integers(1, 8), start=st.booleans())
    def lease(self, most: int, start: bool) -> None:
        ready = self.ready()
        got = self.source.lease(most, start=start)
        for lease in got:
            modelled = self.records[lease.record.offset]
            assert modelled.lease is None, "in two hands"
            assert modelled.due <= self.clock.now, "early"
            assert not self.blocked(lease.record.offset), "out of order"
            modelled.count += start
            assert lease.delivery_count == modelled.count
            modelled.lease, modelled.holds = lease, True
        assert got or not ready

    def blocked(self, offset: int) -> bool:
        """Whether another record of the key has its turn, or stands before it in the log."""
        mine = self.records[offset]
        return mine.key is not None and any(
            other.holds or (before < offset and not other.scheduled)
            for before, other in self.records.items()
            if other.key == mine.key and other is not mine and not mine.holds
        )

    def ready(self) -> list[int]:
        return [
            offset
            for offset, record in self.records.items()
            if record.lease is None and record.due <= self.clock.now and not self.blocked(offset)
        ]

    def held(self, at: int) -> int:
        offsets = [offset for offset, record in self.records.items() if record.lease is not None]
        return offsets[at % len(offsets)]

    def any_held(self) -> bool:
        return any(record.lease is not None for record in self.records.values())

    @precondition(any_held)
    @rule(at=st.integers(0, 99))
    def ack(self, at: int) -> None:
        lease = self.records.pop(self.held(at)).lease
        self.source.ack(lease)
        self.stale.append(lease)

    @precondition(any_held)
    @rule(at=st.integers(0, 99), delay=st.sampled_from([0, 3, 20]))
    def nack(self, at: int, delay: int) -> None:
        record = self.records[self.held(at)]
        self.source.nack(record.lease, delay)
        record.due = self.clock.now + delay
        self.stale.append(record.lease)
        record.lease = None

    @precondition(any_held)
    @rule(at=st.integers(0, 99))
    def release(self, at: int) -> None:
        record = self.records[self.held(at)]
        record.count -= record.lease.started
        self.source.release([record.lease])
        self.stale.append(record.lease)
        record.lease = None

    @precondition(any_held)
    @rule(at=st.integers(0, 99))
    def start(self, at: int) -> None:
        record = self.records[self.held(at)]
        record.count += not record.lease.started
        self.source.start(record.lease)
        assert record.lease.delivery_count == record.count

    @precondition(lambda self: self.stale)
    @rule(at=st.integers(0, 99))
    def use_a_stale_lease(self, at: int) -> None:
        lease = self.stale[at % len(self.stale)]
        assert self.source.ack_many([lease]) == [lease]

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def sync(self) -> None:
        self.source.sync()

    @rule()
    def purge(self) -> None:
        kept = {offset: record for offset, record in self.records.items() if record.lease is not None}
        assert self.source.purge() == len(self.records) - len(kept)
        self.records = kept

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        for record in self.records.values():
            record.lease = None
        self.stale.clear()
        self.open()

    # ---- what holds --------------------------------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        (counts,) = self.source.counts()
        flying = sum(record.lease is not None for record in self.records.values())
        assert counts.in_flight == flying
        assert counts.ready + counts.blocked + counts.delayed == len(self.records) - flying
        floor = self.source.floor(0)
        assert floor <= min(self.records, default=floor)

    def teardown(self) -> None:
        self.clock.now += 1e6
        for offset, record in list(self.records.items()):
            if record.lease is not None:
                self.source.ack(self.records.pop(offset).lease)
        left = set()
        while leases := self.source.lease(100):
            left |= {lease.record.offset for lease in leases}
            assert self.source.ack_many(leases) == []
        assert left == set(self.records)
        self.engine.close()
        shutil.rmtree(self.place)


class KeyedQueueMachine(QueueMachine):
    """The same in order by key."""

    order = "key"


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=25, stateful_step_count=30)
TestKeyedQueue = KeyedQueueMachine.TestCase
TestKeyedQueue.settings = settings(max_examples=25, stateful_step_count=30)
