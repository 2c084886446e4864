"""Recorders for the `eventsourcing` package, chosen by PERSISTENCE_MODULE and PYLOG_DIR.

Stored events are records of one topic of one partition: their order is the order of notifications, an id is
the offset + 1. The key is the originator. Not pylog's own event store: that is store.py. Invariant: of each
originator a version is there once, since every insert is guarded by the last record that was looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

import pylog
from pylog.config import check_name
from pylog.engine import Consumer, Engine
from pylog.errors import OffsetOutOfRangeError, VersionConflictError
from pylog.records import Record, RecordId

TOPIC, VERSION, NEWEST = "topic", "version", "newest"
"""Headers of a record; NEWEST is the largest version before it, where its own is smaller."""
UUID_KEY, STR_KEY = b"uuid:", b"str:"
POLL_SECONDS = 0.25
"""How long a subscription waits at a time: stop() is seen within it."""

Guards = dict[bytes, int]
Inserts = list[tuple[bytes, bytes, list[tuple[str, bytes | None]]]]


def key_of(originator_id: UUID | str) -> bytes:
    """Return the key of an originator's records."""
    if isinstance(originator_id, UUID):
        return UUID_KEY + originator_id.hex.encode()
    return STR_KEY + originator_id.encode()


def originator_of(key: bytes) -> UUID | str:
    """Return the originator whose records have a key."""
    if key.startswith(UUID_KEY):
        return UUID(hex=key[len(UUID_KEY) :].decode())
    return key[len(STR_KEY) :].decode()


def stored_event(record: Record) -> StoredEvent:
    """Return the event that a record holds."""
    headers = dict(record.headers)
    return StoredEvent(
        originator_id=originator_of(record.key or b""),
        originator_version=int(headers[VERSION] or 0),
        topic=(headers[TOPIC] or b"").decode(),
        state=record.value or b"",
    )


def newest_version(record: Record) -> int:
    """Return the largest version among an originator's records up to this one."""
    headers = dict(record.headers)
    return int(headers.get(NEWEST) or headers[VERSION] or 0)


class PylogAggregateRecorder(AggregateRecorder):
    """Stored events by originator, in one topic of an engine. Threads may share it."""

    def __init__(self, engine: Engine, topic: str) -> None:
        self.engine, self.topic = engine, topic
        engine.create_topic(topic, partitions=1, fixed_partitions=True)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Insert all of them or none. Raises IntegrityError where a version is there already."""
        self._insert(stored_events)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent]) -> Sequence[RecordId]:
        if not stored_events:
            return []
        while True:
            inserts, guards = self._prepared(stored_events)
            keys, values, headers = zip(*inserts, strict=True)
            try:
                if len(inserts) == 1:
                    (key,) = keys
                    return [
                        self.engine.append(self.topic, values[0], key, headers=headers[0], guard=guards[key])
                    ]
                return self.engine.append_many(
                    self.topic, list(values), list(keys), headers=headers, guard=guards
                )
            except VersionConflictError:
                continue  # another version of theirs may have come; if it is one of ours we are told now

    def _prepared(self, stored_events: Sequence[StoredEvent]) -> tuple[Inserts, Guards]:
        """Return what to append, and the last record of each originator as it was when all were new."""
        inserts: Inserts = []
        guards: Guards = {}
        versions: dict[bytes, set[int]] = {}
        newest: dict[bytes, int] = {}
        for event in stored_events:
            key, version = key_of(event.originator_id), event.originator_version
            if key not in guards:
                last = self.engine.read_key(self.topic, key, partition=0, most=1, backward=True)
                guards[key] = last[0].offset if last else -1
                newest[key] = newest_version(last[0]) if last else -(1 << 63)
            taken = versions.setdefault(key, set())
            if version in taken or (version <= newest[key] and self._has(key, version)):
                raise IntegrityError(f"version {version} of {event.originator_id} is recorded already")
            taken.add(version)
            headers: list[tuple[str, bytes | None]] = [
                (TOPIC, event.topic.encode()),
                (VERSION, b"%d" % version),
            ]
            if version < newest[key]:
                headers.append((NEWEST, b"%d" % newest[key]))
            newest[key] = max(newest[key], version)
            inserts.append((key, event.state, headers))
        return inserts, guards

    def _has(self, key: bytes, version: int) -> bool:
        records = self.engine.read_key(self.topic, key, partition=0)
        return any(stored_event(record).originator_version == version for record in records)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the events of an originator with versions in (gt, lte], in their order or backward."""
        key = key_of(originator_id)
        if limit == 1 and desc and gt is None and lte is None:
            last = self.engine.read_key(self.topic, key, partition=0, most=1, backward=True)
            if not last or NEWEST not in dict(last[0].headers):
                return [stored_event(record) for record in last]
        found = [stored_event(record) for record in self.engine.read_key(self.topic, key, partition=0)]
        found.sort(key=lambda event: event.originator_version)
        found = [
            event
            for event in found
            if (gt is None or event.originator_version > gt)
            and (lte is None or event.originator_version <= lte)
        ]
        if desc:
            found.reverse()
        return found[:limit]


