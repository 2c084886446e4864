"""Queues from asyncio: the same queue, thin."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from taking import AT_ONCE

import pylog
from pylog.aio import AsyncEngine


def test_tasks_put_and_get(data: Path) -> None:
    async def main() -> list[bytes]:
        async with AsyncEngine(pylog.open(data)) as engine:
            jobs = engine.queue("jobs", retry=AT_ONCE)
            await jobs.put(b"a", key=b"k")
            await jobs.put_many([b"b", b"c"])
            found = []
            async for delivery in jobs:
                async with delivery:
                    found.append(delivery.value)
                if len(found) == 3:
                    break
            assert await jobs.get(0) is None
            assert await jobs.join(60)
            await jobs.close()
            return found

    assert asyncio.run(main()) == [b"a", b"b", b"c"]


def test_a_task_that_waits_is_woken_by_a_put_of_another_engine(data: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(pylog.open(data)) as engine:
            jobs = engine.queue("jobs")
            waiting = asyncio.create_task(jobs.get(60))
            await asyncio.sleep(0)
            with pylog.open(data) as other:
                other.queue("jobs").put(b"a")
                delivery = await waiting
            assert delivery is not None
            async with delivery:
                assert delivery.value == b"a"

    asyncio.run(main())


def test_a_failing_task_has_the_record_delivered_again_and_a_cancelled_one_burns_no_attempt(
    data: Path,
) -> None:
    async def main() -> None:
        async with AsyncEngine(pylog.open(data)) as engine:
            jobs = engine.queue("jobs", retry=AT_ONCE, max_deliveries=2)
            await jobs.put(b"a")
            with pytest.raises(LookupError):
                async with await taken(jobs):
                    raise LookupError
            begun = asyncio.Event()

            async def handle() -> None:
                async with await taken(jobs):
                    begun.set()
                    await asyncio.sleep(3600)

            task = asyncio.create_task(handle())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [entry.delivery_count for entry in jobs.queue.peek()] == [1]
            with pytest.raises(LookupError):
                async with await taken(jobs):
                    raise LookupError
            assert len(jobs.queue.dead_letters) == 1

    asyncio.run(main())


def test_run_goes_on_after_trouble_with_the_queue_and_ends_when_it_is_closed(
    data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylog.aio.TROUBLE_SECONDS", 0.0)

    async def main() -> None:
        async with AsyncEngine(pylog.open(data)) as engine:
            jobs = engine.queue("jobs", retry=AT_ONCE)
            lease, troubles = jobs.queue.source.lease, 2

            def leasing(*args: Any, **options: Any) -> Any:
                nonlocal troubles
                if troubles:
                    troubles -= 1
                    raise pylog.DiskFullError("no room for the table")
                return lease(*args, **options)

            jobs.queue.source.lease = leasing  # type: ignore[method-assign]
            await jobs.put(b"a")
            running = asyncio.create_task(jobs.run(lambda delivery: None, workers=1))
            assert await jobs.join(60)
            await jobs.close()
            await running

    with caplog.at_level(logging.ERROR, "pylog"):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["queue 'jobs'"] * 2


def test_run_takes_one_worker_at_least(data: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(pylog.open(data)) as engine:
            for workers in (0, -1):
                with pytest.raises(pylog.ConfigError, match="workers"):
                    await engine.queue("jobs").run(print, workers=workers)

    asyncio.run(main())


async def taken(jobs: object) -> pylog.Delivery:
    delivery = await jobs.get(0)  # type: ignore[attr-defined]
    assert delivery is not None
    return delivery


def test_run_handles_many_at_once_logs_what_fails_and_ends_when_cancelled(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> set[bytes]:
        async with AsyncEngine(pylog.open(data)) as engine:
            jobs = engine.queue("jobs", retry=AT_ONCE)
            await jobs.put_many([b"%d" % n for n in range(20)])
            seen: set[bytes] = set()
            together = asyncio.Barrier(5)

            async def handle(delivery: pylog.Delivery) -> None:
                if delivery.delivery_count == 1:
                    await together.wait()
                    seen.add(delivery.value)
                    if delivery.value == b"7":
                        raise ValueError("once")

            running = asyncio.create_task(jobs.run(handle, workers=5))
            assert await jobs.join(60)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            return seen

    with caplog.at_level(logging.ERROR, "pylog"):
        assert asyncio.run(main()) == {b"%d" % n for n in range(20)}
    assert caplog.text.count("ValueError: once") == 1
