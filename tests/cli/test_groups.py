"""groups, group, check lag and top."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Command, started

import pylog
from pylog.cli import CHECK_FAILED, ERROR, OK, USAGE


@pytest.fixture
def billing(run: Command, data: Path) -> Command:
    """Group billing has consumed 4 of 10 records in partition 0 of orders, all 3 of partition 1."""
    with pylog.open(data) as engine:
        engine.create_topic("orders", partitions=2)
        engine.append_many("orders", [b"x"] * 10, partition=0, timestamps=[n * 10**9 for n in range(10)])
        engine.append_many("orders", [b"x"] * 3, partition=1)
        with engine.consumer(group="billing") as consumer:
            consumer.assign([("orders", 0), ("orders", 1)])
            consumer.commit({("orders", 0): pylog.OffsetAndMetadata(4, b"page 2"), ("orders", 1): 3})
    return run


@pytest.fixture
def member(billing: Command, data: Path) -> Iterator[pylog.Consumer]:
    with pylog.open(data) as engine, engine.consumer("orders", group="billing") as consumer:
        yield consumer


def offsets(run: Command) -> list[object]:
    return [row["current_offset"] for row in run.rows("group", "billing")]


def test_groups_lists_every_group(billing: Command) -> None:
    (row,) = billing.rows("groups")
    assert row.pop("lag_seconds") > 10**9  # type: ignore[operator]
    assert row == {"group": "billing", "state": "empty", "members": 0, "topics": 1, "lag": 6}


def test_a_directory_without_groups_says_so(run: Command) -> None:
    assert run("create", "orders")[0] == OK
    assert run("groups")[:2] == (OK, b"")
    code, _, err = run("group", "billing")
    assert (code, err) == (ERROR, "pylog: error: there is no group 'billing'\n")


def test_describe_uses_the_column_names_of_kafka(billing: Command) -> None:
    first, second = billing.rows("group", "billing")
    assert {key: first[key] for key in ("topic", "partition", "current_offset", "log_end_offset", "lag")} == {
        "topic": "orders",
        "partition": 0,
        "current_offset": 4,
        "log_end_offset": 10,
        "lag": 6,
    }
    assert (first["metadata"], first["consumer_id"]) == ("page 2", None)
    assert (second["lag"], second["lag_seconds"]) == (0, 0.0)
    _, drawn, _ = billing("group", "billing", terminal=True)
    assert b"GROUP" in drawn
    assert b"PARTITION" in drawn


def test_describe_shows_who_reads_what(billing: Command, member: pylog.Consumer) -> None:
    (row,) = billing.rows("group", "billing", "describe", "--members")
    assert (row["partitions"], row["assignment"]) == (2, "orders-0 orders-1")
    assert {found["consumer_id"] for found in billing.rows("group", "billing")} == {row["consumer_id"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to-earliest"], [0, 0]),
        (["--to-latest"], [10, 3]),
        (["--to-offset", "2"], [2, 2]),
        (["--shift-by", "-1"], [3, 2]),
        (["--to-datetime", "1970-01-01T00:00:08Z"], [8, 0]),
        (["--by-duration", "PT24H"], [10, 0]),
        (["--to-earliest", "--topic", "orders:1"], [4, 0]),
        (["--to-latest", "--topic", "orders"], [10, 3]),
    ],
    ids=lambda given: "".join(map(str, given[:1])),
)
def test_reset_shows_its_plan_and_executes_when_told(
    billing: Command, arguments: list[str], expected: list[int]
) -> None:
    plan = billing.rows("group", "billing", "reset", *arguments)
    assert offsets(billing) == [4, 3]
    assert billing.rows("group", "billing", "reset", *arguments, "--execute") == plan
    assert offsets(billing) == expected


def test_an_exported_plan_is_read_from_its_file(billing: Command, tmp_path: Path) -> None:
    code, exported, _ = billing("group", "billing", "reset", "--to-earliest", "--export")
    assert (code, exported) == (OK, b"orders,0,0\norders,1,0\n")
    plan = tmp_path / "plan.csv"
    plan.write_bytes(exported)
    assert billing("group", "billing", "reset", "--from-file", str(plan), "--execute")[0] == OK
    assert offsets(billing) == [0, 0]
    plan.write_text("orders,0\n")
    code, _, err = billing("group", "billing", "reset", "--from-file", str(plan), "--execute")
    assert code == USAGE
    assert "line 1" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--to-datetime", "yesterday"],
        ["--to-datetime", "2026-11-25T08:00:00"],
        ["--by-duration", "P"],
        ["--by-duration", "P99999999999D"],
        ["--to-latest", "--topic", "orders:x"],
        ["--to-latest", "--topic", "orders:2"],
        ["--to-latest", "--to-earliest"],
    ],
)
def test_a_reset_to_nowhere_is_a_mistake_of_usage(billing: Command, arguments: list[str]) -> None:
    assert billing("group", "billing", "reset", *arguments, "--execute")[0] == USAGE
    assert offsets(billing) == [4, 3]


def test_reset_and_delete_are_refused_while_members_live(billing: Command, member: pylog.Consumer) -> None:
    code, _, err = billing("group", "billing", "reset", "--to-earliest", "--execute")
    assert code == ERROR
    assert "living members" in err
    assert "forced" in err
    assert billing("group", "billing", "delete", "--execute")[0] == ERROR
    assert billing("group", "billing", "reset", "--to-earliest", "--execute", "--force")[0] == OK
    assert offsets(billing) == [0, 0]


def test_delete_shows_its_plan_and_executes_when_told(billing: Command) -> None:
    (plan,) = billing.rows("group", "billing", "delete")
    assert plan == {"delete": "billing", "members": 0, "offsets": 2, "done": False}
    assert offsets(billing) == [4, 3]
    (done,) = billing.rows("group", "billing", "delete", "--execute")
    assert done["done"]
    assert billing.rows("groups") == []


def test_check_lag_fails_beyond_a_limit(billing: Command) -> None:
    assert billing("check", "lag", "--max-records", "6")[0] == OK
    code, out, _ = billing("--json", "check", "lag", "--max-records", "5")
    (late,) = [json.loads(line) for line in out.splitlines()]
    assert (code, late["group"], late["partition"], late["lag"]) == (CHECK_FAILED, "billing", 0, 6)
    assert billing("check", "lag", "--max-seconds", "60", "--group", "billing")[0] == CHECK_FAILED
    assert billing("check", "lag", "--max-seconds", "1e12")[0] == OK
    assert billing("check", "lag")[0] == USAGE
    assert billing("check", "lag", "--max-records", "1", "--group", "none")[0] == ERROR


def test_top_prints_so_many_looks_on_a_pipe(billing: Command) -> None:
    first, second = billing.rows("top", "-n", "2", "-d", "0.01")
    assert (first["group"], first["topic"], first["lag"]) == ("billing", "orders", 6)
    assert (second["written_per_second"], second["consumed_per_second"]) == (0.0, 0.0)
    assert billing("top", "-n", "1", "-d", "nan")[0] == USAGE


def test_top_shows_what_is_written_and_consumed_meanwhile(billing: Command, data: Path) -> None:
    with started(data, "--json", "top", "-d", "0.1") as (_, out, _), pylog.open(data) as engine:
        assert json.loads(out.readline())["lag"] == 6
        engine.append_many("orders", [b"x"] * 5, partition=1)
        engine.reset_offsets("billing", to=4, execute=True)
        written = consumed = 0.0
        for _ in range(200):
            row = json.loads(out.readline())
            written += row["written_per_second"]
            consumed += row["consumed_per_second"]
            if written and consumed:
                break
        assert written

        assert consumed
        assert row["lag"] == 10
