"""Dead letters (pattern 6): what is kept and said, and how a record comes back."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from children import Child
from taking import AT_ONCE, Opened, taken, values

import pylog
from pylog.filters import has_header, header_is

TIMES = (b"\x00\xff", b"", None)


def buried(jobs: pylog.Queue) -> pylog.DeadLetter:
    (letter,) = jobs.dead_letters
    return letter


def test_6b_a_dead_letter_is_the_record_byte_for_byte_and_says_why(opened: Opened) -> None:
    jobs = opened(max_deliveries=2)
    headers = [("twice", b"1"), ("twice", None), ("bytes", b"\x00\xff")]
    for value in TIMES:
        jobs.put(value, key=b"\xfe\x00", headers=headers)
    for value in TIMES:
        origin = taken(jobs)
        origin.nack(0.0)
        with pytest.raises(LookupError), taken(jobs):
            raise LookupError("no such customer") from OSError("timed out")
        *_, letter = jobs.dead_letters
        record = letter.record
        assert (record.value, record.key, record.timestamp) == (value, b"\xfe\x00", origin.record.timestamp)
        assert record.headers[:3] == headers
        assert (letter.reason, letter.attempts, letter.group) == ("max_deliveries", 2, "jobs")
        assert (letter.topic, letter.partition, letter.offset) == ("jobs", 0, origin.offset)
        assert (letter.exception, letter.message) == ("builtins.LookupError", "no such customer")
        assert letter.traceback is not None
        assert "timed out" in letter.traceback
        assert letter.identity == origin.identity


def test_6b_kafka_connects_names_are_written_too(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    taken(jobs).reject("bad", ValueError("x"))
    said = dict(buried(jobs).record.headers)
    assert said["__connect.errors.topic"] == b"jobs"
    assert said["__connect.errors.partition"] == b"0"
    assert said["__connect.errors.offset"] == b"0"
    assert said["__connect.errors.exception.class.name"] == b"builtins.ValueError"
    assert said["__connect.errors.exception.message"] == b"x"
    assert said["__connect.errors.exception.stacktrace"] == b"ValueError: x\n"


def test_6b_a_traceback_is_capped_at_its_end(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise ValueError("é" * 5000)

    with pytest.raises(ValueError, match="é") as raised:
        deep(100)
    taken(jobs).reject("bad", raised.value)
    letter = buried(jobs)
    assert letter.traceback is not None
    assert len(letter.traceback.encode()) <= 8 << 10
    assert letter.traceback.endswith("éé\n")
    assert letter.message is not None
    assert len(letter.message.encode()) <= 1 << 10


@pytest.mark.parametrize("kind", ["reject", "expiry", "undecodable", "attempts", "give_up"])
def test_each_way_to_die_has_its_reason(engine: pylog.Engine, kind: str) -> None:
    retry = pylog.Retry.fixed(0.0, give_up_on=ValueError)
    jobs = engine.queue("jobs", serde="json", max_deliveries=1, retry=retry)
    jobs.put(1, expiry=0.0 if kind == "expiry" else None)
    if kind == "undecodable":
        assert values(jobs) == [1]
        engine.append("jobs", b"{")
    if kind in ("expiry", "undecodable"):
        assert jobs.get(0) is None
    elif kind == "reject":
        taken(jobs).reject("spam")
    else:
        with pytest.raises(ArithmeticError if kind == "attempts" else ValueError), taken(jobs):
            raise ArithmeticError if kind == "attempts" else ValueError
    expected = {
        "reject": "spam",
        "expiry": "expired",
        "undecodable": "undecodable",
        "attempts": "max_deliveries",
        "give_up": "max_deliveries",
    }
    assert buried(jobs).reason == expected[kind]
    assert jobs.join(0)


def test_a_record_that_kills_its_workers_is_buried_after_its_last_attempt(
    engine: pylog.Engine, data: Path
) -> None:
    jobs = engine.queue("jobs", max_deliveries=2, retry=AT_ONCE)
    jobs.put(b"poison")
    script = """
import os, sys, pylog
with pylog.open(sys.argv[1]) as engine:
    delivery = engine.queue("jobs").get(30)
    assert delivery is not None
    os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        with Child(script, data) as child:
            assert child.ends() == -9
    while len(jobs.dead_letters) == 0:
        assert jobs.get(0) is None
    letter = buried(jobs)
    assert (letter.reason, letter.attempts, letter.exception) == ("max_deliveries", 2, None)


