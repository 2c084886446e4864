"""A user's mistakes, one a line. It is never run: mypy has to find each where `# wrong` stands."""

from __future__ import annotations

import pylog


def mistakes(engine: pylog.Engine) -> None:
    pylog.open(3)  # wrong
    engine.append("t", "text")  # wrong
    engine.append("t", b"x", durability="always")  # wrong
    engine.create_topic("t", segmentbytes=1)  # wrong
    engine.create_topic("t", compression_type="lz4")  # wrong
    engine.producer(lingerms=5)  # wrong
    engine.consumer("t", auto_offset_reset="first")  # wrong
    engine.consumer("t").seek("t", 0)  # wrong
    engine.nothing()  # wrong
    engine.event_store("accounts", event=[])  # wrong
    engine.append("t", b"x", key=b"k", guard="first")  # wrong
    engine.queue("jobs", priority=3)  # wrong
    engine.queue("jobs").put(b"x", after=3)  # wrong
    engine.queue("jobs", filter=lambda record: True)  # wrong
