"""What a group and a cleaner leave behind that are killed at once: jobs of a Zygote, for planted bugs."""

from __future__ import annotations

import os
import signal

import pylog

TOPIC, GROUP = "kept", "g"


def commit_and_die(directory: str) -> None:
    """Commit, synced, and be killed before anything else could bring it to disk."""
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, durability="sync")
        engine.append_many(TOPIC, [b"0", b"1", b"2"])
        consumer = engine.consumer(TOPIC, group=GROUP, auto_offset_reset="earliest")
        consumer.poll()
        consumer.commit({(TOPIC, 0): 2})
        os.kill(os.getpid(), signal.SIGKILL)


def committed(directory: str) -> int | None:
    with pylog.open(directory) as engine, engine.consumer(group=GROUP) as consumer:
        return consumer.committed((TOPIC, 0))


def compact_and_die(directory: str) -> None:
    """Compact, and be killed once the rewritten segments have their names on disk."""
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, durability="sync", cleanup_policy="compact", segment_bytes=16 << 10)
        for number in range(40):
            engine.append(TOPIC, b"%04d" % number * 200, key=b"%d" % (number % 3))
        (report,) = engine.clean(TOPIC, now=True)
        assert report.error is None and report.removed_records == 37
        os.kill(os.getpid(), signal.SIGKILL)


def last_values(directory: str) -> dict[str, int]:
    """Return the last value of each key, or nothing where the log cannot be read."""
    found: dict[str, int] = {}
    with pylog.open(directory) as engine:
        try:
            for record in engine.read(TOPIC, 0):
                found[(record.key or b"").decode()] = int((record.value or b"")[:4])
        except pylog.CorruptionError:
            return {}
    return found
