"""Metrics of queues as Prometheus scrapes them (6d, 14e)."""

from __future__ import annotations

import pytest
from taking import Opened, taken

from pylog.filters import key_is

prometheus = pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")


def test_depth_age_rates_and_dead_letters_are_exported(opened: Opened) -> None:
    from pylog.queues.prometheus import QueueCollector

    jobs = opened(priorities=2, filter=key_is(b"a"))
    for priority in (0, 1, 1):
        jobs.put(b"x", key=b"a", priority=priority)
    jobs.put(b"later", key=b"a", delay=3600.0)
    jobs.put(b"unwanted", key=b"b", priority=1)
    taken(jobs).ack()
    taken(jobs).reject("bad")
    held = taken(jobs)
    registry = prometheus.CollectorRegistry()
    registry.register(QueueCollector(jobs))

    def sample(name: str, **labels: str) -> float | None:
        value: float | None = registry.get_sample_value(name, {"queue": "jobs", **labels})
        return value

    assert sample("pylog_queue_depth", level="0", state="in_flight") == 1
    waiting = [sample("pylog_queue_depth", level="0", state=state) or 0 for state in ("ready", "delayed")]
    assert sum(waiting) == 1
    assert sample("pylog_queue_depth", level="1", state="ready") == 0
    assert (sample("pylog_queue_oldest_age_seconds", level="0") or 0) > 0
    assert sample("pylog_queue_oldest_age_seconds", level="1") == 0
    assert sample("pylog_queue_deliveries_total", event="filtered") == 1
    assert sample("pylog_queue_dead_letters_total", reason="bad") == 1
    assert sample("pylog_dead_letters") == 1
    assert (sample("pylog_dead_letters_oldest_age_seconds") or 0) > 0
    held.ack()
    jobs.close()
    assert sample("pylog_dead_letters") is None