class PylogApplicationRecorder(PylogAggregateRecorder, ApplicationRecorder):
    """The same, and all events of the topic in the order in which they were inserted."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Insert all of them or none, and return their notification ids. Raises IntegrityError."""
        return [place.offset + 1 for place in self._insert(stored_events)]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return up to `limit` notifications from one id on, up to another one."""
        first = max((start or 1) + (start is not None and not inclusive_of_start), 1)
        found: list[Notification] = []
        if stop is not None and first > stop:
            return found
        for notification in self._notifications(first):
            if (stop is not None and notification.id > stop) or len(found) == limit:
                break
            if not topics or notification.topic in topics:
                found.append(notification)
        return found

    def _notifications(self, first: int) -> Iterator[Notification]:
        try:
            records = self.engine.read(self.topic, 0, first - 1)
        except OffsetOutOfRangeError:
            return
        for record in records:
            yield notification_of(record)

    def max_notification_id(self) -> int | None:
        """Return the id of the newest event, None where there is none."""
        return self.engine.log_end_offset(self.topic, 0) or None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Return an iterator over what follows a notification id, which waits for more."""
        return PylogSubscription(self, gt=gt, topics=topics)


def notification_of(record: Record) -> Notification:
    """Return the event that a record holds, as a notification."""
    event = stored_event(record)
    return Notification(
        id=record.offset + 1,
        originator_id=event.originator_id,
        originator_version=event.originator_version,
        topic=event.topic,
        state=event.state,
    )


