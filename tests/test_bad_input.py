"""Whatever a program passes by mistake: one named error, and neither a record nor a commit of it is left."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest

import pylog
from pylog.records import OffsetAndMetadata

PLACE = ("t", 0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[pylog.Engine]:
    with pylog.open(tmp_path / "data") as opened:
        opened.create_topic("t", partitions=2)
        opened.append_many("t", [b"first"] * 10, partition=0)
        yield opened


@pytest.mark.parametrize("given", ["t", [PLACE], PLACE, 5, b"t"])
def test_offsets_and_times_are_given_as_a_dict(engine: pylog.Engine, given: Any) -> None:
    with engine.consumer(group="g") as consumer:
        consumer.assign([PLACE])
        for use in (consumer.commit, consumer.offsets_for_times):
            with pytest.raises(TypeError, match=r"a dict of \w+ by \(topic, partition\)"):
                use(given)


@pytest.mark.parametrize("metadata", ["text", bytes(4097), None])
def test_a_commit_with_wrong_metadata_commits_none_of_its_offsets(
    engine: pylog.Engine, metadata: Any
) -> None:
    with engine.consumer(group="g") as consumer:
        consumer.assign([PLACE, ("t", 1)])
        with pytest.raises(pylog.ConfigError, match="metadata"):
            consumer.commit({PLACE: 5, ("t", 1): OffsetAndMetadata(0, metadata)})
        assert consumer.committed(PLACE) is None


@pytest.mark.parametrize("time", [1 << 63, -(1 << 63) - 1, datetime.max.replace(tzinfo=UTC)])
def test_a_time_beyond_64_bits_is_refused(engine: pylog.Engine, time: Any) -> None:
    with engine.consumer() as consumer:
        consumer.assign([PLACE])
        with pytest.raises(pylog.ConfigError, match="64 bits"):
            consumer.seek_to_time(time)
        with pytest.raises(pylog.ConfigError, match="64 bits"):
            consumer.offsets_for_times({PLACE: time})
        assert consumer.position(PLACE) == 10


@pytest.mark.parametrize(
    ("partition", "error"),
    [
        (0.0, TypeError),
        (True, TypeError),
        ("0", TypeError),
        (2, ValueError),
        (-1, ValueError),
        (1 << 40, ValueError),
    ],
)
def test_the_sequence_of_a_wrong_partition_is_not_asked_for(
    engine: pylog.Engine, partition: Any, error: type[Exception]
) -> None:
    with engine.producer(producer_id="p") as producer, pytest.raises(error, match="partition"):
        producer.last_sequence("t", partition)


@pytest.mark.parametrize("wrong", [{"timestamps": {0: 1}}, {"headers": {0: None}}, {"headers": iter([None])}])
def test_what_belongs_to_each_of_many_is_a_list(engine: pylog.Engine, wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="are a list, one for each value"):
        engine.append_many("t", [b"x"], **wrong)


@pytest.mark.parametrize(
    ("name", "last"),
    [("timestamps", "now"), ("headers", 5), ("headers", {"h": "text"}), ("headers", {"h": bytes(2 << 20)})],
)
def test_a_wrong_last_one_of_very_many_leaves_none_of_them(
    engine: pylog.Engine, name: str, last: Any
) -> None:
    count = 4000  # of 1000 bytes: several batches
    with pytest.raises((TypeError, pylog.RecordTooLargeError)):
        engine.append_many("t", [bytes(1000)] * count, partition=1, **{name: [None] * (count - 1) + [last]})
    assert engine.log_end_offset("t", 1) == 0


@pytest.mark.parametrize("topics", [5, b"t", re.compile(b"t"), date.today(), [re.compile(b"t")]])
def test_a_subscription_is_of_names_and_patterns(engine: pylog.Engine, topics: Any) -> None:
    with pytest.raises(TypeError, match=r"topics|pattern"):
        engine.consumer(topics, group="g")


@pytest.mark.parametrize("option", ["on_assign", "on_revoke"])
def test_a_callback_that_cannot_be_called_is_refused_before_joining(
    engine: pylog.Engine, option: str
) -> None:
    with pytest.raises(TypeError, match=f"{option} is a function, not int"):
        engine.consumer("t", group="g", **{option: 5})


# ---- anything at all ---------------------------------------------------------------------------------------

OFFSETS = numpy.array([0, 1], numpy.int32)
ANYTHING: list[Any] = [
    None, True, 0, 1, -1, 2, 1 << 31, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 70, 0.0, -1.5, float("nan"),
    float("inf"), "", "t", "none", "\ud800", "a" * 300, "../x", "-x", ".", "é", "earliest", "sync", "*",
    "[", "t\0", b"", b"t", bytearray(b"t"), memoryview(b"x"), [], ["t"], [b"x"], [None], [1], [PLACE],
    [("t", 1 << 70)], [("t", -1)], [("t",)], (), PLACE, ("t", 7), ("t", 0.0), {}, {"t": 0}, {PLACE: 0},
    {PLACE: -1}, {PLACE: 1 << 70}, {PLACE: "x"}, {"h": b"x"}, {"h": "x"}, {1: b"x"}, [("h", b"v")],
    [("\ud800", b"v")], [("h" * 70_000, b"v")], object(), int, len, numpy.int64(-1), OFFSETS, (OFFSETS,
    b"x"), (OFFSETS * 9, b"x"), (OFFSETS[::-1], b"x"), (OFFSETS[:0], b""), pyarrow.array([b"a", None]),
    pyarrow.array(["a"]), pyarrow.array([1]), pyarrow.array([[b"a"]]), re.compile("t"), re.compile(b"t"),
    datetime.min, datetime.max, date.min, range(3), iter([1]), {"t"},
]  # fmt: skip
TOPIC = ["durability", "compression_type", "max_record_bytes", "sync_interval_ms", "max_unsynced_bytes"]
ONE = ["partition", "headers", "timestamp"]
CALLS: dict[str, dict[str, tuple[tuple[Any, ...], list[str]]]] = {  # good arguments, and what more it takes
    "engine": {
        "append": (("t", b"x"), [*ONE, "durability"]),
        "append_many": (("t", [b"x"]), ["keys", "partition", "timestamps", "headers", "durability"]),
        "read": (("t",), ["partition", "offset", "isolation"]),
        "create_topic": (("t",), ["partitions", "partitioner", "if_exists", "segment_bytes", *TOPIC]),
        "alter_topic": (("t",), TOPIC),
        "describe_topic": (("t",), []),
        "log_start_offset": (PLACE, []),
        "log_end_offset": (PLACE, []),
        "synced_offset": (PLACE, []),
        "recover": (PLACE, []),
        "sync": (("t", 0), []),
        "producer": (
            (),
            ["producer_id", "on_delivery", "key_serde", "value_serde", "linger_ms", "batch_bytes"],
        ),
        "consumer": (
            ("t",),
            ["group", "auto_offset_reset", "isolation", "timeout", "on_truncate", "on_assign"],
        ),
    },
    "producer": {
        "send": (("t", b"x"), [*ONE, "key", "sequence"]),
        "last_sequence": (PLACE, []),
        "resume_from": (("t",), []),
    },
    "consumer": {
        "assign": (([PLACE],), []),
        "subscribe": (("t",), []),
        "poll": ((), ["max_records"]),
        "position": ((PLACE,), []),
        "seek": ((PLACE, 0), []),
        "seek_to_beginning": (([PLACE],), []),
        "seek_to_end": (([PLACE],), []),
        "seek_to_time": ((0,), ["partitions"]),
        "committed": ((PLACE,), []),
        "commit": (({PLACE: 0},), []),
        "pause": (([PLACE],), []),
        "resume": (([PLACE],), []),
        "end_offsets": (([PLACE],), []),
        "offsets_for_times": (({PLACE: 0},), []),
    },
}
NOT_OURS = re.compile(r"not (iterable|subscriptable|callable)|has no (len|attribute)|integer is required")


def test_any_argument_of_any_call_is_taken_or_refused_by_a_clear_error(engine: pylog.Engine) -> None:
    seed = int(os.environ.get("PYLOG_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
    print(f"PYLOG_TEST_SEED={seed}")
    rng = random.Random(seed)
    mine: dict[str, Any] = {
        "engine": engine,
        "producer": engine.producer(producer_id="p", linger_ms=3_600_000),
    }
    mine["consumer"] = engine.consumer(group="g")
    in_it, refused = 10, 0
    for _ in range(4000):
        whose = rng.choice(list(CALLS))
        name, (good, options) = rng.choice(list(CALLS[whose].items()))
        arguments = list(good)
        if arguments and rng.random() < 0.6:
            arguments[rng.randrange(len(arguments))] = rng.choice(ANYTHING)
        given = {option: rng.choice(ANYTHING) for option in options if rng.random() < 0.3}
        if whose == "consumer" and rng.random() < 0.5:
            mine["consumer"].assign([PLACE])
        try:
            result = getattr(mine[whose], name)(*arguments, **given)
            if name in ("append", "send"):
                in_it += 1
            elif name == "append_many":
                in_it += len(result)
            elif name in ("producer", "consumer"):
                result.close()
        except (pylog.PylogError, TypeError, ValueError) as error:
            refused += 1
            call = f"{whose}.{name}(*{arguments!r}, **{given!r})"
            assert not isinstance(error, UnicodeError) and str(error), f"{call}: {error!r}"
            assert not NOT_OURS.search(str(error)), f"{call}: {error!r}"
    assert refused > 1000
    mine["producer"].close()
    in_it -= mine["producer"].metrics()["duplicates_dropped"]
    records = list(engine.read("t"))
    assert len(records) == in_it
    assert [record.value for record in records[:10]] == [b"first"] * 10