def test_6a_a_stale_lease_buries_nothing(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    stale = taken(jobs)
    stale.nack(0.0)
    with taken(jobs):
        with pytest.raises(pylog.LeaseLostError):
            stale.reject()
    assert len(jobs.dead_letters) == 0


def test_a_large_record_leaves_its_traceback_behind_rather_than_stay(engine: pylog.Engine) -> None:
    engine.create_topic("jobs", segment_bytes=32 << 10)
    jobs = engine.queue("jobs")
    jobs.put(b"x" * (11 << 10))
    try:
        raise ValueError("y" * 20_000)
    except ValueError as error:
        taken(jobs).reject("bad", error)
    letter = buried(jobs)
    assert (letter.exception, letter.traceback) == ("builtins.ValueError", None)


# ---- 6c -------------------------------------------------------------------------------------------------


def test_6c_redriving_keeps_what_the_record_is_and_begins_its_attempts_anew(opened: Opened) -> None:
    jobs = opened(max_deliveries=1, priorities=3)
    jobs.put(b"a", key=b"k", priority=2, headers=[("h", b"1")])
    origin = taken(jobs)
    origin.reject("bad")
    assert jobs.dead_letters.redrive(dry_run=True) == (1, 0)
    assert len(jobs.dead_letters) == 1
    assert jobs.dead_letters.redrive() == (1, 0)
    again = taken(jobs)
    assert (again.value, again.key, again.priority, again.delivery_count) == (b"a", b"k", 2, 1)
    assert again.record.timestamp == origin.record.timestamp
    assert again.identity == origin.identity
    assert [name for name, _ in again.headers if "errors" in name or "dead" in name] == []
    again.reject("bad still")
    letter = buried(jobs)
    assert (letter.redrives, letter.identity) == (1, origin.identity)


def test_6c_redriving_again_redrives_nothing_twice(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"%d" % n for n in range(250)])
    for delivery in jobs.get_many(250, 0):
        delivery.reject()
    assert jobs.dead_letters.redrive(limit=110) == (110, 140)
    assert jobs.dead_letters.redrive() == (140, 0)
    assert jobs.dead_letters.redrive() == (0, 0)
    assert sorted(values(jobs)) == sorted(b"%d" % n for n in range(250))


def test_6c_what_where_does_not_choose_stays(opened: Opened) -> None:
    jobs = opened()
    for n in range(10):
        jobs.put(b"%d" % n, headers={"kind": b"odd" if n % 2 else b"even"})
    for delivery in jobs.get_many(10, 0):
        delivery.reject()
    odd = header_is("kind", b"odd")
    assert jobs.dead_letters.redrive(where=odd, dry_run=True) == (5, 5)
    assert jobs.dead_letters.redrive(where=odd) == (5, 5)
    assert values(jobs) == [b"1", b"3", b"5", b"7", b"9"]
    assert [letter.record.value for letter in jobs.dead_letters] == [b"0", b"2", b"4", b"6", b"8"]


def test_6c_redriving_elsewhere_and_at_a_rate(opened: Opened, engine: pylog.Engine) -> None:
    jobs, urgent = opened(), opened("urgent", priorities=2)
    jobs.put_many([b"%d" % n for n in range(30)])
    for delivery in jobs.get_many(30, 0):
        delivery.reject()
    slept: list[float] = []
    jobs.dead_letters.sleep = slept.append
    assert jobs.dead_letters.redrive(to=urgent, rate=100.0, limit=20) == (20, 10)
    assert urgent.qsize() == 20
    assert len(slept) == 2
    engine.create_topic("archive")
    assert jobs.dead_letters.redrive(to="archive") == (10, 0)
    assert engine.log_end_offset("archive", 0) == 10


