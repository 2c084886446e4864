"""ParallelConsumer: a pool of threads that handles the records of a group member, in order by key.

More workers than partitions, for handlers that wait (network, disk). Not a queue: a record that fails stops
the pool, and what is not finished is delivered again. Named after Confluent's Parallel Consumer. Invariant: a
commit never passes a record whose handler has not returned.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

from pylog.config import check_choice, check_count
from pylog.engine import Consumer, Engine, Topics
from pylog.errors import ClosedError, ConfigError, IllegalGenerationError
from pylog.records import Record, TopicPartition

Order = Literal["key", "partition", "none"]
Handler = Callable[[Record], object]

COMMIT_SECONDS = 0.1
POLL_SECONDS = 0.05
"""How long the pool waits for records before it looks at what its workers finished."""


class Progress:
    """What of one partition is finished: records end in any order, commits go up to the first unfinished."""

    def __init__(self) -> None:
        self._unfinished: list[int] = []
        self._finished: set[int] = set()
        self.committable = -1

    def begin(self, offset: int) -> None:
        """Note a record that is given to a worker; offsets rise."""
        heapq.heappush(self._unfinished, offset)

    def end(self, offset: int) -> None:
        """Note that its handler returned."""
        self._finished.add(offset)
        while self._unfinished and self._unfinished[0] in self._finished:
            done = heapq.heappop(self._unfinished)
            self._finished.discard(done)
            self.committable = done + 1

    @property
    def in_flight(self) -> int:
        """How many were begun and did not end."""
        return len(self._unfinished) - len(self._finished)


Work = tuple[Record, Progress]
Lane: TypeAlias = "queue.SimpleQueue[Work | None]"


class ParallelConsumer:
    """Handles the records of topics by several threads, as one member of a group.

    Args:
        engine: Where the topics are.
        topics: As Consumer.subscribe takes them.
        handler: Called with each record by one of the workers; at least once.
        group: Whose offsets it commits.
        workers: Threads.
        order: "key" handles records of one key one after the other (those without a key in any order),
            "partition" those of one partition, "none" keeps no order.
        max_in_flight: The most records that are read and not finished.
        options: As engine.consumer takes them; auto_offset_reset is "earliest" where left out.

    Raises:
        ConfigError, TypeError, UnknownTopicError
    """

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        handler: Handler,
        *,
        group: str,
        workers: int = 8,
        order: Order = "key",
        max_in_flight: int = 1000,
        **options: Any,
    ) -> None:
        check_count(workers, "workers", 1, 1024)
        check_count(max_in_flight, "max_in_flight", 1, 1 << 20)
        if options.get("enable_auto_commit") or options.get("on_revoke"):
            raise ConfigError("a ParallelConsumer commits and drains by itself: leave both options out")
        self._order = check_choice(order, "order", get_args(Order))
        self._handler = handler
        self._most = max_in_flight
        self._lanes: list[Lane] = [queue.SimpleQueue() for _ in range(workers)]
        self._turn = 0
        self._ended: deque[Work] = deque()
        self._something_ended = threading.Event()
        self._progress: dict[TopicPartition, Progress] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._paused = False
        self._filtered = options.get("filter") is not None
        options.setdefault("auto_offset_reset", "earliest")
        # belongs to no thread yet: run() may be called in another one
        self._consumer: Consumer = engine.consumer(topics, group=group, on_revoke=self._drain, **options)

    # ---- running ----------------------------------------------------------------------------------------

    def run(self, *, idle: float | None = None) -> None:
        """Handle records until stop(), a handler that raises, or Ctrl-C; finish what was begun, and commit.

        Args:
            idle: Also return when nothing came and nothing was in flight for so many seconds.

        Raises:
            What a handler raised: its record and what came after it unfinished are delivered again.
        """
        if self._stopping.is_set():
            raise ClosedError("a ParallelConsumer runs once")
        threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"pylog-worker-{number}", daemon=True)
            for number, lane in enumerate(self._lanes)
        ]
        for thread in threads:
            thread.start()
        try:
            self._loop(idle)
        finally:
            self._stopping.set()
            for lane in self._lanes:
                lane.put(None)
            for thread in threads:
                thread.join()
            try:
                self._commit()
            finally:
                self._consumer.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Have run() finish what is in flight and return; any thread, or a signal handler, may call it."""
        self._stopping.set()
        self._something_ended.set()

    def _loop(self, idle: float | None) -> None:
        quiet_since, commit_at = time.monotonic(), 0.0
        while not self._stopping.is_set():
            records = self._read()
            for record in records:
                self._dispatch(record)
            self._collect()
            now = time.monotonic()
            if now >= commit_at:
                self._commit()
                commit_at = now + COMMIT_SECONDS
            if records or self._in_flight():
                quiet_since = now
            elif idle is not None and now - quiet_since >= idle:
                return

    def _read(self) -> list[Record]:
        """Poll; where enough is in flight only to stay a member, and wait for a worker."""
        room = self._most - self._in_flight()
        if room > 0:
            if self._paused:
                self._consumer.resume()
                self._paused = False
            return self._consumer.poll(room, 0.0 if self._in_flight() and self._ended else POLL_SECONDS)
        self._something_ended.clear()
        if not self._ended:
            self._something_ended.wait(POLL_SECONDS)
        self._consumer.pause()
        self._paused = True
        return self._consumer.poll(1, 0.0)

    def _dispatch(self, record: Record) -> None:
        progress = self._progress.setdefault(TopicPartition(record.topic, record.partition), Progress())
        progress.begin(record.offset)
        if self._order == "partition":
            lane = zlib.crc32(b"%s-%d" % (record.topic.encode(), record.partition))
        elif self._order == "key" and record.key is not None:
            key = record.key if isinstance(record.key, bytes) else repr(record.key).encode()
            lane = zlib.crc32(key)
        else:
            self._turn += 1
            lane = self._turn
        self._lanes[lane % len(self._lanes)].put((record, progress))

    # ---- the workers ------------------------------------------------------------------------------------

    def _work(self, lane: Lane) -> None:
        while (work := lane.get()) is not None:
            if self._stopping.is_set():
                continue  # not begun: delivered again
            try:
                self._handler(work[0])
                self._ended.append(work)
            except BaseException as raised:
                self._failure = self._failure or raised
                self._stopping.set()
            self._something_ended.set()

    # ---- progress ---------------------------------------------------------------------------------------

    def _collect(self) -> None:
        while self._ended:
            record, progress = self._ended.popleft()
            progress.end(record.offset)

    def _in_flight(self) -> int:
        return sum(progress.in_flight for progress in self._progress.values())

    def _commit(self) -> None:
        """Commit up to the first unfinished record of each partition, where that moved."""
        self._collect()
        mine = set(self._consumer.assignment())
        offsets = {
            place: progress.committable
            for place, progress in self._progress.items()
            if place in mine and progress.committable > self._committed.get(place, -1)
        }
        if self._filtered:
            offsets |= self._passed(mine)
        if not offsets:
            return
        try:
            self._consumer.commit(dict(offsets.items()))
        except IllegalGenerationError:
            return  # taken from us since the last poll: whoever has it now does it again
        self._committed |= offsets

    def _passed(self, mine: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where partitions stand of which nothing is unfinished: behind what the filter rejected."""
        found = {}
        for place in mine:
            if place not in self._progress or not self._progress[place].in_flight:
                position = self._consumer.position(place)
                if position > self._committed.get(place, -1):
                    found[place] = position
        return found

    def _drain(self, places: list[TopicPartition], seconds: float) -> None:
        """Before partitions go: wait for what of them is in flight, and commit it."""
        until = time.monotonic() + seconds
        while any(self._progress[place].in_flight for place in places if place in self._progress):
            left = until - time.monotonic()
            if left <= 0 or self._stopping.is_set():
                break
            self._something_ended.clear()
            self._collect()
            if any(self._progress[place].in_flight for place in places if place in self._progress):
                self._something_ended.wait(min(left, POLL_SECONDS))
                self._collect()
        self._commit()
        for place in places:
            self._progress.pop(place, None)
            self._committed.pop(place, None)
