"""QueueCollector: a queue's metrics for Prometheus, through its own client library (the extra "prometheus").

Nothing is kept here: each scrape asks the queues. `REGISTRY.register(QueueCollector(jobs))`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pylog.queues.queue import Queue

STATES = ("ready", "blocked", "delayed", "in_flight")


class QueueCollector(Collector):
    """Depth by level and state, oldest age by level, what was done here by kind, dead letters by reason."""

    def __init__(self, *queues: Queue) -> None:
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Yield the families, as Prometheus scrapes them."""
        depth = GaugeMetricFamily(
            "pylog_queue_depth", "Records that are not finished", labels=["queue", "level", "state"]
        )
        age = GaugeMetricFamily(
            "pylog_queue_oldest_age_seconds", "Age of the first unfinished record", labels=["queue", "level"]
        )
        done = CounterMetricFamily(
            "pylog_queue_deliveries", "What this process did with deliveries", labels=["queue", "event"]
        )
        buried = CounterMetricFamily(
            "pylog_queue_dead_letters", "Records that this process buried", labels=["queue", "reason"]
        )
        dead = GaugeMetricFamily("pylog_dead_letters", "Dead letters that are there", labels=["queue"])
        dead_age = GaugeMetricFamily(
            "pylog_dead_letters_oldest_age_seconds", "Time since the first burial", labels=["queue"]
        )
        for queue in self._queues:
            if queue.closed:
                continue  # the registry has other collectors as well
            for counts in queue.counts():
                for state in STATES:
                    depth.add_metric([queue.name, str(counts.level), state], getattr(counts, state))
                oldest = queue.oldest_age(counts.level)
                age.add_metric([queue.name, str(counts.level)], oldest or 0.0)
            for event, value in queue.metrics().items():
                done.add_metric([queue.name, event], value)
            for reason, value in queue.dead_by_reason().items():
                buried.add_metric([queue.name, reason], value)
            dead.add_metric([queue.name], len(queue.dead_letters))
            since = queue.dead_letters.oldest()
            dead_age.add_metric([queue.name], 0.0 if since is None else time.time() - since / 1e9)
        yield from (depth, age, done, buried, dead, dead_age)
