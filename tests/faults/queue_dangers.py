"""What a queue must not do, each as a job of a Zygote that says what it did."""

from __future__ import annotations

import os
import signal
from typing import Any

import pylog

OPTIONS: Any = {"visibility_timeout": 3600.0}


def ack_late(directory: str) -> str:
    """Ack by the lease that somebody had before."""
    with pylog.open(directory) as engine:
        source: Any = engine.queue("jobs", **OPTIONS).source
        engine.append("jobs", b"x")
        (before,) = source.lease(1)
        source.release([before])
        (now,) = source.lease(1)
        try:
            source.ack(before)
        except pylog.LeaseLostError:
            source.ack(now)
            return "LeaseLostError"
        return "acked"


def take_early(directory: str) -> int:
    """How many records come that are due in an hour."""
    with pylog.open(directory) as engine:
        jobs = engine.queue("jobs", **OPTIONS)
        jobs.put_many([b"x"] * 3, delay=3600.0)
        return len(jobs.get_many(3, timeout=0.0))


def lease_and_die(directory: str) -> None:
    with pylog.open(directory) as engine:
        jobs = engine.queue("jobs", **OPTIONS)
        jobs.put(b"x")
        assert jobs.get(0.0) is not None
        os.kill(os.getpid(), signal.SIGKILL)


def take_over(directory: str) -> int:
    """How many records come that a dead process had."""
    with pylog.open(directory) as engine:
        return len(engine.queue("jobs", **OPTIONS).get_many(1, timeout=0.2))
