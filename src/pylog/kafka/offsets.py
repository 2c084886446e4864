"""Where consumers of a cluster stand and begin: offsets of partitions by place, time and commit.

Asks the cluster each time. Invariant: an answer is for all partitions that were asked for, or an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pylog.errors import OffsetOutOfRangeError
from pylog.kafka.failures import failure_of, failures
from pylog.kafka.topics import KafkaTopics
from pylog.records import OffsetAndTimestamp
from pylog.records import TopicPartition as Place

NANOSECONDS = 1_000_000


class Offsets:
    """What the brokers know of the offsets of partitions. Threads may share it."""

    def __init__(self, admin: AdminClient, topics: KafkaTopics, seconds: float) -> None:
        self._admin = admin
        self._topics = topics
        self._seconds = seconds

    def beginnings(self, places: Iterable[Place]) -> dict[Place, int]:
        """Return the log start offset of each."""
        return {place: found.offset for place, found in self._listed(places, OffsetSpec.earliest()).items()}

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """Return the log end offset of each, as readers of committed transactions see it."""
        return {place: found.offset for place, found in self._listed(places, OffsetSpec.latest()).items()}

    def at_times(self, times: Mapping[Place, int]) -> dict[Place, OffsetAndTimestamp | None]:
        """Return for each the first record at or after a time in ns, or None where there is none."""
        # the next whole millisecond: an earlier one would be before the time
        wanted = {place: OffsetSpec.for_timestamp(-(-time // NANOSECONDS)) for place, time in times.items()}
        found: dict[Place, OffsetAndTimestamp | None] = {}
        for place, answer in self._asked(wanted).items():
            there = answer.offset >= 0
            found[place] = (
                OffsetAndTimestamp(answer.offset, answer.timestamp * NANOSECONDS) if there else None
            )
        return found

    def _listed(self, places: Iterable[Place], spec: OffsetSpec) -> dict[Place, Any]:
        return self._asked(dict.fromkeys(places, spec))

    def _asked(self, wanted: Mapping[Place, OffsetSpec]) -> dict[Place, Any]:
        for place in wanted:
            self._topics.check_partition(*place)
        if not wanted:
            return {}
        asked = {TopicPartition(*place): spec for place, spec in wanted.items()}
        found = {}
        with failures("asking for offsets"):
            answers = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._seconds
            )
        for at, answer in answers.items():
            place = Place(at.topic, at.partition)
            try:
                found[place] = answer.result()
            except KafkaException as exception:
                self._topics.look(place.topic)  # where it is gone that is what there is to say
                raise failure_of(
                    exception.args[0], f"asking for offsets of {at.topic}-{at.partition}"
                ) from exception
        return found

    def check(self, place: Place, offset: object) -> int:
        """Return `offset` if the partition has it or ends at it; OffsetOutOfRangeError otherwise."""
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise TypeError(f"an offset is an int, not {type(offset).__name__}")
        first, end = self.beginnings([place])[place], self.ends([place])[place]
        if not first <= offset <= end:
            raise OffsetOutOfRangeError(
                f"offset {offset} of {place.topic}-{place.partition} is outside [{first}, {end}]",
                offset=offset,
                log_start_offset=first,
                log_end_offset=end,
            )
        return offset
