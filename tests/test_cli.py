"""The command `pylog`: what it prints, where, and with which exit code."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pylog
from pylog.cli import CORRUPT, ERROR, OK, USAGE, main
from pylog.cli.envelope import decode, encode
from pylog.cli.format import make_format
from pylog.cli.output import escaped, escaped_bytes
from pylog.errors import ConfigError, SerializationError

HEAVY = ("numpy", "zstandard", "rich", "logcore.scan", "logcore.batch", "pylog.embedded", "xxhash")
SECOND = 1_000_000_000


class Terminal(io.TextIOWrapper):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


class Command:
    """Runs pylog on one data directory in this process."""

    def __init__(
        self, data: Path, capsys: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.data, self.capsys, self.monkeypatch = data, capsys, monkeypatch

    def __call__(self, *arguments: str, stdin: bytes = b"", terminal: bool = False) -> tuple[int, bytes, str]:
        """Return exit code, stdout and stderr."""
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        shown = Terminal(io.BytesIO(), encoding="utf-8", write_through=True)
        if terminal:
            self.monkeypatch.setattr("sys.stdout", shown)
        code = main(["-C", str(self.data), *arguments])
        out, err = self.capsys.readouterr()
        if terminal:
            out = shown.buffer.getvalue()  # type: ignore[attr-defined]
            self.monkeypatch.undo()
        return code, out, err.decode()

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        """Return what a successful command prints with --json."""
        code, out, err = self("--json", *arguments)
        assert code == OK, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def run(data: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(data, capsysbinary, monkeypatch)


@pytest.fixture
def orders(run: Command) -> Command:
    """A topic of two partitions without records."""
    assert run("create", "orders", "-p", "2")[0] == OK
    return run


# ---- the command as such ------------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = f"""
import sys, time
begun = time.perf_counter()
from pylog.cli import main
assert main(["--help"]) == 0
took = time.perf_counter() - begun
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"{{heavy}} {{took}}" if heavy or took > 3 else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("topics", "describe", "create", "delete", "put", "cat", "dump", "verify", "bench"):
        assert main([command, "--help"]) == OK
        assert f"pylog {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [[], ["nonsense"], ["cat"], ["create", "t", "-p", "many"], ["topics", "extra"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["describe", "nothing"], ERROR, "nothing"),
        (["cat", "nothing", "-e"], ERROR, "nothing"),
        (["put", "nothing"], ERROR, "nothing"),
        (["delete", "nothing", "--execute"], ERROR, "nothing"),
        (["dump", "nothing"], ERROR, "nothing"),
        (["verify", "nothing"], ERROR, "nothing"),
        (["create", "-x"], USAGE, "topic"),
        (["create", ".hidden"], USAGE, ".hidden"),
        (["create", "../up"], USAGE, "../up"),
        (["create", "t", "-c", "nonsense=1"], USAGE, "nonsense"),
        (["create", "t", "-c", "segment_bytes"], USAGE, "KEY=VALUE"),
        (["create", "t", "-p", "0"], USAGE, "partitions"),
        (["cat", "orders", "-o", "yesterday"], USAGE, "yesterday"),
        (["cat", "orders", "-o", "99", "-e"], ERROR, "99"),
        (["cat", "orders", "-p", "7", "-e"], USAGE, "7"),
        (["cat", "orders", "-f", "%q", "-e"], USAGE, "%q"),
        (["put", "orders", "-J", "-k", "x"], USAGE, "-J"),
        (["put", "orders", "missing-file"], ERROR, "missing-file"),
        (["put"], USAGE, "which topic"),
    ],
)
def test_bad_input_is_one_clear_line(orders: Command, arguments: list[str], code: int, said: str) -> None:
    got, out, err = orders(*arguments)
    assert (got, out) == (code, b"")
    assert said in err
    assert "Traceback" not in err
    assert err.startswith("pylog")


def test_looking_into_a_directory_that_is_not_there_does_not_make_it(run: Command, data: Path) -> None:
    for command in (["topics"], ["cat", "t", "-e"], ["put", "t"], ["describe", "t"]):
        assert run(*command)[0] == USAGE
        assert not data.exists()


def test_options_stand_before_or_behind_the_command(orders: Command, data: Path) -> None:
    assert main(["topics", "-C", str(data), "--json"]) == OK
    assert json.loads(orders.capsys.readouterr()[0])["topic"] == "orders"


