"""topics, describe, create, delete and bench."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from running import Command

import pylog
from pylog.cli import ERROR, OK, USAGE


def test_a_topic_is_created_listed_described_and_deleted(run: Command) -> None:
    assert run("create", "orders", "-p", "3", "-c", "segment_bytes=65536", "-c", "durability=os")[0] == OK
    assert run("create", "orders")[0] == ERROR
    code, _, said = run("create", "orders", "-p", "3", "--if-not-exists")
    assert (code, said) == (OK, "found orders with 3 partitions\n")
    assert run("create", "orders", "-p", "4", "--if-not-exists")[0] == ERROR
    (listed,) = run.rows("topics")
    assert (listed["topic"], listed["partitions"], listed["records"]) == ("orders", 3, 0)
    (described,) = run.rows("describe", "orders")
    assert described["config"]["segment_bytes"] == 65536  # type: ignore[index]
    (plan,) = run.rows("delete", "orders")
    assert not plan["done"]
    assert len(run.rows("topics")) == 1
    (done,) = run.rows("delete", "orders", "--execute")
    assert done["done"]
    assert run.rows("topics") == []


def test_a_topic_is_altered_after_its_plan_was_shown(run: Command) -> None:
    run("create", "orders", "-p", "2")
    change = ("alter", "orders", "-p", "3", "-c", "retention_ms=1000")
    plan = [("partitions", 2, 3), ("retention_ms", -1, 1000)]
    _, _, said = run(*change)
    assert "most keys choose another partition" in said and "nothing was changed" in said
    for execute, partitions in (((), 2), (("--execute",), 3)):
        assert [tuple(row.values()) for row in run.rows(*change, *execute)] == plan
        (described,) = run.rows("describe", "orders")
        assert described["partitions"] == partitions
    assert run.rows(*change) == []
    for execute in ((), ("--execute",)):
        code, _, said = run("alter", "orders", "-p", "2", "-c", "retention_ms=7", *execute)
        assert (code, "none is taken away" in said) == (USAGE, True)
    assert run.rows("describe", "orders")[0]["config"]["retention_ms"] == 1000  # type: ignore[index]
    assert run("alter", "orders", "-c", "retention_ms=long")[0] == USAGE


def test_a_topic_is_copied_into_one_of_another_shape(orders: Command) -> None:
    (copied,) = orders.rows("copy", "orders", "wider", "-p", "5")
    rows = {str(row["topic"]): row for row in orders.rows("topics")}
    assert rows["wider"]["partitions"] == 5
    assert rows["wider"]["records"] == copied["copied"] == rows["orders"]["records"]
    assert orders("copy", "orders", "wider", "-p", "4")[0] == ERROR


def test_11e_skew_shows_hot_partitions_and_keys(data: Path, run: Command) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("orders", partitions=4)
        engine.append_many("orders", [b"x" * 10] * 400, [b"key-%d" % n for n in range(400)])
        hot = engine.append("orders", b"x" * 10, key=b"hot").partition
        engine.append_many("orders", [b"x" * 10] * 599, [b"hot"] * 599)
        engine.append_many("orders", [b"y"] * 50, partition=(hot + 1) % 4)
    rows = run.rows("topic", "skew", "orders", "-n", "3")
    partitions = [row for row in rows if row["kind"] == "partition"]
    keys = [row for row in rows if row["kind"] == "key"]
    assert sum(int(str(row["records"])) for row in partitions) == 1050
    assert max(partitions, key=lambda row: float(str(row["times_the_mean"])))["partition"] == hot
    assert partitions[(hot + 1) % 4]["without_key"] == 50
    assert len(keys) == 3
    assert (keys[0]["key"], keys[0]["records"], keys[0]["partition"]) == ("hot", 600, hot)
    assert keys[0]["percent"] == round(100 * 600 / 1050, 2) and keys[1]["records"] == 1
    rows = run.rows("topic", "skew", "orders", "--last", "30")
    assert sum(int(str(row["records"])) for row in rows if row["kind"] == "partition") == 120
    _, drawn, _ = run("topic", "skew", "orders", terminal=True)
    assert "hot" in drawn.decode()


def test_11e_skew_of_more_keys_than_are_counted_finds_the_hot_one(
    data: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylog.cli.topic.MOST_KEYS", 50)
    with pylog.open(data) as engine:
        engine.create_topic("orders")
        for first in range(0, 1000, 100):
            keys = [b"hot" if n % 10 == 0 else b"key-%d" % n for n in range(first, first + 100)]
            engine.append_many("orders", [b"x"] * 100, keys)
    hottest = next(row for row in run.rows("topic", "skew", "orders") if row["kind"] == "key")
    assert (hottest["key"], hottest["records"]) == ("hot", 100)


def test_tables_are_tab_separated_on_a_pipe_and_drawn_on_a_terminal(orders: Command) -> None:
    _, out, _ = orders("topics")
    assert out.decode().split("\t")[:3] == ["orders", "2", "0"]
    _, drawn, _ = orders("topics", terminal=True)
    assert "partitions" in drawn.decode()
    _, out, _ = orders("describe", "orders")
    assert b"fixed_partitions\tfalse\n" in out
    _, drawn, _ = orders("describe", "orders", terminal=True)
    assert b"fixed_partitions" in drawn and b"\t" not in drawn


def test_a_narrow_terminal_breaks_no_word_of_a_table(data: Path, run: Command) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("orders", partitions=1)
        engine.append_many("orders", [b"x"] * 12_345)
    run.monkeypatch.setenv("COLUMNS", "20")
    _, drawn, _ = run("verify", "orders", terminal=True)
    words = re.sub(r"\x1b\[\d+m", "", drawn.decode()).split()
    for word in ("checked", "segments", "batches", "records", "offset", "durable", "verdict", "12,345"):
        assert word in words, drawn.decode()


def test_bench_measures_and_leaves_nothing(data: Path, run: Command) -> None:
    data.mkdir()
    code, out, err = run("--json", "bench", "-n", "2000")
    rows = [json.loads(line) for line in out.splitlines()]
    measured = [row["operation"] for row in rows]
    assert measured[-4:] == ["append_many", "poll", "append", "append synced"]
    assert all(row["per_second"] > 0 for row in rows)
    assert list(data.iterdir()) == []
    assert code == (OK if "send" in measured else ERROR)
    assert ("could not be measured" in err) == (code == ERROR)
