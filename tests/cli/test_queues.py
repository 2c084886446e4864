"""queue and dlq: what stands in queues, and a plan before anything is thrown away or brought back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pylog
from pylog.cli import main

Rows = list[dict[str, object]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two waiting, one delayed, three dead of two reasons."""
    with pylog.open(tmp_path) as engine:
        with engine.queue("jobs", priorities=2, retry=pylog.Retry.fixed(0.0)) as jobs:
            for n in range(3):
                jobs.put(b'{"n": %d}' % n, key=b"k")
                delivery = jobs.get(0)
                assert delivery is not None
                delivery.reject("bad" if n else "worse", ValueError("no such order"))
            jobs.put(b"\x1b[31mred" + b"x" * 200)
            jobs.put(b"urgent", priority=1)
            jobs.put(b"later", delay=3600.0)
        engine.queue("empty").close()
    return tmp_path


def rows(data: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Rows:
    assert main(["-C", str(data), "--json", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def waiting(data: Path) -> int:
    with pylog.open(data) as engine, engine.queue("jobs") as jobs:
        return jobs.qsize()


def dead(data: Path) -> int:
    with pylog.open(data) as engine, engine.queue("jobs") as jobs:
        return len(jobs.dead_letters)


def test_queue_ls_has_a_row_for_each_queue(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, jobs = rows(data, capsys, "queue", "ls")
    assert (empty["queue"], empty["ready"], empty["oldest_age"], empty["dead_letters"]) == (
        "empty",
        0,
        None,
        0,
    )
    assert (jobs["queue"], jobs["topic"], jobs["levels"], jobs["dead_letters"]) == ("jobs", "jobs", 2, 3)
    assert int(str(jobs["ready"])) + int(str(jobs["delayed"])) == 3


def test_queue_show_has_a_row_for_each_level(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urgent, normal = rows(data, capsys, "queue", "show", "jobs")
    assert (urgent["level"], urgent["ready"]) == (1, 1)
    assert (normal["level"], normal["finished"]) == (0, 3)


def test_queue_peek_shows_records_and_touches_none(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        found = rows(data, capsys, "queue", "peek", "jobs")
        assert found[0]["value"] == "urgent"
        assert str(found[1]["value"]).endswith("... (208 bytes)")
        (later,) = [row for row in found if row["value"] == "later"]
        assert 3500 < float(str(later["due_in"])) <= 3600


def test_what_a_record_says_does_not_reach_the_terminal(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(data), "queue", "peek", "jobs"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_queue_purge_shows_its_plan_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(data, capsys, "queue", "purge", "jobs") == [{"purge": "jobs", "records": 3, "done": False}]
    assert waiting(data) == 3
    assert rows(data, capsys, "queue", "purge", "jobs", "--execute") == [
        {"purge": "jobs", "records": 3, "done": True}
    ]
    assert waiting(data) == 0


def test_dlq_ls_counts_by_reason(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(data, capsys, "dlq", "ls")
    assert (row["queue"], row["topic"], row["dead_letters"]) == ("jobs", "jobs.dlq", 3)
    assert row["reasons"] == "bad 2, worse 1"


def test_dlq_show_says_where_each_came_from_and_why(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(data, capsys, "dlq", "show", "jobs", "--traceback")
    assert [row["reason"] for row in found] == ["worse", "bad", "bad"]
    assert [row["origin"] for row in found] == ["jobs-0@0", "jobs-0@1", "jobs-0@2"]
    assert {row["exception"] for row in found} == {"builtins.ValueError"}
    assert found[0]["traceback"] == "ValueError: no such order\n"
    assert main(["-C", str(data), "dlq", "show", "jobs", "-n", "1", "--traceback"]) == 0
    assert capsys.readouterr().out.endswith("ValueError: no such order\n")


def test_dlq_redrive_shows_its_plan_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("dlq", "redrive", "jobs", "--where", "value.n > 0")
    (plan,) = rows(data, capsys, *chosen)
    assert (plan["records"], plan["left"], plan["to"], plan["done"]) == (2, 1, "origin", False)
    assert (dead(data), waiting(data)) == (3, 3)
    (done,) = rows(data, capsys, *chosen, "--limit", "1", "--execute")
    assert (done["records"], done["left"], done["done"]) == (1, 2, True)
    assert (dead(data), waiting(data)) == (2, 4)


def test_dlq_purge_shows_its_plan_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(data, capsys, "dlq", "purge", "jobs")[0]["records"] == 3
    assert dead(data) == 3
    assert rows(data, capsys, "dlq", "purge", "jobs", "--execute")[0]["done"] is True
    assert dead(data) == 0
    assert rows(data, capsys, "dlq", "ls") == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["queue", "show", "nowhere"], 1),
        (["queue", "show"], 2),
        (["queue", "eat", "jobs"], 2),
        (["dlq", "redrive", "jobs", "--to", "jobs.dlq"], 2),
        (["dlq", "redrive", "jobs", "--where", "value.n >"], 2),
        (["dlq", "redrive", "jobs", "--where", "valu.n > 1"], 2),
        (["dlq", "redrive", "jobs", "--rate", "0"], 2),
        (["dlq", "redrive", "jobs", "--to", "nowhere"], 1),
        (["dlq", "redrive", "jobs", "--to", "../jobs"], 2),
        (["dlq", "show", "jobs", "-n", "0"], 2),
        (["dlq", "show", "jobs", "-n", "-1"], 2),
        (["dlq", "show", "jobs", "-n", "99999999999999999999"], 2),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    assert main(["-C", str(data), *arguments]) == code
    told = capsys.readouterr().err
    assert "Traceback" not in told and "mistake of pylog" not in told


def test_a_queue_that_cannot_be_opened_does_not_hide_the_others(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pylog.open(data) as engine:
        engine.delete_topic("empty")
    assert main(["-C", str(data), "queue", "ls"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("jobs\tjobs\t2\t")
    assert told.err.count("\n") == 1 and "queue 'empty' is left out" in told.err
    (data / "queues" / "empty" / "queue.json").write_text("{")
    assert main(["-C", str(data), "dlq", "ls"]) == 4
    told = capsys.readouterr()
    assert told.out.startswith("jobs\tjobs.dlq\t3\t")
    assert "queue 'empty' is left out" in told.err


def test_a_redrive_that_leaves_some_says_how_many_came_back(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pylog.open(data) as engine:
        engine.append("jobs.dlq", b"foreign")
    assert main(["-C", str(data), "dlq", "redrive", "jobs", "--execute"]) == 2
    assert "1 stay, 3 were brought back" in capsys.readouterr().err
    assert (dead(data), waiting(data)) == (1, 6)
