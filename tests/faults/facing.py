"""Shows hostile segments to reader and command, each in a process with limits. Jobs of a Zygote."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oracle import SegmentHeader

import pylog
from faults import hostile
from pylog.cli import main
from pylog.errors import CorruptionError, PylogError

TOPIC = "t"
SEGMENT_BYTES = 1 << 20
ADDRESSES = 1200 << 20  # beyond what the process has when it begins: a segment may map 1 GiB
RESIDENT = 256 << 10  # KiB
CPU_SECONDS = 20
READ, TOLD, FAILED = 0, 1, 2  # how a process ends


def run(work: str, seed: str, numbers: tuple[int, int]) -> dict[str, Any]:
    """Show one segment after the other; what went wrong, and how often records came out or an error did."""
    sound = Path(work) / "sound"
    with pylog.open(sound) as engine:
        engine.create_topic(TOPIC, segment_bytes=SEGMENT_BYTES)
        uuid = bytes.fromhex(engine.describe_topic(TOPIC).uuid)
    header = SegmentHeader(7, 0, 0, 0, uuid, SEGMENT_BYTES, 0, 0, 0)
    found: dict[str, Any] = {"failures": [], "read": 0, "told": 0}
    for number in range(*numbers):
        directory = Path(work) / "data"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(sound, directory)
        segment = directory / "topics" / TOPIC / "0" / f"{0:020d}.log"
        segment.parent.mkdir()
        segment.write_bytes(hostile.make(seed, number, header))
        output = Path(work) / "output"
        for name, look in looks(directory, segment, random.Random(number)).items():
            status, resident = limited(look, output)
            if resident > RESIDENT:
                found["failures"].append(f"{number} {name}: {resident} KiB of memory")
            elif os.WIFEXITED(status) and os.WEXITSTATUS(status) in (READ, TOLD):
                found["read"] += os.WEXITSTATUS(status) == READ
                found["told"] += os.WEXITSTATUS(status) == TOLD
            else:
                found["failures"].append(f"{number} {name}: status {status}: {output.read_text()[-900:]}")
    return found


def looks(directory: Path, segment: Path, rng: random.Random) -> dict[str, Callable[[], int]]:
    """The ways to look at it: as a reader does, and by one command in turn."""
    commands = {
        "dump": ["dump", str(segment), "--print-data-log"],
        "verify": ["verify", str(segment)],
        "cat": ["-C", str(directory), "cat", TOPIC, "-e"],
        "verify all": ["verify", str(directory)],
        "dump json": ["--json", "dump", str(segment), "--print-data-log"],
    }
    name = rng.choice(list(commands))
    read_only = rng.random() < 0.5
    return {"reader": lambda: read(directory, read_only), name: lambda: command(commands[name])}


def limited(look: Callable[[], int], output: Path) -> tuple[int, int]:
    """Run it in a process that has little memory and time; the status of waitpid and KiB used at most."""
    pid = os.fork()
    if pid:
        _, status, used = os.wait4(pid, 0)
        return status, used.ru_maxrss
    code = FAILED
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, 2)
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + ADDRESSES, has + ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        code = look()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def read(directory: Path, read_only: bool) -> int:
    """Read to the end, going on behind damage; look by time too, and append where that is possible."""
    told = False
    try:
        with pylog.open(directory, read_only=read_only) as engine:
            at, end = engine.log_start_offset(TOPIC, 0), engine.log_end_offset(TOPIC, 0)
            while at < end:
                try:
                    for record in engine.read(TOPIC, 0, at):
                        assert record.offset >= at
                        repr((record.key, record.value, record.headers, record.timestamp))
                        at = record.offset + 1
                    at = end  # behind the last record a batch may cover offsets without any
                except CorruptionError as error:
                    assert at <= error.first_offset < error.next_offset, f"{at}: {error}"
                    at, told = error.next_offset, True
            with engine.consumer() as consumer, contextlib.suppress(CorruptionError):
                consumer.assign([(TOPIC, 0)])
                consumer.seek_to_time(5 * hostile.SECOND)
            told = told or bool(engine.recovery_reports())
            if not read_only:
                engine.append(TOPIC, b"probe")
    except PylogError:
        return TOLD
    return TOLD if told else READ


def command(arguments: list[str]) -> int:
    """Run one command; a traceback or a sentence about a mistake of ours is a failure."""
    printed, said = io.TextIOWrapper(io.BytesIO(), newline=""), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        code = main(arguments)
    assert "mistake of pylog" not in said.getvalue(), said.getvalue()
    printed.flush()
    shown = printed.buffer.getvalue() + said.getvalue().encode()  # type: ignore[attr-defined]
    assert b"\x1b" not in shown or "cat" in arguments, "escapes get through"  # cat prints values as they are
    return TOLD if code else READ
