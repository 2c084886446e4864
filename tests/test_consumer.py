"""The consumer as a user has it: polling, iteration, positions, commits, waiting, cuts, threads."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from children import Child

import pylog

APPENDS_WHEN_TOLD = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    for line in sys.stdin:
        engine.append("t", line.strip().encode())
"""


def fill(engine: pylog.Engine, count: int, topic: str = "t", partition: int = 0) -> None:
    start = engine.log_end_offset(topic, partition)
    engine.append_many(
        topic,
        [b"%d" % n for n in range(start, start + count)],
        partition=partition,
        timestamps=[1000 * n for n in range(start, start + count)],
    )


def offsets(records: list[pylog.Record]) -> list[int]:
    return [record.offset for record in records]


# ---- polling -------------------------------------------------------------------------------------------


def test_a_poll_takes_up_to_max_records_and_the_next_goes_on(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    assert offsets(consumer.poll(4)) == [0, 1, 2, 3]
    assert consumer.position(("t", 0)) == 4
    assert offsets(consumer.poll()) == [4, 5, 6, 7, 8, 9]
    assert consumer.poll() == [] == consumer.poll(timeout=0.001)


def test_all_partitions_have_their_turn(engine: pylog.Engine) -> None:
    for partition in range(4):
        fill(engine, 100, "four", partition)
    consumer = engine.consumer("four", auto_offset_reset="earliest")
    first_turns = {consumer.poll(10)[0].partition for _ in range(4)}
    assert first_turns == {0, 1, 2, 3}
    seen: dict[int, list[int]] = {p: list(range(10)) for p in range(4)}
    while records := consumer.poll(7):
        for record in records:
            seen[record.partition].append(record.offset)
    assert seen == {p: list(range(100)) for p in range(4)}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_records": 0}, pylog.ConfigError),
        ({"max_records": 1.5}, TypeError),
        ({"max_records": True}, TypeError),
        ({"timeout": -1}, pylog.ConfigError),
        ({"timeout": "1"}, TypeError),
    ],
)
def test_a_wrong_poll_is_refused(
    engine: pylog.Engine, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.consumer("t").poll(**arguments)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"auto_offset_reset": "first"}, pylog.ConfigError),
        ({"isolation": "dirty"}, pylog.ConfigError),
        ({"timeout": -1}, pylog.ConfigError),
        ({"on_truncate": "ignore"}, pylog.ConfigError),
        ({"value_serde": "pickle"}, pylog.ConfigError),
        ({"group": "../g"}, pylog.ConfigError),
        ({"group": 3}, TypeError),
        ({"topics": []}, pylog.ConfigError),
        ({"topics": 3}, TypeError),
        ({"topics": "none"}, pylog.UnknownTopicError),
        ({"topics": ["t", "none"]}, pylog.UnknownTopicError),
    ],
)
def test_a_wrong_option_is_named_and_leaves_nothing(
    engine: pylog.Engine, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.consumer(**options)
    assert engine.metrics()["open_members"] == 0


def test_where_a_consumer_starts_without_a_commit(engine: pylog.Engine) -> None:
    fill(engine, 3)
    latest, earliest = engine.consumer("t"), engine.consumer("t", auto_offset_reset="earliest")
    strict = engine.consumer("t", auto_offset_reset="error")
    fill(engine, 1)
    assert offsets(latest.poll()) == [3]
    assert offsets(earliest.poll()) == [0, 1, 2, 3]
    with pytest.raises(pylog.OffsetOutOfRangeError, match="seek"):
        strict.poll()
    strict.seek(("t", 0), 2)
    assert offsets(strict.poll()) == [2, 3]


# ---- iteration -----------------------------------------------------------------------------------------


def test_iteration_ends_only_where_a_timeout_was_given(engine: pylog.Engine) -> None:
    fill(engine, 1200)
    consumer = engine.consumer("t", auto_offset_reset="earliest", timeout=0.001)
    assert [record.offset for record in consumer] == list(range(1200))
    fill(engine, 2)
    assert [record.offset for record in consumer] == [1200, 1201]


def test_a_commit_in_a_loop_covers_what_was_yielded_and_no_more(engine: pylog.Engine) -> None:
    fill(engine, 10)
    options: dict[str, Any] = {"group": "g", "auto_offset_reset": "earliest", "timeout": 0.001}
    with engine.consumer("t", **options) as consumer:
        for record in consumer:
            if record.offset == 3:
                consumer.commit()
            if record.offset == 5:
                break
        assert consumer.committed(("t", 0)) == 4
        assert consumer.position(("t", 0)) == 6
        assert [record.offset for record in consumer] == [6, 7, 8, 9]
    with engine.consumer("t", **options) as consumer:
        assert [record.offset for record in consumer] == list(range(4, 10))


def test_polls_seeks_and_pauses_fit_into_a_loop(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t", auto_offset_reset="earliest", timeout=0.001)
    seen = []
    for record in consumer:
        seen.append(record.offset)
        if record.offset == 2:
            seen += offsets(consumer.poll(2))
        if record.offset == 6 and seen.count(6) == 1:
            consumer.seek(("t", 0), 5)
        if record.offset == 8:
            consumer.pause()
    assert seen == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    consumer.resume()
    assert offsets(consumer.poll()) == [9]


def test_batches_and_records_take_turns(engine: pylog.Engine) -> None:
    for _ in range(3):
        fill(engine, 10)
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    for record in consumer:
        if record.offset == 9:
            break
    assert [batch.base_offset for batch in consumer.batches(timeout=0)] == [10, 20]
    assert consumer.position(("t", 0)) == 30


# ---- positions -----------------------------------------------------------------------------------------


def test_seeking_goes_there_and_nowhere_else(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t")
    for place in (7, 0, 10, 3):
        consumer.seek(("t", 0), place)
        assert consumer.position(pylog.TopicPartition("t", 0)) == place
        assert offsets(consumer.poll()) == list(range(place, 10))
    for wrong in (-1, 11):
        with pytest.raises(pylog.OffsetOutOfRangeError):
            consumer.seek(("t", 0), wrong)
    with pytest.raises(TypeError):
        consumer.seek(("t", 0), "3")  # type: ignore[arg-type]
    with pytest.raises(pylog.ConfigError, match="not assigned"):
        consumer.seek(("four", 0), 0)
    consumer.seek_to_beginning()
    assert consumer.position(("t", 0)) == 0
    consumer.seek_to_end([("t", 0)])
    assert consumer.poll() == []


def test_seeking_by_time_finds_the_first_at_or_after_it(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t")
    for time, offset in ((-5, 0), (0, 0), (1, 1), (3000, 3), (3001, 4), (9000, 9), (9001, 10)):
        consumer.seek_to_time(time)
        assert consumer.position(("t", 0)) == offset
    consumer.seek_to_time(datetime(1970, 1, 1, 0, 0, 0, 5, UTC))
    assert consumer.position(("t", 0)) == 5
    with pytest.raises(pylog.ConfigError, match="time zone"):
        consumer.seek_to_time(datetime(2020, 1, 1))
    with pytest.raises(TypeError):
        consumer.seek_to_time("yesterday")  # type: ignore[arg-type]


def test_offsets_are_told_by_time_and_by_their_ends(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t")
    found = consumer.offsets_for_times({("t", 0): 2500, ("four", 1): 0})
    assert found == {("t", 0): pylog.OffsetAndTimestamp(3, 3000), ("four", 1): None}
    assert consumer.beginning_offsets() == {("t", 0): 0}
    assert consumer.end_offsets() == {("t", 0): 10}
    assert consumer.end_offsets([("four", 3)]) == {("four", 3): 0}


def test_times_that_go_back_are_found_all_the_same(engine: pylog.Engine) -> None:
    for time in (50, 10, 70, 20, 90):
        engine.append("t", b"x", timestamp=time)
    consumer = engine.consumer("t")
    for time, offset in ((11, 0), (51, 2), (71, 4)):
        assert consumer.offsets_for_times({("t", 0): time})["t", 0][0] == offset  # type: ignore[index]


# ---- assignment ----------------------------------------------------------------------------------------


def test_only_what_is_assigned_is_read(engine: pylog.Engine) -> None:
    for partition in range(4):
        fill(engine, 3, "four", partition)
    consumer = engine.consumer(auto_offset_reset="earliest")
    assert consumer.poll() == [] == consumer.assignment()
    consumer.assign([("four", 1), ("four", 3), ("four", 1)])
    assert consumer.assignment() == [("four", 1), ("four", 3)]
    assert {record.partition for record in consumer.poll()} == {1, 3}
    consumer.assign([("four", 3), ("four", 0)])
    assert {record.partition for record in consumer.poll()} == {0}
    consumer.unsubscribe()
    assert consumer.assignment() == [] == consumer.poll()


@pytest.mark.parametrize(
    ("partitions", "error"),
    [
        ([("four", 4)], pylog.ConfigError),
        ([("four", -1)], pylog.ConfigError),
        ([("none", 0)], pylog.UnknownTopicError),
        (("four", 0), TypeError),
        (["four"], TypeError),
        ([("four", "0")], TypeError),
        ([("four", True)], TypeError),
        (None, TypeError),
    ],
)
def test_a_wrong_assignment_leaves_the_old_one(
    engine: pylog.Engine, partitions: Any, error: type[Exception]
) -> None:
    consumer = engine.consumer("t")
    with pytest.raises(error):
        consumer.assign(partitions)
    assert consumer.assignment() == [("t", 0)]


def test_what_is_paused_keeps_its_place(engine: pylog.Engine) -> None:
    for partition in range(4):
        fill(engine, 2, "four", partition)
    consumer = engine.consumer("four", auto_offset_reset="earliest")
    consumer.pause([("four", 1), ("four", 2)])
    assert consumer.paused() == [("four", 1), ("four", 2)]
    assert {record.partition for record in consumer.poll()} == {0, 3}
    consumer.resume([("four", 2)])
    assert offsets(consumer.poll()) == [0, 1]
    assert consumer.paused() == [("four", 1)]
    with pytest.raises(pylog.ConfigError, match="not assigned"):
        consumer.pause([("t", 0)])


# ---- commits -------------------------------------------------------------------------------------------


def test_a_group_goes_on_where_it_committed(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t")
        fill(engine, 10)
        with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
            assert consumer.committed(("t", 0)) is None
            consumer.poll(6)
            consumer.commit()
            consumer.poll(2)
    with pylog.open(data) as engine:
        with engine.consumer("t", group="g") as consumer:
            assert consumer.committed(("t", 0)) == 6
            assert offsets(consumer.poll()) == [6, 7, 8, 9]
        with engine.consumer("t", group="other", auto_offset_reset="earliest") as consumer:
            assert len(consumer.poll()) == 10


def test_given_offsets_are_committed_as_they_are(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t", group="g")
    consumer.commit({("t", 0): 4})
    assert consumer.committed(("t", 0)) == 4
    assert consumer.position(("t", 0)) == 10
    for wrong, error in (
        ({("t", 0): 11}, pylog.OffsetOutOfRangeError),
        ({("t", 0): -1}, pylog.OffsetOutOfRangeError),
        ({("t", 0): 1.0}, TypeError),
        ({("four", 0): 0}, pylog.ConfigError),
        ({"t": 0}, TypeError),
    ):
        with pytest.raises(error):
            consumer.commit(wrong)  # type: ignore[arg-type]
    assert consumer.committed(("t", 0)) == 4
    with pytest.raises(pylog.ConfigError, match="group"):
        engine.consumer("t").commit()


def test_a_dropped_member_leaves_its_group(engine: pylog.Engine) -> None:
    fill(engine, 3)
    engine.consumer("t", group="g").commit({("t", 0): 2})
    assert offsets(engine.consumer("t", group="g").poll()) == [2]


def test_a_forked_child_keeps_no_membership_of_its_parents(engine: pylog.Engine) -> None:
    consumer = engine.consumer("t", group="g")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    consumer.close()
    engine.consumer("t", group="g").close()
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("durability", ["os", "interval", "sync"])
def test_commits_hold_over_the_death_of_the_process(data: Path, durability: str) -> None:
    script = """
import sys, pylog
engine = pylog.open(sys.argv[1])
consumer = engine.consumer("t", group="g", auto_offset_reset="earliest")
consumer.poll(3)
consumer.commit()
print("committed", flush=True)
sys.stdin.read()
"""
    with pylog.open(data) as engine:
        engine.create_topic("t", durability=durability)  # type: ignore[arg-type]
        fill(engine, 5)
    with Child(script, data) as child:
        assert child.says() == "committed"
        child.kill()
    with pylog.open(data) as engine:
        assert offsets(engine.consumer("t", group="g").poll()) == [3, 4]


def test_a_commit_beyond_a_log_that_was_cut_goes_on_at_its_end(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[Any, int, int]] = []
    with pylog.open(data) as engine:
        engine.create_topic("t")
        fill(engine, 5)
        engine.consumer("t", group="g").commit({("t", 0): 5})
        uuid = engine.describe_topic("t").uuid
    for name in ("0/00000000000000000000.log", "clean", "control"):  # as a power cut that took all of it
        (data / "topics/t" / name).unlink()
    with pylog.open(data) as engine:
        assert engine.describe_topic("t").uuid == uuid
        assert engine.log_end_offset("t", 0) == 0
        with pytest.raises(pylog.LogTruncatedError) as caught:
            engine.consumer("t", group="g", on_truncate="raise")
        assert (caught.value.offset, caught.value.resume_offset) == (5, 0)
        consumer = engine.consumer("t", group="g", on_truncate=lambda *found: told.append(found))
        assert told == [(("t", 0), 5, 0)]
        assert "cut at offset 0" in caplog.text
        engine.append("t", b"anew")
        assert offsets(consumer.poll()) == [0]


# ---- waiting -------------------------------------------------------------------------------------------


def test_a_consumer_is_woken_by_another_process(data: Path, engine: pylog.Engine) -> None:
    consumer = engine.consumer("t")
    with Child(APPENDS_WHEN_TOLD, data) as child:
        for n in range(20):
            child.tell(str(n))
            assert [record.value for record in consumer.poll(timeout=None)] == [b"%d" % n]
    assert consumer.metrics()["waits"] <= 60  # woken, not looking again and again


def test_a_consumer_is_woken_by_a_thread(engine: pylog.Engine) -> None:
    consumer = engine.consumer(["t", "four"])
    for n in range(20):
        thread = threading.Thread(target=engine.append, args=("four", b"%d" % n))
        thread.start()
        assert [record.value for record in consumer.poll(timeout=None)] == [b"%d" % n]
        thread.join()


def test_ctrl_c_ends_a_wait_and_takes_nothing(data: Path, engine: pylog.Engine) -> None:
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine, engine.consumer("t", group="g") as consumer:
    print("waits", flush=True)
    try:
        for record in consumer:
            consumer.commit()
            print("got", record.offset, flush=True)
    except KeyboardInterrupt:
        print("interrupted at", consumer.position(("t", 0)), flush=True)
"""
    with Child(script, data) as child:
        assert child.says() == "waits"
        engine.append("t", b"x")
        assert child.says() == "got 0"
        child.process.send_signal(signal.SIGINT)
        assert child.says() == "interrupted at 1"
        assert child.ends() == 0
    engine.append("t", b"y")
    assert offsets(engine.consumer("t", group="g").poll()) == [1]


def test_closing_the_engine_ends_a_wait(data: Path) -> None:
    engine = pylog.open(data)
    engine.create_topic("t")
    consumer = engine.consumer("t")
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            consumer.poll(timeout=None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    engine.close()
    thread.join(60)
    assert [type(error) for error in raised] == [pylog.ClosedError]


# ---- who may use it ------------------------------------------------------------------------------------


def test_a_second_thread_is_refused(engine: pylog.Engine) -> None:
    consumer = engine.consumer("t")
    consumer.poll()
    raised: list[BaseException] = []

    def use() -> None:
        try:
            consumer.poll()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert [type(error) for error in raised] == [pylog.UnsupportedError]
    assert "thread" in str(raised[0])
    thread = threading.Thread(target=consumer.close)
    thread.start()
    thread.join()
    with pytest.raises(pylog.ClosedError):
        consumer.poll()


def test_a_forked_child_cannot_use_what_it_inherited(engine: pylog.Engine) -> None:
    fill(engine, 3)
    consumer = engine.consumer("t", group="g", auto_offset_reset="earliest")
    consumer.poll(1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            consumer.poll()
        except pylog.ClosedError:
            consumer.close()
            mine = engine.consumer(group="h", auto_offset_reset="earliest")
            mine.assign([("t", 0)])
            code = 0 if len(mine.poll()) == 3 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    consumer.commit()
    assert consumer.committed(("t", 0)) == 1
    assert offsets(consumer.poll()) == [1, 2]


def test_a_closed_consumer_says_so(engine: pylog.Engine) -> None:
    fill(engine, 3)
    consumer = engine.consumer("t", group="g", auto_offset_reset="earliest")
    iterator = iter(consumer)
    next(iterator)
    consumer.close()
    consumer.close()
    for use in (
        lambda: consumer.poll(),
        lambda: consumer.commit(),
        lambda: consumer.seek(("t", 0), 0),
        lambda: consumer.assign([]),
        lambda: consumer.subscribe("t"),
        lambda: consumer.position(("t", 0)),
        lambda: consumer.metrics(),
        lambda: next(iter(consumer)),
        lambda: next(iterator),
        lambda: next(consumer.batches()),
    ):
        with pytest.raises(pylog.ClosedError):
            use()


def test_a_topic_deleted_under_a_consumer_is_told(engine: pylog.Engine) -> None:
    fill(engine, 3)
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    consumer.poll()
    engine.delete_topic("t")
    for _ in range(2):
        with pytest.raises(pylog.ClosedError, match="deleted"):
            consumer.poll(timeout=None)
    engine.create_topic("t")
    engine.append("t", b"new")
    with pytest.raises(pylog.ClosedError, match="deleted"):
        consumer.poll()
    consumer.subscribe("t")
    assert [record.value for record in consumer.poll()] == [b"new"]


def test_commits_of_a_deleted_topic_are_not_those_of_the_new_one(engine: pylog.Engine) -> None:
    fill(engine, 3)
    consumer = engine.consumer("t", group="g", auto_offset_reset="earliest")
    consumer.poll(2)
    consumer.commit()
    engine.delete_topic("t")
    engine.create_topic("t")
    fill(engine, 3)
    consumer.subscribe("t")
    assert consumer.committed(("t", 0)) is None
    assert offsets(consumer.poll(1)) == [0]
    consumer.commit()
    assert consumer.committed(("t", 0)) == 1


def test_metrics_count_what_was_given(engine: pylog.Engine) -> None:
    fill(engine, 10)
    consumer = engine.consumer("t", group="g", auto_offset_reset="earliest")
    consumer.poll(4)
    consumer.commit()
    list(consumer.batches(timeout=0))
    found = consumer.metrics()
    assert (found["partitions"], found["commits"], found["batches"]) == (1, 1, 1)
    assert found["records"] >= 10
