"""The cases that the `eventsourcing` package ships for recorders, run from the installed package on ours."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from unittest import TestCase
from uuid import UUID, uuid4

import pytest
from children import Child
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    ProcessRecorder,
    StoredEvent,
    TrackingRecorder,
)
from eventsourcing.tests import persistence as theirs
from eventsourcing.utils import Environment

import pylog
from pylog.eventsourcing import persistence as ours


class OnADirectory(TestCase):
    """Opens an engine for each case."""

    def setUp(self) -> None:
        self.place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.place)
        self.engine = pylog.open(f"{self.place}/data")
        self.addCleanup(self.engine.close)
        super().setUp()


class TestAggregateRecorder(OnADirectory, theirs.AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return ours.PylogAggregateRecorder(self.engine, "app.events")


class TestApplicationRecorder(OnADirectory, theirs.ApplicationRecorderTestCase[ApplicationRecorder]):
    def create_recorder(self) -> ApplicationRecorder:
        return ours.PylogApplicationRecorder(self.engine, "app.events")

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderOfNames(TestApplicationRecorder):
    """Originators may be strings."""

    def new_originator_id(self) -> str:
        return f"customer-{uuid4()}"


class TestOrderOfNotifications(OnADirectory, theirs.NonInterleavingNotificationIDsBaseCase):
    insert_num = 1000

    def create_recorder(self) -> ApplicationRecorder:
        return ours.PylogApplicationRecorder(self.engine, "app.events")


class TestTrackingRecorder(OnADirectory, theirs.TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return ours.PylogTrackingRecorder(self.engine, "app.tracking")


class TestProcessRecorder(OnADirectory, theirs.ProcessRecorderTestCase):
    def create_recorder(self) -> ProcessRecorder:
        return ours.PylogProcessRecorder(self.engine, "app.events", "app.tracking")


class SubclassedTrackingRecorder(ours.PylogTrackingRecorder):
    pass


class TestFactory(theirs.InfrastructureFactoryTestCase[ours.PylogFactory]):
    def setUp(self) -> None:
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        self.env = Environment("TestCase")
        self.env[InfrastructureFactory.PERSISTENCE_MODULE] = ours.__name__
        self.env[ours.PylogFactory.PYLOG_DIR] = f"{place}/data"
        super().setUp()

    def expected_factory_class(self) -> type[ours.PylogFactory]:
        return ours.PylogFactory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return ours.PylogAggregateRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return ours.PylogApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return ours.PylogTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return SubclassedTrackingRecorder

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return ours.PylogProcessRecorder


# ---- and what those cases do not ask -------------------------------------------------------------------


class Dog(Aggregate):
    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


class School(Application):
    is_snapshotting_enabled = True
    snapshotting_intervals: ClassVar = {Dog: 3}

    def register(self, name: str) -> object:
        dog = Dog(name)
        self.save(dog)
        return dog.id


def test_an_application_chooses_pylog_by_its_configuration(tmp_path: Path) -> None:
    env = {"PERSISTENCE_MODULE": "pylog.eventsourcing.persistence", "PYLOG_DIR": str(tmp_path / "data")}
    with School(env=env) as school:
        dog_id = school.register("Fido")
        for trick in ("roll over", "play dead", "fetch", "sit"):
            dog = school.repository.get(dog_id)
            dog.add_trick(trick)
            school.save(dog)
    with School(env=env) as school:
        assert school.repository.get(dog_id).tricks == ["roll over", "play dead", "fetch", "sit"]
        assert school.repository.get(dog_id, version=3).tricks == ["roll over", "play dead"]
        assert [item.id for item in school.notification_log.select(1, 10)] == [1, 2, 3, 4, 5]
    with pylog.open(tmp_path / "data") as engine:
        assert set(engine.list_topics()) == {"School.events", "School.snapshots"}


def test_a_directory_has_to_be_named() -> None:
    with pytest.raises(OSError, match="PYLOG_DIR"):
        ours.PylogFactory({})


def test_versions_that_come_out_of_order_are_recorded_once_and_read_in_order(tmp_path: Path) -> None:
    name = "customer-1"
    with pylog.open(tmp_path / "data") as engine:
        recorder = ours.PylogApplicationRecorder(engine, "app.events")
        for several in ([5], [3], [7, 4], [6]):
            recorder.insert_events([StoredEvent(name, version, "t", b"") for version in several])
        for again in ([5], [3], [7], [8, 4], [9, 9]):
            with pytest.raises(IntegrityError):
                recorder.insert_events([StoredEvent(name, version, "t", b"") for version in again])

        def found(**options: Any) -> list[int]:
            return [event.originator_version for event in recorder.select_events(name, **options)]

        assert found() == [3, 4, 5, 6, 7]
        assert found(desc=True, limit=1) == [7]
        assert found(gt=3, lte=6, desc=True, limit=2) == [6, 5]
        recorder.insert_events([StoredEvent(name, 8, "t", b"")])
        assert found(desc=True, limit=1) == [8]
        assert [n.originator_version for n in recorder.select_notifications(1, 9)] == [5, 3, 7, 4, 6, 8]


def test_a_subscription_from_beyond_the_end_waits_until_there_is_more(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        recorder = ours.PylogApplicationRecorder(engine, "app.events")
        with recorder.subscribe(gt=3) as subscription:
            subscription._opened()  # type: ignore[attr-defined]  # it stands at the end, which is 0
            recorder.insert_events([StoredEvent(uuid4(), 1, "t", b"") for _ in range(5)])
            assert [next(subscription).id, next(subscription).id] == [4, 5]


WRITER = """
import sys, pylog
from uuid import UUID
from eventsourcing.persistence import IntegrityError, StoredEvent
from pylog.eventsourcing.persistence import PylogApplicationRecorder
with pylog.open(sys.argv[1]) as engine:
    recorder = PylogApplicationRecorder(engine, "app.events")
    print("ready", flush=True)
    sys.stdin.readline()
    won, version = 0, 0
    while version < 100:
        try:
            recorder.insert_events([StoredEvent(UUID(int=7), version, "t", sys.argv[2].encode())])
            won += 1
        except IntegrityError:
            pass
        version += 1
    print(won, flush=True)
"""


def test_of_processes_that_insert_a_version_one_does(tmp_path: Path) -> None:
    writers = [Child(WRITER, tmp_path / "data", number) for number in range(3)]
    with writers[0], writers[1], writers[2]:
        for writer in writers:
            writer.says()
        for writer in writers:
            writer.tell()
        assert sum(int(writer.says()) for writer in writers) == 100
    with pylog.open(tmp_path / "data") as engine:
        recorder = ours.PylogApplicationRecorder(engine, "app.events")
        assert [n.originator_version for n in recorder.select_notifications(1, 1000)] == list(range(100))
        with pytest.raises(IntegrityError):
            recorder.insert_events([StoredEvent(uuid4(), 1, "t", b""), StoredEvent(UUID(int=7), 5, "t", b"")])
        assert recorder.max_notification_id() == 100

