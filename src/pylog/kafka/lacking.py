"""What an engine on Kafka has not: each of these raises UnsupportedError when it is asked for.

Invariant: nothing here does anything, and `capabilities` of the engine names none of it; an engine that was
closed, or inherited through a fork, says so first.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from pylog.engine import TopicsOrPartitions
from pylog.errors import ClosedError, UnsupportedError


class LackingEngine:
    """What KafkaEngine stands on."""

    _closed: bool
    _process: int

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the engine was closed")
        self._check_process()

    def _check_process(self) -> None:
        """librdkafka's threads are the parent's: a child that calls them would wait for ever."""
        if os.getpid() != self._process:
            raise ClosedError("the engine was inherited through a fork: open one in the child")

    def transaction(self, *, transaction_bytes: int = 0) -> NoReturn:
        """Raise UnsupportedError: this release has no transactions on Kafka."""
        self._lacks("transactions")

    def queue(self, name: str, **options: Any) -> NoReturn:
        """Raise UnsupportedError: this release has no queues on Kafka."""
        self._lacks("queues")

    def queue_source(self, queue: str, topic: str | None = None, **options: Any) -> NoReturn:
        """Raise UnsupportedError: this release has no queues on Kafka."""
        self._lacks("queues")

    def list_queues(self) -> NoReturn:
        """Raise UnsupportedError: this release has no queues on Kafka."""
        self._lacks("queues")

    def event_store(self, name: str, **options: Any) -> NoReturn:
        """Raise UnsupportedError: an append cannot be guarded on Kafka."""
        self._lacks("event stores")

    def backup(self, destination: str | os.PathLike[str]) -> NoReturn:
        """Raise UnsupportedError: the files are the brokers'."""
        self._lacks("backup")

    def list_groups(self) -> NoReturn:
        """Raise UnsupportedError: not in this release; Kafka's own tools do it."""
        self._lacks("group_administration")

    def describe_group(self, group: str) -> NoReturn:
        """Raise UnsupportedError: not in this release; Kafka's own tools do it."""
        self._lacks("group_administration")

    def delete_group(self, group: str) -> NoReturn:
        """Raise UnsupportedError: not in this release; Kafka's own tools do it."""
        self._lacks("group_administration")

    def reset_offsets(
        self, group: str, partitions: TopicsOrPartitions | None = None, **options: Any
    ) -> NoReturn:
        """Raise UnsupportedError: not in this release; Kafka's own tools do it."""
        self._lacks("group_administration")

    def consumed_by(self, topic: str, partition: int, offset: int) -> NoReturn:
        """Raise UnsupportedError: not in this release; Kafka's own tools do it."""
        self._lacks("group_administration")

    def synced_offset(self, topic: str, partition: int) -> NoReturn:
        """Raise UnsupportedError: brokers do not say what they synced."""
        self._lacks("synced_offset")

    def sync(self, topic: str | None = None, partition: int | None = None) -> NoReturn:
        """Raise UnsupportedError: brokers sync by their own configuration."""
        self._lacks("sync")

    def clean(self, topic: str | None = None, *, now: bool = False, plan: bool = False) -> NoReturn:
        """Raise UnsupportedError: brokers clean by themselves."""
        self._lacks("clean")

    def recover(self, topic: str, partition: int) -> NoReturn:
        """Raise UnsupportedError: brokers recover by themselves."""
        self._lacks("recover")

    def copy_topic(self, source: str, destination: str, partitions: int | None = None) -> NoReturn:
        """Raise UnsupportedError: Kafka keeps sequences to itself, by which a copy is resumed."""
        self._lacks("copy_topic")

    def _lacks(self, what: str) -> NoReturn:
        self._check()
        raise UnsupportedError(f"pylog has no {what} on Kafka: see engine.capabilities and docs/kafka.md")
