"""The asyncio face: waits without blocking the loop, wakes across processes, takes nothing when cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from children import Child

import pylog
from pylog.aio import AsyncEngine

APPENDS_WHEN_TOLD = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    for line in sys.stdin:
        engine.append("t", line.strip().encode())
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t")
        engine.create_topic("u", partitions=2)
    return tmp_path / "data"


def run(data: Path, work: Callable[[AsyncEngine], Awaitable[None]], *, read_only: bool = False) -> None:
    async def whole() -> None:
        async with AsyncEngine(pylog.open(data, read_only=read_only)) as engine:
            await asyncio.wait_for(work(engine), 60)

    asyncio.run(whole())


async def until_waiting(task: asyncio.Task[object]) -> None:
    """Let the task run until it waits for the descriptor."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()


def test_a_record_goes_from_producer_to_consumer(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with engine.producer(linger_ms=1) as producer, engine.consumer("t") as consumer:
            waiting = asyncio.create_task(consumer.poll(timeout=None))
            await until_waiting(waiting)
            await producer.send("t", b"value", b"key", headers={"h": b"1"})
            await producer.flush()
            (record,) = await waiting
            assert (record.key, record.value, record.headers) == (b"key", b"value", [("h", b"1")])
            assert (await engine.append("t", b"x")).offset == 1
            assert len(await engine.append_many("u", [b"y"] * 3, durability="sync")) == 3
            assert [record.value for record in await consumer.poll()] == [b"x"]
            assert await consumer.poll() == []

    run(data, work)


def test_many_tasks_wait_and_all_are_woken_by_another_process(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        consumers = [engine.consumer("t") for _ in range(5)]
        waiting = [asyncio.create_task(consumer.poll(timeout=None)) for consumer in consumers]
        await until_waiting(waiting[0])
        with Child(APPENDS_WHEN_TOLD, data) as child:
            child.tell("hello")
            for found in await asyncio.gather(*waiting):
                assert [record.value for record in found] == [b"hello"]

    run(data, work)


def test_a_consumer_that_waits_looks_at_nothing_until_it_is_woken(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        consumer = engine.consumer("t")
        waiting = asyncio.create_task(consumer.poll(timeout=None))
        await until_waiting(waiting)
        looked = consumer.consumer.metrics()["polls"]
        for _ in range(1000):
            await asyncio.sleep(0)
        assert consumer.consumer.metrics()["polls"] == looked
        await engine.append("t", b"x")
        assert len(await waiting) == 1

    run(data, work)


def test_a_cancelled_wait_has_taken_nothing(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        consumer = engine.consumer("t", auto_offset_reset="earliest")
        for n in range(5):
            waiting = asyncio.create_task(consumer.poll(timeout=None))
            await until_waiting(waiting)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await engine.append("t", b"%d" % n)
            assert [record.value for record in await consumer.poll(timeout=None)] == [b"%d" % n]

    run(data, work)


def test_iteration_ends_with_its_timeout_and_commits_what_was_yielded(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        await engine.append_many("t", [b"%d" % n for n in range(10)])
        options = {"group": "g", "auto_offset_reset": "earliest", "timeout": 0.01}
        async with engine.consumer("t", **options) as consumer:
            seen = []
            async for record in consumer:
                seen.append(record.offset)
                if record.offset == 6:
                    await consumer.commit()
                    break
            assert consumer.consumer.committed(("t", 0)) == 7
        async with engine.consumer("t", **options) as consumer:
            assert [record.offset async for record in consumer] == [7, 8, 9]
        assert seen == list(range(7))

    run(data, work)


def test_batches_come_whole(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        await engine.append_many("u", [b"a", b"b"], partition=1)
        await engine.append_many("u", [b"c"], partition=0)
        consumer = engine.consumer("u", auto_offset_reset="earliest")
        assert sorted([batch.values() async for batch in consumer.batches(0.0)]) == [[b"a", b"b"], [b"c"]]

    run(data, work)


def test_a_timeout_returns_empty(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        assert await engine.consumer("t").poll(timeout=0.001) == []

    run(data, work)


def test_a_read_only_engine_is_polled(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        waiting = asyncio.create_task(engine.consumer("t").poll(timeout=None))
        await until_waiting(waiting)
        with pylog.open(data) as writer:
            writer.append("t", b"x")
            assert [record.value for record in await waiting] == [b"x"]

    run(data, work, read_only=True)


def test_closing_the_engine_wakes_who_waits(data: Path) -> None:
    async def work() -> None:
        engine = AsyncEngine(pylog.open(data))
        waiting = asyncio.create_task(engine.consumer("t").poll(timeout=None))
        await until_waiting(waiting)
        await engine.close()
        with pytest.raises(pylog.ClosedError):
            await asyncio.wait_for(waiting, 60)

    asyncio.run(work())


def test_an_error_of_the_engine_comes_through(data: Path) -> None:
    async def work(engine: AsyncEngine) -> None:
        with pytest.raises(pylog.UnknownTopicError):
            await engine.append("none", b"x")
        with pytest.raises(pylog.UnknownTopicError):
            engine.consumer("none")
        async with engine.producer() as producer:
            with pytest.raises(TypeError):
                await producer.send("t", "str")

    run(data, work)


def test_no_thread_is_left(data: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}

    async def work(engine: AsyncEngine) -> None:
        await engine.append("t", b"x")
        await engine.consumer("t", auto_offset_reset="earliest").poll(timeout=None)

    run(data, work)
    assert {thread.name for thread in threading.enumerate()} == before