def test_6c_cycles_are_refused(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    taken(jobs).reject()
    with pytest.raises(pylog.ConfigError):
        jobs.dead_letters.redrive(to="jobs.dlq")
    with pytest.raises(pylog.ConfigError):
        jobs.dead_letters.redrive(to=opened("jobs.dlq"))
    with pytest.raises(pylog.ConfigError):
        jobs.dead_letters.redrive(rate=0)


def test_a_foreign_record_in_the_dead_letter_topic_is_shown_and_not_guessed_at(
    opened: Opened, engine: pylog.Engine
) -> None:
    jobs = opened()
    engine.create_topic("jobs.dlq")
    engine.append("jobs.dlq", b"x", headers={"pylog-dead-attempts": b"many"})
    letter = buried(jobs)
    assert (letter.reason, letter.attempts, letter.topic) == ("unknown", 0, "")
    with pytest.raises(pylog.ConfigError, match="to="):
        jobs.dead_letters.redrive()
    assert len(jobs.dead_letters) == 1


# ---- 6d -------------------------------------------------------------------------------------------------


def test_6d_depth_age_counts_by_reason_and_the_hook(engine: pylog.Engine) -> None:
    told: list[tuple[bytes | None, str]] = []
    jobs = engine.queue(
        "jobs", on_dead_letter=lambda record, reason, error: told.append((record.value, reason))
    )
    assert (len(jobs.dead_letters), jobs.dead_letters.oldest()) == (0, None)
    jobs.put_many([b"1", b"2", b"3"])
    for reason in ("bad", "bad", "worse"):
        taken(jobs).reject(reason)
    assert told == [(b"1", "bad"), (b"2", "bad"), (b"3", "worse")]
    assert len(jobs.dead_letters) == 3
    assert jobs.dead_letters.by_reason() == {"bad": 2, "worse": 1}
    assert jobs.dead_by_reason() == {"bad": 2, "worse": 1}
    assert jobs.metrics()["dead"] == 3
    assert jobs.dead_letters.oldest() is not None
    assert jobs.dead_letters.purge() == 3
    assert (len(jobs.dead_letters), jobs.dead_letters.redrive()) == (0, (0, 0))


# ---- 6a, across processes -------------------------------------------------------------------------------

BURIER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs")
    print("ready")
    for delivery in jobs:
        delivery.reject("bad")
"""
REDRIVER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    jobs = engine.queue("jobs")
    print("ready")
    while True:
        jobs.dead_letters.redrive(limit=10)
"""


@pytest.mark.parametrize(("script", "count"), [(BURIER, 60), (REDRIVER, 80)], ids=["bury", "redrive"])
def test_6a_6c_a_killed_process_leaves_each_record_in_exactly_one_place(
    engine: pylog.Engine, data: Path, script: str, count: int
) -> None:
    jobs = engine.queue("jobs", retry=AT_ONCE, max_deliveries=60_000)
    expected = sorted(b"%d" % n for n in range(count))
    jobs.put_many(expected)
    if script is REDRIVER:
        for delivery in jobs.get_many(count, 0):
            delivery.reject()
    source = jobs.source if script is BURIER else jobs.dead_letters._source()
    assert source is not None
    kills = 0
    while kills < 6 and sum(level.ready + level.in_flight for level in source.counts()) > 0:
        with Child(script, data) as child:
            child.says()
            before = sum(level.finished for level in source.counts())
            while sum(level.finished for level in source.counts()) < min(before + 8, count):
                os.sched_yield()
            child.kill()
            kills += 1
        # one place each, at every moment between the kills
        everywhere = [entry.record.value for entry in jobs.peek(1000)]
        everywhere += [letter.record.value for letter in jobs.dead_letters]
        assert sorted(everywhere) == expected
    assert kills > 2


def test_a_hook_that_raises_does_not_undo_the_burial(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(record: pylog.Record, reason: str, error: BaseException | None) -> None:
        raise RuntimeError("pager is down")

    jobs = engine.queue("jobs", on_dead_letter=hook)
    jobs.put(b"a")
    with caplog.at_level(logging.ERROR, "pylog"):
        taken(jobs).reject("bad")
    assert "pager is down" in caplog.text
    assert len(jobs.dead_letters) == 1


def test_6c_what_is_buried_again_meanwhile_is_not_chased(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"%d" % n for n in range(150)])
    for delivery in jobs.get_many(150, 0):
        delivery.reject()

    def bury_again(seconds: float) -> None:
        for delivery in jobs.get_many(1000, 0):
            delivery.reject("still bad")

    jobs.dead_letters.sleep = bury_again
    assert jobs.dead_letters.redrive(rate=1e9) == (150, 100)


def test_a_redrive_that_fails_lets_go_of_what_it_had(opened: Opened, engine: pylog.Engine) -> None:
    jobs = opened()
    for value in (b"good", b"better"):
        jobs.put(value)
        taken(jobs).reject()

    def fail(seconds: float) -> None:
        raise InterruptedError

    jobs.dead_letters.sleep = fail
    with pytest.raises(InterruptedError):
        jobs.dead_letters.redrive(rate=1.0)
    assert jobs.dead_letters.redrive() == (2, 0)


def test_6c_a_letter_that_cannot_go_back_is_told_and_stays_and_all_others_go(
    opened: Opened, engine: pylog.Engine
) -> None:
    engine.queue("gone", dead_letter="graves").put(b"of a topic that is deleted")
    engine.queue("gone").get(0).reject()
    jobs = opened(dead_letter="graves")
    jobs.put_many([b"%d" % n for n in range(5)])
    for delivery in jobs.get_many(5, 0):
        delivery.reject()
    engine.append("graves", b"says nothing")
    engine.delete_topic("gone")
    for _ in range(2):
        with pytest.raises(pylog.UnknownTopicError, match="gone"):
            jobs.dead_letters.redrive()
        assert (jobs.qsize(), len(jobs.dead_letters)) == (5, 2)
    with pytest.raises(pylog.ConfigError, match="to="):
        jobs.dead_letters.redrive(where=~has_header("pylog-dead-topic"))
    engine.create_topic("gone")
    assert jobs.dead_letters.redrive(where=has_header("pylog-dead-topic")) == (1, 1)


def test_6c_letters_that_fill_more_than_a_transaction_are_redriven(
    opened: Opened, engine: pylog.Engine
) -> None:
    engine.create_topic("jobs", max_record_bytes=20 << 20)
    jobs = opened()
    for _ in range(2):
        jobs.put(bytes(17 << 20))
        taken(jobs).reject()
    assert jobs.dead_letters.redrive() == (2, 0)


def test_6b_a_letter_that_dies_again_is_two_burials_and_comes_back_by_two_redrives(opened: Opened) -> None:
    jobs, mourners = opened(), opened("jobs.dlq")
    jobs.put(b"a", headers=[("traceparent", b"00-7"), ("pylog-dead-topic", b"forged")])
    first = taken(jobs)
    identity = first.identity
    first.reject("bad", ValueError("no such order"))
    taken(mourners).reject("worse")
    (letter,) = mourners.dead_letters
    assert (letter.reason, letter.topic, letter.exception, letter.identity) == (
        "worse",
        "jobs.dlq",
        None,
        identity,
    )
    assert mourners.dead_letters.redrive() == (1, 0)
    letter = buried(jobs)
    assert (letter.reason, letter.topic, letter.message, letter.identity, letter.redrives) == (
        "bad",
        "jobs",
        "no such order",
        identity,
        1,
    )
    assert jobs.dead_letters.redrive() == (1, 0)
    with taken(jobs) as again:
        assert (again.identity, again.headers[:2]) == (identity, first.headers)
        assert not [name for name, _ in again.headers[2:] if name.startswith("pylog-dead-")]


@pytest.mark.parametrize(
    "forged",
    [
        ("pylog-identity", b"\xff\xfe"),
        ("pylog-redrives", b"9" * 5000),
        ("pylog-priority", b"9" * 5000),
        ("pylog-expires", b"9" * 5000),
        ("pylog-due", b"9" * 5000),
        ("pylog-due", None),
        ("pylog-dead-reason", b"\xff"),
        ("pylog-dead-partition", b"9" * 5000),
    ],
)
def test_headers_that_anybody_may_write_stand_in_nobodys_way(
    opened: Opened, forged: tuple[str, bytes | None]
) -> None:
    jobs = opened(priorities=2, max_deliveries=2)
    jobs.put(b"a", headers=[forged])
    assert [entry.state for entry in jobs.peek()] == ["ready"]
    taken(jobs).nack()
    delivery = taken(jobs)
    assert delivery.identity
    delivery.nack()
    assert buried(jobs).reason == "max_deliveries"
    assert jobs.dead_letters.redrive(to=jobs) == (1, 0)
    assert values(jobs) == [b"a"]


def test_a_reason_is_text_and_what_is_counted_is_what_is_written(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    delivery = taken(jobs)
    with pytest.raises(TypeError, match="reason"):
        delivery.reject(7)  # type: ignore[arg-type]
    delivery.reject("\ud800" + "x" * 5000)
    assert jobs.dead_by_reason() == jobs.dead_letters.by_reason() == {"x" * 1024: 1}


def test_dead_letters_that_were_deleted_are_gone_and_new_ones_are_there(
    opened: Opened, engine: pylog.Engine
) -> None:
    jobs = opened()
    for value in (b"a", b"b"):
        jobs.put(value)
        taken(jobs).reject()
        assert buried(jobs).record.value == value
        assert len(jobs.dead_letters) == 1
        engine.delete_topic("jobs.dlq")
        assert (len(jobs.dead_letters), list(jobs.dead_letters), jobs.dead_letters.oldest()) == (0, [], None)
        assert jobs.dead_letters.redrive() == (0, 0)
        assert jobs.dead_letters.purge() == 0


def test_an_exception_that_cannot_say_anything_is_buried_all_the_same(engine: pylog.Engine) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise LookupError

    class Serde:
        def serialize(self, value: object) -> bytes:
            return b"x"

        def deserialize(self, data: bytes) -> object:
            raise MuteError

    jobs = engine.queue("jobs", serde=Serde())
    jobs.put("a")
    assert jobs.get(0) is None
    letter = buried(jobs)
    assert (letter.reason, letter.exception) == ("undecodable", "pylog.errors.SerializationError")
    assert "LookupError" in (letter.message or "")


def test_6c_dead_letters_that_would_come_back_by_dying_are_refused(engine: pylog.Engine) -> None:
    engine.queue("a", dead_letter="b").close()
    engine.queue("b", dead_letter="c").close()
    for cycle in ("c", "a", "b"):
        with pytest.raises(pylog.ConfigError, match="leads back"):
            engine.queue("c", dead_letter=cycle)
    engine.queue("c", dead_letter="d").close()
    with pytest.raises(pylog.ConfigError, match="leads back"):
        engine.queue("others", topic="b", dead_letter="a")
