"""A process that does one thing at a time when a test tells it to, and answers what came of it.

For tests that need two processes in a certain order: Puppet is the test's end of two pipes, obey() the job at
the other end. What a puppet appends it says in the journal, as the others do. A failure of the engine is an
answer, not an end: the process lives on with its engine.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import select
import signal
from pathlib import Path
from typing import Any

import pylog
from faults.failpoints import ERROR_ONCE, Failpoints
from faults.journal import Journal, value_of
from faults.workload import TOPIC, Reader, Writer, read_back
from faults.zygote import Child, Zygote

ANSWER_SECONDS = 40


class Refused(Exception):  # noqa: N818 - the engine's error is the error; this carries it over
    """The engine raised; `kind` is the name of its error, `errno` and `pid` are its facts or None."""

    def __init__(self, kind: str, text: str, errno: int | None, pid: int | None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.errno, self.pid = kind, errno, pid


class Puppet:
    """One process with the directory open."""

    def __init__(
        self,
        zygote: Zygote,
        place: Path,
        name: str,
        *,
        directory: Path,
        journal: Path,
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        pipes = [place / f"{name}.{end}" for end in ("told", "said")]
        for pipe in pipes:
            os.mkfifo(pipe)
        # both ends, so that no open waits; the end of the process is seen by its status
        self._told, self._said = (os.open(pipe, os.O_RDWR | os.O_CLOEXEC) for pipe in pipes)
        self.child: Child = zygote.start(
            "faults.puppet:obey",
            environment=environment,
            directory=directory,
            journal=journal,
            name=name,
            told=pipes[0],
            said=pipes[1],
            options=options,
        )

    def tell(self, action: str, **arguments: Any) -> None:
        """Tell it what to do; answer() tells what came of it."""
        os.write(self._told, json.dumps({"do": action, "with": arguments}).encode() + b"\n")

    def answer(self, timeout: float = ANSWER_SECONDS) -> Any:
        """Return what the action returned. Raises Refused where the engine raised."""
        said = b""
        while not said.endswith(b"\n"):
            if not select.select([self._said], [], [], timeout)[0]:
                raise AssertionError(f"I16: {self.child.job} is stuck{self.child.errors()}")
            said += os.read(self._said, 1 << 20)
        found = json.loads(said)
        if "refused" in found:
            raise Refused(**found["refused"])
        return found["result"]

    def do(self, action: str, **arguments: Any) -> Any:
        self.tell(action, **arguments)
        return self.answer()

    def close(self) -> None:
        """Let it close its engine and end well. Raises ChildFailedError where it does not."""
        os.write(self._told, b"{}\n")
        self._let_go()
        self.child.result()

    def kill(self) -> None:
        self.child.signal(signal.SIGKILL)
        self.child.wait()
        self._let_go()

    def _let_go(self) -> None:
        os.close(self._told)
        os.close(self._said)


# ---- the job ----------------------------------------------------------------------------------------------


def obey(directory: str, journal: str, name: str, told: str, said: str, options: dict[str, Any]) -> None:
    """Open the directory and do what each line says; end at an empty one."""
    with (
        Path(told).open() as commands,
        Path(said).open("w") as answers,
        pylog.open(directory, **options) as engine,
    ):
        strings = Strings(engine, Journal(Path(journal), name))
        for line in commands:
            command = json.loads(line)
            if not command:
                return
            answers.write(json.dumps(answer_to(strings, command)) + "\n")
            answers.flush()


def answer_to(strings: Strings, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(strings, command["do"])(**command["with"])}
    except (pylog.PylogError, OSError) as error:
        facts = {"errno": getattr(error, "errno", None), "pid": getattr(error, "pid", None)}
        return {"refused": {"kind": type(error).__name__, "text": str(error)} | facts}


class Strings:
    """What a puppet can do; each method is an action."""

    def __init__(self, engine: Any, journal: Journal) -> None:
        self.engine, self.journal = engine, journal
        self.writer = Writer(engine, journal, random.Random(), 1)
        self.producer: Any = None

    def pid(self) -> int:
        return os.getpid()

    def append(self, p: int = 0, n: int = 1, size: int = 60, durability: str | None = None) -> str:
        """Return the name of the batch."""
        self.writer.append(p, n, size, durability)
        return f"{self.journal.writer}-{self.writer.life}-{self.writer.batches}"

    def claim(self, key: str) -> int:
        """Append the first record of a key, while there is none; return its offset."""
        offset: int = self.engine.append(TOPIC, b"claimed", key.encode(), guard=-1).offset
        return offset

    def sync(self) -> None:
        self.engine.sync(TOPIC)

    def recover(self, p: int = 0) -> None:
        self.engine.recover(TOPIC, p)

    def ends(self, p: int = 0) -> list[int]:
        """[synced offset, log end offset]; what is said to be synced, the checker insists on."""
        self.writer.say_synced(p)
        return [self.engine.synced_offset(TOPIC, p), self.engine.log_end_offset(TOPIC, p)]

    def read(self, partitions: int = 1) -> dict[str, Any]:
        return read_back(self.engine, partitions)

    def fail_syncs(self, table: str, at: int = 1) -> None:
        """Let our `at`-th fdatasync from now on fail with EIO, once."""
        points = Failpoints(Path(table), make=False)
        points.arm("sync.fdatasync", ERROR_ONCE, pid=os.getpid(), at=at, error=errno.EIO)
        points.close()

    def create_topic(self, topic: str) -> None:
        self.engine.create_topic(topic, partitions=2, segment_bytes=16 << 10)

    def topics(self) -> list[str]:
        return sorted(self.engine.list_topics())

    def limit(self, what: str, soft: int) -> None:
        """Set a soft resource limit ("FSIZE", "NOFILE"); -1 lifts it again."""
        number = getattr(resource, f"RLIMIT_{what}")
        hard = resource.getrlimit(number)[1]
        resource.setrlimit(number, (hard if soft < 0 else soft, hard))

    def open_files(self) -> int:
        """The lowest number that no descriptor has: a limit of it grants no further one."""
        fd = os.open(os.devnull, os.O_RDONLY)
        os.close(fd)
        return fd

    def look(self) -> None:
        """Read all there is and say what it was."""
        Reader(self.engine, self.journal, 1, "published").step(0)

    def open_producer(self) -> None:
        self.producer = self.engine.producer(producer_id="loader")
        self.producer.__enter__()

    def produce(self, sequence: int) -> None:
        batch = f"{self.journal.writer}-p{sequence}"
        self.journal.say("intent", batch=batch, p=0, n=1)
        self.producer.send(TOPIC, value_of(batch, 0, 1, 60), batch.encode(), partition=0, sequence=sequence)
        self.producer.flush()
