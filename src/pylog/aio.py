"""The asyncio face of an engine, its producers, consumers and queues.

Thin, no second implementation: what returns at once is called as it is, what blocks runs in a thread, and
waiting for records is waiting for one descriptor of the engine. Everything belongs to the event loop that
uses it first. Invariant: a task that is cancelled while it waits has taken no record.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pylog.config import check_count
from pylog.engine import Arrivals, Consumer, Engine, Headers, Producer
from pylog.errors import CircuitOpenError, ClosedError, LeaseLostError, PylogError
from pylog.queues import Delivery, Queue
from pylog.queues.workers import TROUBLE_SECONDS, rest_after
from pylog.records import Record, RecordBatch, RecordId, TopicPartition

T = TypeVar("T")

logger = logging.getLogger("pylog")


class AsyncEngine:
    """An engine as tasks use it; it closes what it was given. What never waits is called on `engine` itself.

    `async with AsyncEngine(pylog.open("data")) as engine: ...`
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._bell: Bell | None = None

    async def append(
        self, topic: str, value: bytes | None, key: bytes | None = None, **options: Any
    ) -> RecordId:
        """Append one record, in a thread: it may wait for a lock or the disk. As Engine.append."""
        return await asyncio.to_thread(self.engine.append, topic, value, key, **options)

    async def append_many(
        self, topic: str, values: Any, keys: Any = None, **options: Any
    ) -> Sequence[RecordId]:
        """Append many records, in a thread. As Engine.append_many."""
        return await asyncio.to_thread(self.engine.append_many, topic, values, keys, **options)

    def producer(self, **options: Any) -> AsyncProducer:
        """Open a producer. As Engine.producer."""
        return AsyncProducer(self.engine.producer(**options))

    def consumer(self, topics: Any = None, *, timeout: float | None = None, **options: Any) -> AsyncConsumer:
        """Open a consumer. As Engine.consumer."""
        consumer = self.engine.consumer(topics, timeout=timeout, **options)
        return AsyncConsumer(consumer, self._listening(consumer.arrivals), timeout)

    def queue(self, name: str, **options: Any) -> AsyncQueue:
        """Open a work queue. As Engine.queue."""
        queue = self.engine.queue(name, **options)
        return AsyncQueue(queue, self._listening(queue.source.arrivals))

    def _listening(self, arrivals: Arrivals | None) -> Bell | None:
        """Return the bell of all consumers and queues; None where they have to poll."""
        if self._bell is None and arrivals is not None:
            self._bell = Bell(arrivals)
        return self._bell

    async def close(self) -> None:
        """Close the engine, in a thread; whoever waits for records gets ClosedError."""
        if self._bell is not None:
            self._bell.close()
        await asyncio.to_thread(self.engine.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncProducer:
    """A producer as tasks use it. What never waits is called on `producer` itself."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer

    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        sequence: int | None = None,
    ) -> None:
        """Put one record into the buffer; it writes a batch that became full. As Producer.send.

        Runs where it is called, since most sends only copy; with durability="sync" a full batch makes the
        loop wait for the disk.
        """
        self.producer.send(topic, value, key, partition, headers, timestamp, sequence)

    async def flush(self, timeout: float | None = None) -> None:
        """Write all that was sent before, in a thread. As Producer.flush."""
        await asyncio.to_thread(self.producer.flush, timeout)

    async def close(self) -> None:
        """Flush and end, in a thread. As Producer.close."""
        await asyncio.to_thread(self.producer.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncConsumer:
    """A consumer as one task uses it. What never waits (seek, position, pause) is called on `consumer`."""

    def __init__(self, consumer: Consumer, bell: Bell | None, timeout: float | None) -> None:
        self.consumer = consumer
        self._bell = bell
        self._timeout = timeout

    async def poll(self, max_records: int = 500, timeout: float | None = 0.0) -> list[Record]:
        """Return up to max_records, waiting up to timeout seconds (None: for ever) for the first."""
        return await self._first(lambda: self.consumer.poll(max_records), timeout) or []

    async def __aiter__(self) -> AsyncIterator[Record]:
        """Yield records; ends only where the consumer was given a timeout and nothing came for so long."""
        # one by one: what was not yielded must not be committed
        while records := await self.poll(1, self._timeout):
            yield records[0]

    async def batches(self, timeout: float | None = None) -> AsyncIterator[RecordBatch]:
        """Yield columnar batches; ends where nothing came for timeout seconds, or the consumer's own."""
        waiting = self._timeout if timeout is None else timeout
        while batch := await self._first(lambda: next(self.consumer.batches(0), None), waiting):
            yield batch

    async def commit(self, offsets: Mapping[TopicPartition | tuple[str, int], int] | None = None) -> None:
        """Commit the given offsets, or what was yielded so far. As Consumer.commit, where it is called."""
        self.consumer.commit(offsets)

    async def _first(self, fetch: Callable[[], T], timeout: float | None) -> T:
        return await first(fetch, timeout, self.consumer.announce, self._bell)

    async def close(self) -> None:
        """End. Commits nothing."""
        self.consumer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncQueue:
    """A work queue as tasks use it. What never waits (qsize, peek) is called on `queue` itself.

    `async for delivery in jobs: async with delivery: ...`
    """

    def __init__(self, queue: Queue, bell: Bell | None) -> None:
        self.queue = queue
        self._bell = bell

    async def put(self, value: Any, key: bytes | None = None, **terms: Any) -> RecordId | None:
        """Append a record, in a thread: it may wait for a lock or the disk. As Queue.put."""
        return await asyncio.to_thread(self.queue.put, value, key, **terms)

    async def put_many(self, values: Sequence[Any], **terms: Any) -> Sequence[RecordId]:
        """Append many records, in a thread. As Queue.put_many."""
        return await asyncio.to_thread(self.queue.put_many, values, **terms)

    async def get(self, timeout: float | None = None) -> Delivery | None:
        """Return the next record as a started Delivery, None where none came in time. As Queue.get."""
        return await first(lambda: self.queue.get(0.0), timeout, self.queue.source.announce, self._bell)

    async def get_many(self, max_records: int = 100, timeout: float | None = None) -> list[Delivery]:
        """Return up to max_records, waiting for the first. As Queue.get_many."""
        announce = self.queue.source.announce
        return await first(lambda: self.queue.get_many(max_records, 0.0), timeout, announce, self._bell)

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """Yield deliveries for ever."""
        while True:
            delivery = await self.get()
            if delivery is not None:
                yield delivery

    async def run(self, handler: Callable[[Delivery], object], *, workers: int = 10) -> None:
        """Await the handler with each delivery, log what fails and go on, until cancelled or closed.

        What is in flight when it is cancelled is cancelled too, and given back without burning an attempt.

        Args:
            handler: A coroutine function; a plain one is called, and makes the loop wait.
            workers: The most deliveries at once.
        """
        check_count(workers, "workers", 1, 1 << 16)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(handler))

    async def _work(self, handler: Callable[[Delivery], object]) -> None:
        while True:
            try:
                delivery = await self.get()
            except ClosedError:
                return
            except PylogError:
                logger.exception("queue %r", self.queue.name)
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            if delivery is not None:
                await self._handle(handler, delivery)

    async def _handle(self, handler: Callable[[Delivery], object], delivery: Delivery) -> None:
        try:
            async with delivery:
                done = handler(delivery)
                if inspect.isawaitable(done):
                    await done
        except CircuitOpenError as refused:
            await asyncio.sleep(rest_after(refused))
        except LeaseLostError as lost:
            logger.warning("%r: %s", delivery, lost)
        except Exception:
            logger.exception("%r failed", delivery)

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until every record is finished, in all processes, in a thread. As Queue.join."""
        return await asyncio.to_thread(self.queue.join, timeout)

    async def close(self) -> None:
        """Release what is in flight here, and end, in a thread."""
        await asyncio.to_thread(self.queue.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def first(
    fetch: Callable[[], T], timeout: float | None, announce: Callable[[], float], bell: Bell | None
) -> T:
    """Return what fetch finds, waiting for it up to timeout seconds, or its last empty answer."""
    loop = asyncio.get_running_loop()
    until = None if timeout is None else loop.time() + timeout
    found = fetch()
    while not found:
        left = None if until is None else until - loop.time()
        if left is not None and left <= 0:
            break
        if bell is None:
            pause = announce()
            await asyncio.sleep(pause if left is None else min(pause, left))
            found = fetch()
            continue
        rung = bell.listen()
        try:
            # the order matters: listen, say that we wait, look again, sleep
            pause = announce()
            found = fetch()
            if not found:
                await asyncio.wait([rung], timeout=pause if left is None else min(pause, left))
                bell.check_open()
                found = fetch()
        finally:
            bell.leave(rung)
    return found


class Bell:
    """Wakes the tasks of one loop that wait for records: one reader of the engine's descriptor for all."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    def listen(self) -> asyncio.Future[None]:
        """Return a future that is done when something may have arrived after now."""
        self.check_open()
        loop = asyncio.get_running_loop()
        if not self._waiters:
            self._arrivals.enroll()
            loop.add_reader(self._arrivals.fileno(), self._ring)
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Undo listen()."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._be_quiet(waiter.get_loop())

    def _be_quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._arrivals.fileno())
        self._arrivals.withdraw()

    def _ring(self) -> None:
        try:
            os.read(self._arrivals.fileno(), 8)
        except BlockingIOError:
            return
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def check_open(self) -> None:
        """Raise ClosedError after close()."""
        if self._closed:
            raise ClosedError("the engine was closed")

    def close(self) -> None:
        """Wake everybody, for the last time."""
        self._closed = True
        self._wake()
        if self._waiters:
            self._be_quiet(next(iter(self._waiters)).get_loop())
            self._waiters.clear()