class PylogSubscription(Subscription[ApplicationRecorder]):
    """What other processes insert comes too: it is a consumer. One thread iterates, any may stop it."""

    def __init__(
        self, recorder: PylogApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._consumer: Consumer | None = None
        self._records: Iterator[Record] = iter(())
        self._lock = threading.Lock()

    def _opened(self) -> Consumer:
        if self._consumer is None:
            recorder = cast(PylogApplicationRecorder, self._recorder)
            self._consumer = recorder.engine.consumer(auto_offset_reset="error")
            self._consumer.assign([(recorder.topic, 0)])
            end = recorder.engine.log_end_offset(recorder.topic, 0)
            self._consumer.seek((recorder.topic, 0), min(self._last_notification_id or 0, end))
        return self._consumer

    def __next__(self) -> Notification:
        with self._lock:
            while not self._has_been_stopped:
                for record in self._records:
                    notification = notification_of(record)
                    if notification.id <= (self._last_notification_id or 0):
                        continue  # it was begun behind the end
                    self._last_notification_id = notification.id
                    if not self._topics or notification.topic in self._topics:
                        return notification
                self._records = iter(self._opened().poll(timeout=POLL_SECONDS))
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
        raise StopIteration

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None


class PylogTrackingRecorder(TrackingRecorder):
    """How far the notifications of other applications were processed."""

    def __init__(self, engine: Engine, tracking_topic: str) -> None:
        self.engine, self.tracking_topic = engine, tracking_topic
        engine.create_topic(tracking_topic, partitions=1, fixed_partitions=True, cleanup_policy="compact")

    def _last(self, application_name: str) -> tuple[int | None, int]:
        """Return the id that was recorded last, and the offset at which it stands."""
        key = application_name.encode()
        last = self.engine.read_key(self.tracking_topic, key, partition=0, most=1, backward=True)
        return (int(last[0].value or 0), last[0].offset) if last else (None, -1)

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the largest id that was recorded for an application, None where there is none."""
        return self._last(application_name)[0]

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record a larger id than before. Raises IntegrityError."""
        while True:
            guard = self._guard_of(tracking)
            try:
                self.engine.append(
                    self.tracking_topic,
                    b"%d" % tracking.notification_id,
                    tracking.application_name.encode(),
                    guard=guard,
                )
                return
            except VersionConflictError:
                continue

    def _guard_of(self, tracking: Tracking) -> int:
        largest, offset = self._last(tracking.application_name)
        if largest is not None and largest >= tracking.notification_id:
            raise IntegrityError(
                f"{tracking.application_name}: {tracking.notification_id} was tracked, {largest} is the last"
            )
        return offset


class PylogProcessRecorder(PylogTrackingRecorder, PylogApplicationRecorder, ProcessRecorder):
    """Inserts events and how far others were processed in one transaction."""

    def __init__(self, engine: Engine, topic: str, tracking_topic: str) -> None:
        PylogApplicationRecorder.__init__(self, engine, topic)
        PylogTrackingRecorder.__init__(self, engine, tracking_topic)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Insert all of them and the `tracking`, or nothing. Raises IntegrityError."""
        tracking: Tracking | None = kwargs.get("tracking")
        if tracking is None:
            return super().insert_events(stored_events)
        while True:
            inserts, guards = self._prepared(stored_events)
            transaction = self.engine.transaction()
            for number, (key, value, headers) in enumerate(inserts):
                guard = guards if number == 0 else None
                transaction.append(self.topic, value, key, headers=headers, guard=guard)
            transaction.append(
                self.tracking_topic,
                b"%d" % tracking.notification_id,
                tracking.application_name.encode(),
                guard=self._guard_of(tracking),
            )
            try:
                places = transaction.commit()
            except VersionConflictError:
                continue
            return [place.offset + 1 for place in places[: len(inserts)]]


class PylogFactory(InfrastructureFactory[PylogTrackingRecorder]):
    """Opens the directory that PYLOG_DIR names; PYLOG_DURABILITY is that of topics that are made."""

    PYLOG_DIR = "PYLOG_DIR"
    PYLOG_DURABILITY = "PYLOG_DURABILITY"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        path = self.env.get(self.PYLOG_DIR)
        if not path:
            keys = ", ".join(self.env.create_keys(self.PYLOG_DIR))
            raise OSError(f"the data directory is named by the environment: {keys}")
        durability = self.env.get(self.PYLOG_DURABILITY, "interval")
        self.durability = cast(Literal["os", "interval", "sync"], durability)
        self.engine = pylog.open(path)

    def _topic(self, purpose: str) -> str:
        """Make the topic of this application for a purpose, and return its name."""
        name = check_name(f"{self.env.name or 'stored'}.{purpose}", "topic")
        policy: Literal["compact", "delete"] = "compact" if purpose == "tracking" else "delete"
        if name not in self.engine.list_topics():
            self.engine.create_topic(
                name, partitions=1, fixed_partitions=True, cleanup_policy=policy, durability=self.durability
            )
        return name

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """Return a recorder of the application's events, or of its snapshots."""
        return PylogAggregateRecorder(self.engine, self._topic(purpose))

    def application_recorder(self) -> ApplicationRecorder:
        """Return a recorder of the application's events and their order."""
        kind = self._class_of(self.APPLICATION_RECORDER_TOPIC, PylogApplicationRecorder)
        made: ApplicationRecorder = kind(self.engine, self._topic("events"))
        return made

    def tracking_recorder(
        self, tracking_recorder_class: type[PylogTrackingRecorder] | None = None
    ) -> PylogTrackingRecorder:
        """Return a recorder of how far others were processed."""
        kind = tracking_recorder_class or self._class_of(self.TRACKING_RECORDER_TOPIC, PylogTrackingRecorder)
        return kind(self.engine, self._topic("tracking"))

    def process_recorder(self) -> ProcessRecorder:
        """Return a recorder of events together with how far others were processed."""
        kind = self._class_of(self.PROCESS_RECORDER_TOPIC, PylogProcessRecorder)
        made: ProcessRecorder = kind(self.engine, self._topic("events"), self._topic("tracking"))
        return made

    def _class_of(self, setting: str, otherwise: type[Any]) -> type[Any]:
        topic = self.env.get(setting)
        if not topic:
            return otherwise
        found = resolve_topic(topic)
        if not (isinstance(found, type) and issubclass(found, otherwise)):
            raise OSError(f"{setting}={topic} is no subclass of {otherwise.__name__}")
        return found

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


Factory = PylogFactory
