"""put and cat: what goes in comes out, from where kcat would begin."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Command

import pylog
from pylog.cli import ERROR, OK

SECOND = 1_000_000_000


def test_lines_go_in_and_come_out(orders: Command) -> None:
    code, out, err = orders("put", "orders", "-p", "0", stdin=b"one\ntwo\n\nlast without end")
    assert (code, out) == (OK, b"")
    assert "4 records" in err
    assert orders("cat", "orders", "-e") == (OK, b"one\ntwo\n\nlast without end\n", "")


def test_keys_headers_and_nulls_are_put(orders: Command) -> None:
    orders("put", "orders", "-K", ":", "-Z", "-H", "a=1", "-H", "a=2", "-H", "none", stdin=b"k:v:w\nk:\n")
    rows = orders.rows("cat", "orders", "-e")
    assert [(row["key"], row["value"]) for row in rows] == [("k", "v:w"), ("k", None)]
    assert rows[0]["headers"] == [["a", "1"], ["a", "2"], ["none", None]]


def test_a_file_is_put_and_its_summary_is_json(orders: Command, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b"a\nb\n")
    assert orders.rows("put", "orders", str(lines), "-p", "1", "--sync") == [{"records": 2, "bytes": 2}]
    (described,) = orders.rows("describe", "orders")
    assert described["partition_list"][1]["synced_offset"] == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-o", "beginning"], [0, 1, 2, 3, 4, 5]),
        (["-o", "end"], []),
        (["-o", "4"], [4, 5]),
        (["-o", "-2"], [4, 5]),
        (["-o", "-100"], [0, 1, 2, 3, 4, 5]),
        (["-c", "2"], [0, 1]),
        (["-c", "0"], []),
        (["-o", "s@3000"], [3, 4, 5]),
        (["-o", "s@99000"], []),
        (["-o", "e@2000"], [0, 1]),
        (["-o", "s@1000", "-o", "e@4000"], [1, 2, 3]),
        (["-o", "3", "-c", "1"], [3]),
    ],
)
def test_cat_starts_and_stops_where_kcat_does(
    run: Command, data: Path, options: list[str], expected: list[int]
) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("times", partitions=1)
        for n in range(6):
            engine.append("times", b"%d" % n, timestamp=n * SECOND)
    code, out, _ = run("cat", "times", "-e", *options)
    assert code == OK
    assert [int(line) for line in out.split()] == expected


def test_cat_prints_by_format(orders: Command) -> None:
    orders("put", "orders", "-p", "1", "-k", "key", "-H", "a=1", stdin=b"value\n")
    _, out, _ = orders("cat", "orders", "-e", "-f", r"%t %p %o %k %K %s %S %h 100%%\x21\n")
    assert out == b"orders 1 0 key 3 value 5 a=1 100%!\n"
    _, out, _ = orders("cat", "orders", "-e", "-K", "=")
    assert out == b"key=value\n"


def test_cat_of_what_was_put_is_lossless(run: Command, data: Path, tmp_path: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("odd", partitions=3)
        engine.append("odd", b"\xff\x00\n\x1b[31m", key=b"\xfe", partition=2, timestamp=-5)
        engine.append("odd", None, key=None, partition=1, headers=[("b", b"\xff"), ("a", None), ("b", b"2")])
        engine.append("odd", b"", key=b"", partition=0, timestamp=2**62, headers=[("\u202eü", b"")])
        engine.append("odd", "grün\u2028\u202e".encode(), partition=0)
    _, printed, _ = run("cat", "odd", "-e", "-J")
    assert printed.isascii()
    copy = Command(tmp_path / "copy", run.capsys, run.monkeypatch)
    copy("create", "odd", "-p", "3")
    assert copy("put", "-J", stdin=printed)[0] == OK
    assert copy("cat", "odd", "-e", "-J")[1] == printed


def test_a_bad_line_of_json_is_named_and_what_stands_before_it_is_in(orders: Command) -> None:
    code, _, err = orders("put", "orders", "-J", "-p", "0", stdin=b'{"value": "in"}\n{"value": 5}\n')
    assert code == ERROR
    assert "line 2" in err
    assert orders("cat", "orders", "-e")[1] == b"in\n"


def test_data_pass_unchanged_on_a_pipe_and_escaped_to_a_terminal(orders: Command) -> None:
    evil = "\x1b[2J\x9b31m\u202eabc\x07\r".encode() + b"\xff"
    orders("put", "orders", "-k", "\x1b]0;title\x07", stdin=evil + b"\n")
    assert orders("cat", "orders", "-e")[1] == evil + b"\n"
    for options in (["-f", "%k %s %h\\n"], ["-K", ":"], ["-J"], []):
        _, out, _ = orders("cat", "orders", "-e", *options, terminal=True)
        assert all(c.isprintable() or c == "\n" for c in out.decode())
    _, out, _ = orders("dump", "orders", "--print-data-log", terminal=True)
    assert all(c.isprintable() or c == "\n" for c in out.decode())


def test_control_characters_in_arguments_never_reach_the_terminal(orders: Command) -> None:
    for command in (["describe", "\x1b[31m"], ["dump", "/tmp/\x1b[31m"], ["cat", "orders", "-o", "\x1b[31m"]):
        _, _, err = orders(*command)
        assert "\x1b" not in err


record_bytes = st.none() | st.binary(max_size=50) | st.text(max_size=20).map(str.encode)
written_records = st.tuples(
    st.integers(0, 2),
    record_bytes,
    record_bytes,
    st.lists(st.tuples(st.text(max_size=8), record_bytes), max_size=3),
    st.integers(-(2**63) + 1, 2**63 - 1),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(written_records, max_size=12))
def test_any_records_go_through_cat_and_put_without_loss(
    run: Command, tmp_path: Path, records: list[tuple[int, bytes | None, bytes | None, list[Any], int]]
) -> None:
    source, copy = (
        Command(tmp_path / name / secrets.token_hex(8), run.capsys, run.monkeypatch)
        for name in ("from", "to")
    )
    for command in (source, copy):
        command.data.parent.mkdir(exist_ok=True)
        assert command("create", "any", "-p", "3")[0] == OK
    with pylog.open(source.data) as engine:
        for partition, key, value, headers, timestamp in records:
            engine.append("any", value, key=key, headers=headers, timestamp=timestamp, partition=partition)
    printed = source("cat", "any", "-e", "-J")[1]
    assert printed.count(b"\n") == len(records)
    assert copy("put", "-J", stdin=printed)[0] == OK
    assert copy("cat", "any", "-e", "-J")[1] == printed


@pytest.mark.parametrize(
    "arguments",
    [
        ("orders", "{}", "-k", "x"),
        ("orders", "-k", "x", "{}"),
        ("-k", "x", "orders", "{}"),
        ("-k", "x", "orders", "--", "{}"),
    ],
)
def test_options_stand_anywhere_among_the_arguments(
    orders: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "lines").write_bytes(b"a\nb\n")
    code, _, said = orders("put", *(text.format(tmp_path / "lines") for text in arguments))
    assert (code, said) == (OK, "2 records, 4 bytes\n")
