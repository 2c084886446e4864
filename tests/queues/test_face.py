"""as_queue(): programs that use queue.Queue do not see the difference (pattern 1a)."""

from __future__ import annotations

import queue
import threading
import unittest
from pathlib import Path

import pytest
from taking import Opened

import pylog
from pylog.queues.face import QueueFace

try:
    from test import test_queue as cpython
except ImportError:  # some distributions leave Python's own tests out
    cpython = None  # type: ignore[assignment]

# what CPython 3.13 added, queue.Queue.shutdown, is no part of the face
CASES = ("test_queue_task_done", "test_queue_join", "test_basic", "test_negative_timeout_raises_exception",
         "test_nowait", "test_shrinking_queue")  # fmt: skip


@pytest.mark.skipif(cpython is None, reason="this Python came without its own tests: ours have their intent")
@pytest.mark.parametrize("case", CASES)
def test_1a_cpythons_own_cases_pass(engine: pylog.Engine, case: str) -> None:
    made: list[QueueFace] = []

    class Queue(QueueFace):
        """Its name tells the cases in which order items come."""

        def __init__(self, maxsize: int = 0) -> None:
            super().__init__(engine.queue(f"q{len(made)}"), maxsize, "json")
            made.append(self)

    class Cases(cpython.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
        def setUp(self) -> None:
            super().setUp()
            self.queue = queue
            self.type2test = Queue

    result = unittest.TestResult()
    Cases(case).run(result)
    for face in made:
        face.close()
    assert result.testsRun == 1
    assert [text for _, text in [*result.errors, *result.failures]] == []


def test_1a_items_go_in_and_out_and_task_done_acks_the_oldest_of_the_thread(opened: Opened) -> None:
    jobs = opened()
    face = jobs.as_queue(serde="json")
    for item in ({"n": 1}, [2], None):
        face.put(item)
    assert [face.get(), face.get(), face.get()] == [{"n": 1}, [2], None]
    assert jobs.qsize("in_flight") == 3
    refused: list[ValueError] = []

    def in_another_thread() -> None:
        try:
            face.task_done()
        except ValueError as error:
            refused.append(error)

    elsewhere = threading.Thread(target=in_another_thread)
    elsewhere.start()
    elsewhere.join()
    assert len(refused) == 1
    face.task_done()
    assert [entry.record.offset for entry in jobs.peek()] == [1, 2]
    face.close()
    assert jobs.qsize("ready") == 2
    assert [entry.delivery_count for entry in jobs.peek()] == [0, 0]


def test_1a_full_and_empty_are_those_of_the_standard_library(opened: Opened) -> None:
    face = opened().as_queue(maxsize=1)
    with pytest.raises(queue.Empty):
        face.get_nowait()
    face.put(b"a")
    assert face.full()
    with pytest.raises(queue.Full):
        face.put_nowait(b"b")
    with pytest.raises(queue.Full):
        face.put(b"b", timeout=0.01)
    assert face.get() == b"a"
    assert face.empty()
    face.task_done()


def test_what_other_processes_put_is_got_here(engine: pylog.Engine, data: Path) -> None:
    face = engine.queue("jobs").as_queue(serde="str")
    with pylog.open(data) as other:
        other.queue("jobs").as_queue(serde="str").put("from elsewhere")
    assert face.get(timeout=60) == "from elsewhere"
    face.task_done()
    face.join()


def test_an_item_that_cannot_be_decoded_is_buried_and_told(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"{")
    with pytest.raises(pylog.SerializationError):
        jobs.as_queue(serde="json").get()
    assert [letter.reason for letter in jobs.dead_letters] == ["undecodable"]


def test_what_was_got_and_not_done_is_there_again_after_a_restart(data: Path) -> None:
    with pylog.open(data) as engine:
        face = engine.queue("jobs").as_queue()
        for item in (b"1", b"2"):
            face.put(item)
        assert (face.get(), face.get()) == (b"1", b"2")
        face.task_done()
        face.close()
    with pylog.open(data) as engine:
        face = engine.queue("jobs").as_queue()
        assert face.get_nowait() == b"2"
        face.task_done()
