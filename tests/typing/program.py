"""A user's program. It is never run: tests/typing/test_typing.py has mypy --strict read it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_type

import numpy
from numpy.typing import NDArray

import pylog
from pylog.aio import AsyncEngine
from pylog.filters import header_is, key_is


def told(ids: Sequence[pylog.RecordId], error: BaseException | None) -> None:
    for found in ids:
        assert_type(found.topic, str)
        assert_type(found.offset, int)


def write(engine: pylog.Engine) -> None:
    made = engine.create_topic("orders", partitions=8, segment_bytes=64 << 20, durability="interval")
    assert_type(made, pylog.TopicDescription)
    assert_type(made.config, pylog.TopicConfig)
    assert_type(engine.append("orders", b"paid", key=b"order-7"), pylog.RecordId)
    engine.append("orders", None, partition=3, durability="sync", headers={"h": b"1", "n": None})
    assert_type(engine.append_many("orders", [b"a", b"b"], keys=[b"k", None]), Sequence[pylog.RecordId])
    assert_type(engine.log_end_offset("orders", 3), int)
    assert_type(engine.list_topics(), list[str])
    assert_type(engine.recovery_reports(), list[pylog.RecoveryReport])
    with engine.producer(linger_ms=5, on_delivery=told) as producer:
        assert_type(producer.send("orders", b"paid", key=b"order-7"), None)
    with engine.producer(producer_id="loader", value_serde="json", when_full="raise") as producer:
        for n in range(producer.resume_from("orders"), 10):
            producer.send("orders", {"n": n}, sequence=n)


def read(engine: pylog.Engine) -> None:
    for record in engine.read("orders", partition=3, offset=0):
        assert_type(record, pylog.Record)
        assert_type(record.value, bytes | None)
        assert_type(record.headers, list[tuple[str, bytes | None]])
    with engine.consumer("orders", group="billing", auto_offset_reset="earliest") as consumer:
        for record in consumer:
            assert_type(record.offset, int)
            consumer.commit()
        assert_type(consumer.poll(max_records=500, timeout=1.0), list[pylog.Record])
        consumer.seek_to_time(datetime.now(UTC))
        consumer.seek(("orders", 3), 0)
        assert_type(consumer.committed(pylog.TopicPartition("orders", 3)), int | None)
        assert_type(consumer.end_offsets(), dict[pylog.TopicPartition, int])
        for batch in consumer.batches(timeout=1.0):
            assert_type(batch.offsets, NDArray[numpy.int64])
            assert_type(batch.values(), list[bytes | None])


def fail(engine: pylog.Engine) -> int | None:
    try:
        engine.append("orders", b"x")
    except pylog.OffsetOutOfRangeError as error:
        assert_type(error.log_end_offset, int)
    except pylog.PylogError as error:
        assert_type(error.retriable, bool)
    return None


def work(engine: pylog.Engine) -> None:
    retry = pylog.Retry.exponential(1.0, max_attempts=5, give_up_on=(ValueError, KeyError))
    wanted = key_is(b"a") & ~header_is("kind", b"test")
    with engine.queue("jobs", priorities=3, retry=retry, filter=wanted, serde="json") as jobs:
        assert_type(jobs.put({"n": 1}, priority=2, delay=1.0), pylog.RecordId | None)
        assert_type(jobs.get(timeout=0.0), pylog.Delivery | None)
        for delivery in jobs:
            with delivery:
                assert_type(delivery.record, pylog.Record)
                assert_type(delivery.identity, str)
        for letter in jobs.dead_letters:
            assert_type(letter, pylog.DeadLetter)
        assert_type(jobs.dead_letters.redrive(limit=5).redriven, int)
        jobs.run(lambda delivery: print(delivery.value), workers=2)
        jobs.as_queue(maxsize=3).put("x", timeout=1.0)


@dataclass(frozen=True)
class Deposited:
    amount: int


class Account(pylog.Aggregate):
    balance = 0

    def deposit(self, amount: int) -> None:
        self.record(Deposited(amount))

    def apply(self, event: Deposited) -> None:
        self.balance += event.amount


class Balances:
    name = "balances"
    tables = ("balances",)

    def create(self, db: sqlite3.Connection, tables: dict[str, str]) -> None:
        db.execute(f"CREATE TABLE {tables['balances']} (stream TEXT, balance INTEGER)")

    def apply(self, db: sqlite3.Connection, tables: dict[str, str], event: pylog.Event) -> None:
        assert_type(event.version, int)
        db.execute(f"INSERT INTO {tables['balances']} VALUES (?, ?)", (event.stream, event.data.amount))


def source(engine: pylog.Engine, db: sqlite3.Connection) -> None:
    store = engine.event_store("accounts", events=[Deposited], snapshot_every=100)
    account = store.load(Account, "acc-1")
    assert_type(account, Account)
    account.deposit(50)
    done = store.save(account, metadata={"actor": "alice"})
    assert_type(store.state_at(Account, "acc-1", version=1).balance, int)
    assert_type(list(store.read("Account-acc-1")), list[pylog.Event])
    store.append("Account-acc-2", [Deposited(1)], expected_version=0)
    engine.append("orders", b"paid", key=b"k", guard=-1)
    assert_type(engine.read_key("orders", b"k", backward=True), list[pylog.Record])
    with pylog.ReadModel(engine, store, Balances(), db) as model:
        model.wait_for(done, timeout=1.0)
        assert_type(model.lag().seconds, float)
    with pylog.Table(engine, "prices", key_serde="str") as table:
        assert_type(len(table), int)


async def tasks(path: Path) -> None:
    async with AsyncEngine(pylog.open(path)) as engine, engine.consumer("orders") as consumer:
        async for record in consumer:
            assert_type(record, pylog.Record)
        async for batch in consumer.batches(1.0):
            assert_type(batch, pylog.RecordBatch)
        assert_type(await consumer.poll(timeout=None), list[pylog.Record])


def main() -> None:
    with pylog.open(Path("data"), read_only=True) as engine:
        write(engine)
        read(engine)
        fail(engine)
