"""A warm process that forks the processes of a test: a start costs milliseconds, not a Python start-up.

Run as a module it is the zygote: it has imported pylog, has no engine and no thread, and serves commands of
JSON lines. Zygote is the tests' handle on it. A job is "module:function" with keyword arguments; what it
returns comes back as JSON. Only processes that it forked are ever signalled.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1


class ChildFailedError(AssertionError):
    """A job raised, or ended otherwise than it was told to; the message is its traceback."""


class Child:
    """One forked process."""

    def __init__(self, zygote: Zygote, pid: int, output: Path, job: str) -> None:
        self.zygote, self.pid, self.output, self.job = zygote, pid, output, job
        self.status: int | None = None

    def signal(self, number: int) -> None:
        if self.status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has let go of its locks; it must have lived or ended well."""
        self.signal(signal.SIGKILL)
        self.wait_killed_or_done()

    def wait_killed_or_done(self) -> None:
        """Wait for its end, which is a SIGKILL or success."""
        status = self.wait()
        if status not in (0, signal.SIGKILL):
            raise ChildFailedError(f"{self.job} ended with status {status}{self.errors()}")

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end; the status of waitpid. Kills it and raises where it does not end in time."""
        if self.status is None:
            found = self.zygote.ask(wait=self.pid, timeout=timeout, stopped=False)
            if found is None:
                self.signal(signal.SIGKILL)
                self.zygote.ask(wait=self.pid, timeout=30.0, stopped=False)
                self.status = -1
                raise ChildFailedError(f"{self.job} did not end in {timeout} s{self.errors()}")
            self.status = found
        return self.status

    def wait_stopped_or_ended(self, timeout: float = 30.0) -> bool:
        """True where it stopped (SIGSTOP), False where it ended."""
        found = self.zygote.ask(wait=self.pid, timeout=timeout, stopped=True)
        if found is None:
            raise ChildFailedError(f"{self.job} neither stopped nor ended in {timeout} s{self.errors()}")
        if os.WIFSTOPPED(found):
            return True
        self.status = found
        return False

    def errors(self) -> str:
        return "\n" + self.output.with_suffix(".err").read_text()

    def result(self, timeout: float = 30.0) -> Any:
        """Wait for its end and return what the job returned; its traceback in ChildFailedError otherwise."""
        status = self.wait(timeout)
        if status != 0:
            raise ChildFailedError(f"{self.job} ended with status {status}{self.errors()}")
        return json.loads(self.output.read_text())


class Zygote:
    """Starts children. `environment` is added to the test's own, `paths` are put before PYTHONPATH."""

    def __init__(self, directory: Path, paths: list[Path], environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        search = ":".join(str(path) for path in [*paths, TESTS])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": search} | (environment or {}),
            text=True,
        )
        self.started = 0
        self.ask(ready=True)

    def ask(self, **command: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the zygote is gone"
        return json.loads(answer)

    def start(self, job: str, *, environment: dict[str, str] | None = None, **arguments: Any) -> Child:
        """Fork a process for "module:function"; arguments are JSON, a Path becomes a str."""
        self.started += 1
        output = self.directory / f"{self.started}.out"
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        pid = self.ask(job=job, arguments=plain, output=str(output), environment=environment or {})
        return Child(self, pid, output, job)

    def run(self, job: str, *, timeout: float = 30.0, **arguments: Any) -> Any:
        """Start a job and return its result."""
        return self.start(job, **arguments).result(timeout)

    def close(self) -> None:
        """End it, and whatever it started and is still there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- the zygote itself ------------------------------------------------------------------------------------


def serve() -> None:
    import pylog

    assert pylog.open is not None
    with contextlib.suppress(ImportError):  # what an engine loads at its first use
        importlib.import_module("pylog.embedded.engine")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    living: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        answer: object = None
        if "job" in command:
            answer = start(command)
            living.add(int(str(answer)))
        elif "wait" in command:
            answer = wait(**command)
            if answer is not None and not os.WIFSTOPPED(int(str(answer))):
                living.discard(command["wait"])
        print(json.dumps(answer), flush=True)
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def start(command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        output = Path(command["output"])
        errors = os.open(output.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard, fd in enumerate((nothing, errors, errors)):
            os.dup2(fd, standard)
        os.closerange(3, 64)
        os.environ.update(command["environment"])
        if "PYLOG_POWERCUT_ROOT" in command["environment"]:
            ctypes.CDLL(None).powercut_begin()
        module, function = command["job"].split(":")
        result = getattr(importlib.import_module(module), function)(**command["arguments"])
        output.write_text(json.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(wait: int, timeout: float, stopped: bool) -> int | None:
    deadline = time.monotonic() + timeout
    while True:
        pid, status = os.waitpid(wait, os.WNOHANG | (os.WUNTRACED if stopped else 0))
        if pid:
            return status
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        signal.sigtimedwait([signal.SIGCHLD], min(left, 1.0))


if __name__ == "__main__":
    serve()
