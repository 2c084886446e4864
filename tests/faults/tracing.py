"""strace on one process of a test: lists its system calls on files, kills it or lets it fail at one of them.

A job runs behind a gate: forked, it waits until strace has it, so that only what the job itself does counts.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from faults.zygote import Child, Zygote

# before each of these the disk is in a state that it was not in before the one ahead of it
CHANGING = (
    "mkdir,mkdirat,write,pwrite64,pwritev,ftruncate,fallocate,fchmod,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,rmdir,fsync,fdatasync,msync"
)
READING = "pread64"
CALL = re.compile(r"^(?:\[pid\s+)?(\d+)\]?\s+(\w+)\(")
PR_SET_PTRACER = 0x59616D61
PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


class CannotTraceError(Exception):
    """No strace here, or no permission to trace; the message says which."""


class Traced:
    """A job that strace has, not yet begun."""

    def __init__(self, zygote: Zygote, place: Path, job: str, inject: str = "", **arguments: Any) -> None:
        if shutil.which("strace") is None:
            raise CannotTraceError("strace is not installed")
        self.place = place
        place.mkdir()
        gate = place / "gate"
        os.mkfifo(gate)
        self._gate = os.open(gate, os.O_RDWR | os.O_CLOEXEC)
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        self.child: Child = zygote.start("faults.tracing:behind_gate", gate=gate, work=job, arguments=plain)
        self._errors = (place / "strace.err").open("w+")
        orders = [f"trace={CHANGING},{READING}", f"inject={inject}"][: 2 if inject else 1]
        command = ["strace", "-f", "-o", str(place / "calls"), "-p", str(self.child.pid)]
        command += [part for order in orders for part in ("-e", order)]
        self._strace = subprocess.Popen(command, stderr=self._errors)
        self._wait_until_attached()

    def _wait_until_attached(self) -> None:
        status = Path(f"/proc/{self.child.pid}/status")
        while "TracerPid:\t0\n" in status.read_text():
            try:
                self._strace.wait(0.005)
            except subprocess.TimeoutExpired:
                continue
            self.child.kill()
            self._close()
            raise CannotTraceError(f"strace: {(self.place / 'strace.err').read_text().strip()}")

    def run(self) -> int:
        """Let the job begin and wait for its end; the status of waitpid."""
        os.write(self._gate, b"\n")
        status = self.child.wait()
        self._strace.wait(30)
        self._close()
        return status

    def _close(self) -> None:
        os.close(self._gate)
        self._errors.close()

    def calls(self, kinds: str = CHANGING) -> Counter[str]:
        """How often each of these was made, by the thread that made most of it: strace counts by thread."""
        most: Counter[str] = Counter()
        by_thread: Counter[tuple[str, str]] = Counter()
        for line in (self.place / "calls").read_text().splitlines():
            found = CALL.match(line)
            if found and found[2] in kinds.split(","):
                by_thread[found[1], found[2]] += 1
                most[found[2]] = max(most[found[2]], by_thread[found[1], found[2]])
        return most


# ---- the job ----------------------------------------------------------------------------------------------


def behind_gate(gate: str, work: str, arguments: dict[str, Any]) -> Any:
    """Wait at the gate, then do the job; nothing that is written on the way is of Python's own."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)
    sys.dont_write_bytecode = True
    module, function = work.split(":")
    begin = getattr(importlib.import_module(module), function)
    fd = os.open(gate, os.O_RDONLY)
    os.read(fd, 1)
    os.close(fd)
    return begin(**arguments)
