"""Filters (pattern 13): the same object for consumers and queues, native where key and headers tell."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pylog
from pylog.filters import (
    Filter,
    expression,
    field_is,
    has_header,
    header_is,
    header_starts,
    key_is,
    key_starts,
    where,
)
from pylog.records import Record

BYTES = st.sampled_from([b"", b"a", b"ab", b"abc", b"b", b"\xff"])
NAMES = st.sampled_from(["kind", "k", "source"])
MAYBE_BYTES = st.none() | BYTES
VALUES = st.sampled_from(
    [None, b"", b"{", b"1", b"null", b'{"n": 1}', b'{"n": 2.5, "l": [{"x": "y"}]}', b'{"n": true}']
)
RECORDS = st.lists(
    st.tuples(MAYBE_BYTES, VALUES, st.lists(st.tuples(NAMES, MAYBE_BYTES), max_size=3)), max_size=30
)
LEAVES = st.one_of(
    st.lists(MAYBE_BYTES, min_size=1, max_size=3).map(lambda keys: key_is(*keys)),
    st.just(key_is(*(b"%d" % n for n in range(20)), b"ab")),
    BYTES.map(key_starts),
    NAMES.map(has_header),
    st.builds(header_is, NAMES, MAYBE_BYTES),
    st.builds(header_starts, NAMES, BYTES),
    st.just(field_is("n", 1)),
    st.just(field_is("l.0.x", "y")),
    st.just(expression("value.n > 1")),
    st.just(where(lambda record: record.offset % 2 == 0)),
)
FILTERS = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(lambda a, b: a & b, parts, parts),
        st.builds(lambda a, b: a | b, parts, parts),
        parts.map(lambda part: ~part),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pylog.Engine]:
    with pylog.open(tmp_path_factory.mktemp("shared")) as engine:
        yield engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[pylog.Engine]:
    with pylog.open(tmp_path / "data") as engine:
        yield engine


def lag(engine: pylog.Engine) -> int:
    return engine.describe_group("billing").lag


def offsets(records: Any) -> list[int]:
    return [record.offset for record in records]


@settings(max_examples=60)
@given(records=RECORDS, sieve=FILTERS, at_once=st.integers(1, 40), split=st.integers(1, 40))
def test_13a_a_pushed_down_filter_equals_a_full_scan_with_the_predicate(
    shared: pylog.Engine,
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
    sieve: Filter,
    at_once: int,
    split: int,
) -> None:
    topic = f"t{len(shared.list_topics())}"
    shared.create_topic(topic)
    for first in range(0, len(records), split):
        part = records[first : first + split]
        shared.append_many(
            topic, [value for _, value, _ in part], [key for key, _, _ in part],
            headers=[headers for _, _, headers in part],
        )  # fmt: skip
    expected = [record.offset for record in shared.read(topic) if sieve.matches(record)]
    with shared.consumer(filter=sieve, auto_offset_reset="earliest", timeout=0.0) as consumer:
        consumer.assign([(topic, 0)])
        found = []
        while part := consumer.poll(at_once):
            found += offsets(part)
        assert found == expected
        assert consumer.position((topic, 0)) == len(records)
        assert consumer.metrics()["rejected"] == len(records) - len(expected)
        consumer.seek_to_beginning()
        assert offsets(consumer) == expected
    shared.delete_topic(topic)


@settings(max_examples=40)
@given(records=RECORDS, sieve=FILTERS)
def test_13a_what_the_columns_tell_is_what_the_record_says(
    shared: pylog.Engine,
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
    sieve: Filter,
) -> None:
    topic = f"t{len(shared.list_topics())}"
    shared.create_topic(topic)
    for key, value, headers in records:
        shared.append(topic, value, key=key, headers=headers)
    for record in shared.read(topic):
        answer = sieve.matcher.match(record)
        assert answer is sieve.matches(record) or (answer is None and not sieve.decided)
    shared.delete_topic(topic)


def test_key_and_headers_decide_before_a_record_object_exists(engine: pylog.Engine) -> None:
    engine.create_topic("orders")
    engine.append_many("orders", [b"v"] * 1000, [b"k%d" % (n % 10) for n in range(1000)])
    asked: list[Record] = []

    def seen(record: Record) -> bool:
        asked.append(record)
        return True

    sieve = key_is(b"k3") & where(seen)
    with engine.consumer("orders", filter=sieve, auto_offset_reset="earliest") as consumer:
        assert len(consumer.poll(1000)) == 100
    assert len(asked) == 100


# ---- 13b ------------------------------------------------------------------------------------------------


def record_of(engine: pylog.Engine, value: bytes | None, **rest: Any) -> Record:
    topic = f"r{len(engine.list_topics())}"
    engine.create_topic(topic)
    engine.append(topic, value, **rest)
    return next(engine.read(topic))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("value.total > 100", True),
        ("value.total > 100.5 && value.status == 'paid'", True),
        ("value.status in ['open', 'late']", False),
        ("value.lines.exists(line, line.sku == 'b')", True),
        ("size(value.lines) == 2", True),
        ("has(value.missing)", False),
        ("value.missing == 1", False),
        ("value.total == 'many'", False),
        ("value.total", False),
        ("'vip' in headers", True),
        ("headers.vip == b'yes'", True),
        ("key == b'order-7'", True),
        ("topic.startsWith('r') && partition == 0 && offset == 0 && timestamp == 17", True),
        ("value.total / 0 == 1", False),
        ("value.status.startsWith('p') && value.lines.map(line, line.sku).size() == 2", True),
        ("value.total.startsWith('p')", False),
        ("value.status.matches('(')", False),
        ("size(value.total) == 0 || uint(value.status) > 0u", False),
        ("type(value.total) == int && int(timestamp) == 17", True),
    ],
)
def test_13b_an_expression_sees_the_json_fields_key_and_headers(
    engine: pylog.Engine, text: str, expected: bool
) -> None:
    value = json.dumps({"total": 150, "status": "paid", "lines": [{"sku": "a"}, {"sku": "b"}]}).encode()
    record = record_of(engine, value, key=b"order-7", headers={"vip": b"yes"}, timestamp=17)
    assert expression(text).matches(record) is expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "open('/etc')",
        "value.total +",
        "total",
        "value.total > 1 && totl > 1",
        "value.status.upper() == 'PAID'",
        "has(value.total) || line.sku == 'a'",
    ],
)
def test_13b_what_is_no_expression_is_refused_when_it_is_built(text: str) -> None:
    with pytest.raises(pylog.ConfigError):
        expression(text)


def test_13b_without_its_library_an_expression_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cel", None)
    with pytest.raises(pylog.UnsupportedError, match=r"pylog-engine\[filters\]"):
        expression("true")


def test_13b_nothing_of_python_is_reached_from_an_expression(engine: pylog.Engine) -> None:
    record = record_of(engine, b'{"n": 1}')
    assert not expression("value.__class__ == 1").matches(record)
    assert not expression("value.n.real == 1").matches(record)


def test_a_value_that_is_no_json_is_rejected(engine: pylog.Engine) -> None:
    record = record_of(engine, b"\xff{")
    assert not expression("value == 1 || true").matches(record)
    assert not field_is("n", 1).matches(record)
    assert not field_is("n", 1).matches(record_of(engine, b"[" * 100_000))


def test_true_is_no_one(engine: pylog.Engine) -> None:
    record = record_of(engine, b'{"n": true, "f": 1.0, "nothing": null}')
    assert not field_is("n", 1).matches(record)
    assert field_is("f", 1).matches(record)
    assert field_is("nothing", None).matches(record)
    assert not field_is("missing", None).matches(record)


def test_a_place_beyond_a_list_is_missing(engine: pylog.Engine) -> None:
    record = record_of(engine, b'{"lines": ["a", "b"]}')
    assert field_is("lines.1", "b").matches(record)
    for place in ("2", "-1", "9" * 5000, "\u0661", ""):
        assert not field_is(f"lines.{place}", "b").matches(record)


# ---- 13c, 13d -------------------------------------------------------------------------------------------


def test_13c_rejected_records_are_counted_and_may_be_routed(engine: pylog.Engine) -> None:
    engine.create_topic("orders")
    engine.create_topic("rest")
    engine.append_many("orders", [b"%d" % n for n in range(10)], [b"a", b"b"] * 5)

    def route(record: Record) -> None:
        engine.append("rest", record.value, key=record.key)

    with engine.consumer(
        "orders", filter=key_is(b"a"), on_rejected=route, auto_offset_reset="earliest"
    ) as consumer:
        assert len(consumer.poll()) == 5
        assert consumer.metrics()["rejected"] == 5
    assert [record.value for record in engine.read("rest")] == [b"1", b"3", b"5", b"7", b"9"]


def test_13c_a_filter_that_lets_nothing_through_warns_once(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.create_topic("orders")
    engine.append_many("orders", [b"v"] * 100)
    typo = key_is(b"ordr-7").warning_after(50)
    with engine.consumer("orders", filter=typo, auto_offset_reset="earliest", timeout=0) as consumer:
        with caplog.at_level(logging.WARNING, "pylog"):
            assert list(consumer) == []
            engine.append_many("orders", [b"v"] * 100)
            assert list(consumer) == []
    assert [message for message in caplog.messages if "let none of" in message] == [
        "the filter (key_is(b'ordr-7')) let none of 100 records through"
    ]


@pytest.mark.parametrize("by", ["poll", "iteration"])
def test_13d_commits_pass_a_filtered_tail_and_lag_goes_to_zero(engine: pylog.Engine, by: str) -> None:
    engine.create_topic("orders", partitions=2)
    for partition in range(2):
        engine.append_many("orders", [b"v"] * 10, [b"a"] + [b"b"] * 9, partition=partition)
    with engine.consumer(
        "orders", group="billing", filter=key_is(b"a"), auto_offset_reset="earliest", timeout=0
    ) as consumer:
        assert len(consumer.poll() if by == "poll" else list(consumer)) == 2
        consumer.commit()
    assert lag(engine) == 0


def test_13d_a_commit_never_passes_what_was_not_given_yet(engine: pylog.Engine) -> None:
    engine.create_topic("orders")
    engine.append_many("orders", [b"v"] * 9, [b"b", b"b", b"a"] * 3)
    with engine.consumer(
        "orders", group="billing", filter=key_is(b"a"), auto_offset_reset="earliest", timeout=0
    ) as consumer:
        for record, committed in zip(consumer, [5, 8, 9], strict=True):
            consumer.commit()
            assert consumer.committed(("orders", 0)) == committed > record.offset


def test_13d_workers_of_a_parallel_consumer_leave_no_lag_behind(engine: pylog.Engine) -> None:
    engine.create_topic("orders", partitions=3)
    for partition in range(3):
        engine.append_many("orders", [b"v"] * 50, [b"a", *[b"b"] * 49], partition=partition)
    seen: list[Record] = []
    pool = pylog.ParallelConsumer(engine, "orders", seen.append, group="billing", filter=key_is(b"a"))
    pool.run(idle=0.0)
    assert len(seen) == 3
    assert lag(engine) == 0


def test_a_filter_that_raises_loses_no_record(engine: pylog.Engine) -> None:
    engine.create_topic("orders")
    engine.append_many("orders", [b"1", b"2", b"3"])
    broken = [True]

    def predicate(record: Record) -> bool:
        if broken[0] and record.value == b"2":
            raise LookupError
        return True

    with engine.consumer("orders", filter=where(predicate), auto_offset_reset="earliest") as consumer:
        with pytest.raises(LookupError):
            consumer.poll()
        assert consumer.position(("orders", 0)) == 0
        broken[0] = False
        assert [record.value for record in consumer.poll()] == [b"1", b"2", b"3"]


def test_a_match_behind_very_many_others_is_found_by_one_poll(engine: pylog.Engine) -> None:
    engine.create_topic("orders")
    engine.append_many("orders", [b""] * 200_000)
    engine.append("orders", b"found", key=b"a")
    with engine.consumer("orders", filter=key_is(b"a"), auto_offset_reset="earliest") as consumer:
        assert [record.value for record in consumer.poll()] == [b"found"]


# ---- wrong use ------------------------------------------------------------------------------------------


def test_filters_are_combined_by_operators_that_python_does_not_shortcut() -> None:
    with pytest.raises(TypeError, match="&"):
        key_is(b"a") and key_is(b"b")
    with pytest.raises(TypeError):
        key_is(b"a") & True  # type: ignore[operator]
    assert repr(key_is(b"a") & ~header_is("kind", b"test") | has_header("x")) == (
        "((key_is(b'a') & ~header_is('kind', b'test')) | has_header('x'))"
    )


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: key_is("a"), TypeError),
        (lambda: key_is(), pylog.ConfigError),
        (lambda: key_starts(None), TypeError),
        (lambda: header_is(b"kind", b"x"), TypeError),
        (lambda: header_is("kind"), pylog.ConfigError),
        (lambda: field_is("n"), pylog.ConfigError),
        (lambda: where(True), TypeError),
    ],
)
def test_what_makes_no_filter_is_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        wrong()


def test_what_a_consumer_cannot_filter_is_refused(engine: pylog.Engine) -> None:
    engine.create_topic("orders")
    with pytest.raises(TypeError, match="filter="):
        engine.consumer("orders", filter=lambda record: True)  # type: ignore[arg-type]
    with pytest.raises(pylog.ConfigError, match="filter="):
        engine.consumer("orders", on_rejected=print)
    with engine.consumer("orders", filter=key_is(b"a")) as consumer:
        with pytest.raises(pylog.ConfigError, match="whole"):
            consumer.batches()