# ---- topics -------------------------------------------------------------------------------------


def test_a_topic_is_created_listed_described_and_deleted(run: Command) -> None:
    assert run("create", "orders", "-p", "3", "-c", "segment_bytes=65536", "-c", "durability=os")[0] == OK
    assert run("create", "orders")[0] == ERROR
    assert run("create", "orders", "-p", "3", "--if-not-exists")[0] == OK
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


def test_tables_are_tab_separated_on_a_pipe_and_drawn_on_a_terminal(orders: Command) -> None:
    _, out, _ = orders("topics")
    assert out.decode().split("\t")[:3] == ["orders", "2", "0"]
    _, drawn, _ = orders("topics", terminal=True)
    assert "partitions" in drawn.decode()


# ---- put and cat --------------------------------------------------------------------------------


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


# ---- as a process -------------------------------------------------------------------------------


@pytest.fixture
def full(data: Path) -> Iterator[Path]:
    with pylog.open(data) as engine:
        engine.create_topic("full", partitions=1)
        engine.append_many("full", [b"value %d" % n for n in range(50_000)])
    yield data


@contextmanager
def started(data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A pylog process with its stdout and stderr; whatever the test finds, it is gone afterwards."""
    command = [sys.executable, "-m", "pylog.cli", "-C", str(data), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process, process.stdout, process.stderr
        finally:
            process.kill()


def test_a_reader_that_has_enough_ends_cat_quietly(full: Path) -> None:
    with started(full, "cat", "full", "-e") as (process, out, err):
        assert out.readline() == b"value 0\n"
        out.close()
        assert err.read() == b""
        assert process.wait() == OK


def test_cat_follows_until_ctrl_c(full: Path) -> None:
    with pylog.open(full) as engine:
        engine.append("full", b"old")
        with started(full, "cat", "full", "-o", "end") as (process, out, err):
            assert b"reached the end" in err.readline()
            engine.append("full", b"new")
            assert out.readline() == b"new\n"
            process.send_signal(signal.SIGINT)
            assert b"Traceback" not in err.read()
            assert process.wait() == 130


def test_cat_of_a_damaged_topic_says_where_and_ends_with_4(full: Path) -> None:
    segment = next((full / "topics" / "full" / "0").glob("*.log"))
    with segment.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)
    with started(full, "cat", "full", "-e") as (process, _, _):
        said = process.communicate()[1]
        assert process.returncode == CORRUPT
        assert segment.name.encode() in said
        assert b"offset" in said
        assert said.count(b"\n") == 1


def test_a_read_only_directory_can_be_looked_into(full: Path) -> None:
    full.chmod(0o500)
    try:
        with started(full, "cat", "full", "-o", "-1", "-e") as (process, _, _):
            assert process.communicate()[0] == b"value 49999\n"
    finally:
        full.chmod(0o700)


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


# ---- the parts ----------------------------------------------------------------------------------


class Written:
    """A record that was never in a log."""

    def __init__(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
    ) -> None:
        self.topic, self.partition, self.offset, self.timestamp = "t", 1, 2, 3
        self.key, self.value, self.headers = key, value, headers


maybe_bytes = st.one_of(st.none(), st.binary())


@given(maybe_bytes, maybe_bytes, st.lists(st.tuples(st.text(), maybe_bytes)))
def test_a_record_comes_back_from_its_envelope(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    line = json.dumps(encode(Written(key, value, headers))).encode()
    found = decode(line)
    assert (found.topic, found.partition, found.timestamp) == ("t", 1, 3)
    assert (found.key, found.value, found.headers) == (key, value, headers)


@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_what_is_no_envelope_is_refused(line: bytes | str) -> None:
    with pytest.raises(SerializationError):
        decode(line.encode() if isinstance(line, str) else line)


@given(st.text())
def test_escaped_text_is_printable_and_plain_text_stays(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(text) == text or not text.isprintable()


@given(st.binary())
def test_escaped_bytes_are_printable(data: bytes) -> None:
    assert escaped_bytes(data).decode().isprintable()


@given(st.text())
def test_any_format_renders_or_is_refused(text: str) -> None:
    try:
        render = make_format(text, null=b"", escape=False)
    except ConfigError:
        return
    assert isinstance(render(Written(b"k", b"v", [])), bytes)
