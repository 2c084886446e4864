"""A QueueSource in memory, over a real engine's log, by a clock that is moved by hand.

For schedules that would take a day (15d), and as a model of what a queue does. No process shares it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

from clocks import ManualClock

import pylog
from pylog.queue_options import (
    DUE_HEADER,
    DeliveryState,
    QueueConfig,
    QueueCounts,
    QueueEntry,
    queue_config,
    queue_differences,
)
from pylog.records import Record


class ModelLease:
    def __init__(self, slot: Slot, token: int) -> None:
        self.slot, self.token = slot, token
        self.record, self.level = slot.record, slot.level
        self.started = False

    @property
    def delivery_count(self) -> int:
        return self.slot.count


class Slot:
    def __init__(self, record: Record, level: int) -> None:
        self.record, self.level = record, level
        self.count = self.token = 0
        self.due = int(dict(record.headers).get(DUE_HEADER) or 0)
        self.finished = self.in_flight = False


class ModelSource:
    def __init__(
        self, engine: pylog.Engine, clock: ManualClock, queue: str, topic: str, config: QueueConfig,
        notes: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.queue, self.topic, self.config, self.notes = queue, topic, config, notes
        self._engine, self._clock = engine, clock
        self._partitions = engine.describe_topic(topic).partitions
        self._slots: dict[tuple[int, int], Slot] = {}
        self._seen = [0] * self._partitions
        self._lock = threading.RLock()
        self._counters = dict.fromkeys(("leased", "acked", "nacked", "released", "reclaimed", "lost"), 0)

    def partition_for(self, key: bytes | None, level: int = 0) -> int | None:
        if not 0 <= level < self.config.priorities:
            raise pylog.ConfigError(f"priority={level} is out of range: 0 to {self.config.priorities - 1}")
        band = self._partitions // self.config.priorities
        return None if self.config.priorities == 1 else level * band + hash(key) % band

    def _look(self) -> None:
        band = self._partitions // self.config.priorities
        for partition in range(self._partitions):
            for record in self._engine.read(self.topic, partition, self._seen[partition]):
                self._slots[partition, record.offset] = Slot(record, partition // band)
                self._seen[partition] = record.offset + 1

    def _state(self, slot: Slot) -> DeliveryState:
        if slot.finished:
            return "finished"
        if slot.in_flight:
            return "in_flight"
        if slot.due > self._clock.time_ns():
            return "delayed"
        if self.config.order == "key" and slot.record.key is not None:
            for other in self._slots.values():
                if other is slot:
                    break
                if other.record.key == slot.record.key and not other.finished:
                    return "blocked"
        return "ready"

    def _of_state(self, state: DeliveryState | None) -> list[Slot]:
        self._look()
        found = [slot for _, slot in sorted(self._slots.items()) if not slot.finished]
        found.sort(key=lambda slot: -slot.level)
        return [slot for slot in found if state in (None, self._state(slot))]

    def lease(
        self, max_records: int = 1, timeout: float | None = 0.0, *, start: bool = True
    ) -> list[ModelLease]:
        found: list[ModelLease] = []
        with self._lock:
            while len(found) < max_records and (ready := self._of_state("ready")):
                slot = ready[0]
                slot.token += 1
                slot.in_flight = True
                found.append(ModelLease(slot, slot.token))
                if start:
                    self.start(found[-1])
            self._counters["leased"] += len(found)
        return found

    def _held(self, lease: ModelLease) -> Slot:
        slot = lease.slot
        if slot.finished or not slot.in_flight or slot.token != lease.token:
            self._counters["lost"] += 1
            raise pylog.LeaseLostError("lost", topic=self.topic, offset=slot.record.offset)
        return slot

    def start(self, lease: ModelLease) -> None:
        with self._lock:
            slot = self._held(lease)
            if not lease.started:
                slot.count += 1
                lease.started = True

    def ack(self, lease: ModelLease) -> None:
        with self._lock:
            slot = self._held(lease)
            slot.finished, slot.in_flight = True, False
            self._counters["acked"] += 1

    def ack_many(self, leases: Iterable[ModelLease]) -> list[ModelLease]:
        lost = []
        for lease in leases:
            try:
                self.ack(lease)
            except pylog.LeaseLostError:
                lost.append(lease)
        return lost

    def nack(self, lease: ModelLease, delay: float = 0.0) -> None:
        with self._lock:
            slot = self._held(lease)
            slot.in_flight, slot.due = False, self._clock.time_ns() + round(delay * 1e9)
            self._counters["nacked"] += 1

    def release(self, leases: Iterable[ModelLease]) -> None:
        with self._lock:
            for lease in leases:
                with suppress(pylog.LeaseLostError):
                    slot = self._held(lease)
                    slot.in_flight = False
                    slot.count -= lease.started
                    self._counters["released"] += 1

    def extend(self, lease: ModelLease, seconds: float | None = None) -> None:
        with self._lock:
            self._held(lease)

    @property
    def arrivals(self) -> None:
        return None

    def announce(self) -> float:
        return 0.001

    def counts(self) -> list[QueueCounts]:
        with self._lock:
            self._look()
            states = ("ready", "blocked", "delayed", "in_flight", "finished")
            return [
                QueueCounts(
                    level,
                    *(
                        sum(s.level == level and self._state(s) == state for s in self._slots.values())
                        for state in states
                    ),
                )
                for level in range(self.config.priorities)
            ]

    def oldest(self, level: int) -> int | None:
        with self._lock:
            return min((s.record.timestamp for s in self._of_state(None) if s.level == level), default=None)

    def next_due(self) -> int | None:
        with self._lock:
            return min((slot.due for slot in self._of_state("delayed")), default=None)

    def peek(self, max_records: int = 10, state: DeliveryState | None = None) -> list[QueueEntry]:
        with self._lock:
            return [
                QueueEntry(s.record, self._state(s), s.count, s.due if self._state(s) == "delayed" else None)
                for s in self._of_state(state)[:max_records]
            ]

    def state_of(self, partition: int, offset: int) -> DeliveryState:
        with self._lock:
            self._look()
            return self._state(self._slots[partition, offset])

    def floor(self, partition: int) -> int:
        with self._lock:
            unfinished = [s.record.offset for s in self._of_state(None) if s.record.partition == partition]
            return min(unfinished, default=self._seen[partition])

    def purge(self) -> int:
        with self._lock:
            found = [slot for slot in self._of_state(None) if not slot.in_flight]
            for slot in found:
                slot.finished = True
            return len(found)

    def sync(self) -> None: ...

    def metrics(self) -> dict[str, int]:
        return dict(self._counters)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class ModelTransaction:
    """A real transaction of the engine, and what it is to finish in the model."""

    def __init__(self, transaction: Any) -> None:
        self._transaction, self._leases = transaction, list[ModelLease]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def ack(self, leases: Iterable[ModelLease]) -> None:
        self._leases += leases

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._transaction.abort()
            return
        for lease in self._leases:
            if lease.slot.token != lease.token or not lease.slot.in_flight:
                raise pylog.LeaseLostError("lost")
        self._transaction.commit()
        for lease in self._leases:
            lease.slot.finished, lease.slot.in_flight = True, False


class ModelEngine:
    """A real engine, but for its queues."""

    def __init__(self, engine: pylog.Engine, clock: ManualClock) -> None:
        self._engine, self._clock = engine, clock
        self._sources: dict[str, ModelSource] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def capabilities(self) -> frozenset[str]:
        return self._engine.capabilities | {"queues"}

    def queue_source(
        self, queue: str, topic: str | None = None, *, notes: Mapping[str, Any] | None = None, **options: Any
    ) -> ModelSource:
        source = self._sources.get(queue)
        if source is None:
            source = ModelSource(
                self._engine, self._clock, queue, topic or queue, queue_config(options), dict(notes or {})
            )
            self._sources[queue] = source
            return source
        different: dict[str, Any] = queue_differences(source.config, options)
        for note, value in (notes or {}).items():
            if source.notes.get(note) != value:
                different[note] = (source.notes.get(note), value)
        if different:
            raise pylog.TopicConfigError(f"queue {queue!r} has {different}", differences=different)
        return source

    def transaction(self) -> ModelTransaction:
        return ModelTransaction(self._engine.transaction())
