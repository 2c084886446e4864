"""What a consumer commits to its group on a cluster, when, and in which order.

Where it stands is in standing.py. Invariant: commit() commits nothing that the application was not given, and
librdkafka answers commits in the order in which it was asked.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError

from pylog.config import GroupConfig
from pylog.errors import (
    ClosedError,
    ConfigError,
    IllegalGenerationError,
    OffsetOutOfRangeError,
    PylogError,
    UnsupportedError,
)
from pylog.kafka.failures import failure_of, failures
from pylog.kafka.standing import StandingReader, at
from pylog.places import place_of
from pylog.records import OffsetAndMetadata
from pylog.records import TopicPartition as Place

if TYPE_CHECKING:
    from pylog.engine import Offsets, OnCommit
    from pylog.kafka.engine import KafkaEngine

logger = logging.getLogger("pylog")

MAX_METADATA = 4096
Committed = dict[Place, OffsetAndMetadata]


class CommittingReader(StandingReader):
    """What KafkaConsumer stands on."""

    def __init__(
        self,
        engine: KafkaEngine,
        group: str | None,
        reset: str,
        options: dict[str, Any],
        config: GroupConfig,
    ) -> None:
        self._config = config
        self._commit_at = time.monotonic() + config.auto_commit_interval_ms / 1000
        # what librdkafka has not answered, and what nobody was told of: both in the order of the commits
        self._asked: deque[tuple[Committed, OnCommit | None]] = deque()
        self._answers: deque[tuple[Committed, OnCommit | None, PylogError | None]] = deque()
        super().__init__(engine, group, reset, options | {"on_commit": self._answered})

    def committed(self, partition: Place | tuple[str, int]) -> int | None:
        """Return the group's committed offset, the next to read; None where there is none."""
        found = self.committed_with_metadata(partition)
        return None if found is None else found.offset

    def committed_with_metadata(self, partition: Place | tuple[str, int]) -> OffsetAndMetadata | None:
        """Return the group's committed offset and what was committed with it."""
        with self._owned("asking for committed offsets"):
            if self._group is None:
                raise ConfigError("the consumer has no group: it committed nothing")
            place = place_of(partition)
            self._engine._topics.check_partition(*place)
            return self._committed([place]).get(place)

    def commit(self, offsets: Offsets | None = None) -> None:
        """Commit the given offsets (next to read), or those of all that the application was given so far.

        Acknowledged by the group's coordinator on return. Kafka does not compare an offset with the log.

        Raises:
            ConfigError: the consumer has no group, or the partition is not assigned.
            OffsetOutOfRangeError: the offset is negative.
            UnsupportedError: metadata that is no UTF-8 text.
            IllegalGenerationError: another member has the partition now, or is about to: poll again.
        """
        with self._owned("committing"):
            self._commit(self._wanted(offsets))

    def commit_async(self, offsets: Offsets | None = None, on_commit: OnCommit | None = None) -> None:
        """Commit as commit() does, and do not wait for the coordinator, which keeps their order.

        Args:
            on_commit: Called with the offsets and None once they are acknowledged, or with what went wrong,
                which is logged where this is left out. It is called within a later poll or close.

        Raises:
            ConfigError, OffsetOutOfRangeError, UnsupportedError: as commit() does.
        """
        if on_commit is not None and not callable(on_commit):
            raise TypeError(f"on_commit is a function, not {type(on_commit).__name__}")
        with self._owned("committing"):
            wanted = self._wanted(offsets)
            found = {
                Place(one.topic, one.partition): OffsetAndMetadata(one.offset, (one.metadata or "").encode())
                for one in wanted
            }
            if not wanted:
                self._answers.append((found, on_commit, None))
                return
            self._client.commit(offsets=wanted, asynchronous=True)
            self._asked.append((found, on_commit))
            self._counts["commits"] += 1

    def _answered(self, error: KafkaError | None, partitions: list[Any]) -> None:
        """Called by librdkafka within a poll, for each commit that nobody waits for."""
        errors = [error, *(one.error for one in partitions)]
        failed = next((one for one in errors if one is not None), None)
        failure = None if failed is None else failure_of(failed, f"committing for group {self._group!r}")
        self._answers.append((*self._asked.popleft(), failure))

    def _tell(self) -> None:
        """Call the callbacks that are due; what one raises comes through, and it is not called again."""
        while self._answers:
            offsets, on_commit, failure = self._answers.popleft()
            if on_commit is not None:
                on_commit(offsets, failure)
            elif failure is not None:
                logger.warning("commit_async: %s", failure)

    def _client_closed(self) -> None:
        """Answer what the closed client has not."""
        while self._asked:
            failure = ClosedError("the consumer left before its commit was answered")
            self._answers.append((*self._asked.popleft(), failure))

    def _wanted(self, offsets: Offsets | None) -> list[Any]:
        if self._group is None:
            raise ConfigError("the consumer has no group: give group= to commit offsets")
        if offsets is None:
            return [at(place, offset) for place, offset in self._positions.items() if offset is not None]
        wanted = []
        for partition, given in offsets.items():
            offset, metadata = given if isinstance(given, OffsetAndMetadata) else (given, b"")
            place = self._place(partition)
            if isinstance(offset, bool) or not isinstance(offset, int):
                raise TypeError(f"an offset is an int, not {type(offset).__name__}")
            if offset < 0:
                raise OffsetOutOfRangeError(f"offset {offset} is negative", offset=offset)
            wanted.append(at(place, offset, text_of(metadata)))
        return wanted

    def _commit(self, wanted: list[Any]) -> None:
        if not wanted:
            return
        with failures(f"committing for group {self._group!r}"):
            answers = self._client.commit(offsets=wanted, asynchronous=False)
        for answer in answers:
            if answer.error is not None:
                raise failure_of(answer.error, f"committing {answer.topic}-{answer.partition}")
        self._counts["commits"] += 1

    def _auto_commit(self, *, at_once: bool = False) -> None:
        """With enable_auto_commit: commit what the application was given before this call."""
        now = time.monotonic()
        if not self._config.enable_auto_commit or (now < self._commit_at and not at_once):
            return
        self._commit_at = now + self._config.auto_commit_interval_ms / 1000
        try:
            self._commit(self._wanted(None))
        except IllegalGenerationError as error:
            logger.warning("auto-commit: %s", error)


def text_of(metadata: object) -> str:
    """Return the metadata of a commit as Kafka keeps it. Raises UnsupportedError where it is no text."""
    if not isinstance(metadata, bytes):
        raise TypeError(f"metadata is bytes, not {type(metadata).__name__}")
    if len(metadata) > MAX_METADATA:
        raise ConfigError(
            f"metadata of {len(metadata)} bytes: at most {MAX_METADATA} are kept with an offset"
        )
    try:
        text = metadata.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UnsupportedError("Kafka keeps metadata as text: UTF-8 without a zero byte")
    return text
