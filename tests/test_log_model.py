"""Random operations on the real engine against a model of lists: what is in stays in, as it was, in order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import pylog

PARTITIONS = 2
Row = tuple[bytes | None, bytes | None, int]

keys = st.none() | st.binary(max_size=8)
values = st.none() | st.binary(max_size=300) | st.integers(1, 4500).map(lambda n: b"v" * n)
partitions = st.integers(0, PARTITIONS - 1)
times = st.integers(-(10**18), 2 * 10**18)
share = st.floats(0, 1)


class Log(RuleBasedStateMachine):
    """One topic of two partitions with small segments, several engines and one consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="pylog-model-"))
        self.model: list[list[Row]] = [[] for _ in range(PARTITIONS)]

    @initialize(codec=st.sampled_from(["none", "zstd"]), durability=st.sampled_from(["os", "interval"]))
    def begin(self, codec: str, durability: str) -> None:
        self.engine = pylog.open(self.place / "data")
        self.engine.create_topic(
            "t",
            partitions=PARTITIONS,
            segment_bytes=16 << 10,
            compression_type=codec,  # type: ignore[arg-type]
            durability=durability,  # type: ignore[arg-type]
        )
        self.consume()

    def consume(self) -> None:
        self.consumer = self.engine.consumer("t", group="g", auto_offset_reset="earliest")
        self.positions = [self.consumer.committed(("t", p)) or 0 for p in range(PARTITIONS)]

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
        shutil.rmtree(self.place)

    # ---- writing

    @rule(partition=partitions, key=keys, value=values, time=times)
    def append(self, partition: int, key: bytes | None, value: bytes | None, time: int) -> None:
        found = self.engine.append("t", value, key, partition=partition, timestamp=time)
        assert (found.partition, found.offset) == (partition, len(self.model[partition]))
        self.model[partition].append((key, value, time))

    @rule(partition=partitions, rows=st.lists(st.tuples(keys, values, times), max_size=20))
    def append_many(self, partition: int, rows: list[Row]) -> None:
        ids = self.engine.append_many(
            "t",
            [value for _, value, _ in rows],
            [key for key, _, _ in rows],
            partition=partition,
            timestamps=[time for _, _, time in rows],
        )
        start = len(self.model[partition])
        assert [found.offset for found in ids] == list(range(start, start + len(rows)))
        self.model[partition] += rows

    @rule(rows=st.lists(st.tuples(partitions, keys, values, times), max_size=20))
    def produce(self, rows: list[tuple[int, bytes | None, bytes | None, int]]) -> None:
        with self.engine.producer(linger_ms=3_600_000, batch_bytes=2048) as producer:
            for partition, key, value, time in rows:
                producer.send("t", value, key, partition, None, time)
                self.model[partition].append((key, value, time))

    # ---- reading

    @rule(partition=partitions, where=share)
    def read(self, partition: int, where: float) -> None:
        expected = self.model[partition]
        start = round(where * len(expected))
        found = list(self.engine.read("t", partition, start))
        assert [record.offset for record in found] == list(range(start, len(expected)))
        assert [(r.key, r.value, r.timestamp) for r in found] == expected[start:]

    @rule(most=st.integers(1, 30))
    def poll(self, most: int) -> None:
        records = self.consumer.poll(most)
        left = sum(len(rows) - at for rows, at in zip(self.model, self.positions, strict=True))
        assert len(records) == min(most, left)
        for record in records:
            assert record.offset == self.positions[record.partition]
            expected = self.model[record.partition][record.offset]
            assert (record.key, record.value, record.timestamp) == expected
            self.positions[record.partition] += 1

    @rule(partition=partitions, where=share)
    def seek(self, partition: int, where: float) -> None:
        self.positions[partition] = round(where * len(self.model[partition]))
        self.consumer.seek(("t", partition), self.positions[partition])

    @rule(partition=partitions, time=times)
    def seek_to_time(self, partition: int, time: int) -> None:
        rows = self.model[partition]
        offset = next((n for n, (_, _, at) in enumerate(rows) if at >= time), len(rows))
        self.consumer.seek_to_time(time, [("t", partition)])
        self.positions[partition] = offset
        assert self.consumer.position(("t", partition)) == offset

    @rule()
    def batches(self) -> None:
        for batch in self.consumer.batches(timeout=0):
            rows = self.model[batch.partition][batch.base_offset : batch.next_offset]
            assert list(zip(batch.keys(), batch.values(), batch.timestamps.tolist(), strict=True)) == rows
            assert batch.base_offset <= self.positions[batch.partition] < batch.next_offset
            self.positions[batch.partition] = batch.next_offset
        assert self.positions == [len(rows) for rows in self.model]

    @rule()
    def commit(self) -> None:
        self.consumer.commit()

    # ---- engines that come and go

    @rule()
    def reopen(self) -> None:
        committed = [self.consumer.committed(("t", p)) for p in range(PARTITIONS)]
        self.engine.close()
        self.engine = pylog.open(self.place / "data")
        self.consume()
        assert [self.consumer.committed(("t", p)) for p in range(PARTITIONS)] == committed
        assert self.engine.recovery_reports() == []

    @rule(partition=partitions, key=keys, value=values, time=times)
    def another_engine_appends(
        self, partition: int, key: bytes | None, value: bytes | None, time: int
    ) -> None:
        with pylog.open(self.place / "data") as other:
            other.append("t", value, key, partition=partition, timestamp=time)
        self.model[partition].append((key, value, time))

    @rule(partition=partitions)
    def a_reader_sees_the_same(self, partition: int) -> None:
        with pylog.open(self.place / "data", read_only=True) as reader:
            found = [(r.key, r.value, r.timestamp) for r in reader.read("t", partition)]
        assert found == self.model[partition]

    @rule()
    def sync(self) -> None:
        self.engine.sync()
        assert [self.engine.synced_offset("t", p) for p in range(PARTITIONS)] == [
            len(rows) for rows in self.model
        ]

    @invariant()
    def ends_are_true(self) -> None:
        if hasattr(self, "engine"):
            for partition, rows in enumerate(self.model):
                assert self.engine.log_end_offset("t", partition) == len(rows)
                assert self.engine.synced_offset("t", partition) <= len(rows)


TestLog = Log.TestCase
TestLog.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.soak
class TestLogLonger(Log.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=3000, stateful_step_count=100, deadline=None)
