"""Where a consumer of Kafka stands: its client, what is assigned, positions, seeking, pausing, who may call.

The part of a consumer that neither waits nor knows how a group works. Invariant: a partition begins at the
offset that was found when it was assigned, whatever is appended between then and the first poll.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_STORED, Consumer, KafkaError, KafkaException, TopicPartition

from pylog.errors import ClosedError, ConfigError, OffsetOutOfRangeError, UnsupportedError
from pylog.kafka.failures import failures
from pylog.kafka.reading import nobody
from pylog.places import nanoseconds, place_of, places_of
from pylog.records import OffsetAndMetadata, OffsetAndTimestamp
from pylog.records import TopicPartition as Place

if TYPE_CHECKING:
    from pylog.engine import Partitions
    from pylog.kafka.engine import KafkaEngine

NOT_YET = frozenset({KafkaError._STATE, KafkaError._PREV_IN_PROGRESS})
"""What a seek is answered with until librdkafka has begun to fetch the partition."""
TRY_AGAIN_SECONDS = 0.005


def at(place: Place, offset: int, metadata: str | None = None) -> Any:
    """Return a place with an offset in librdkafka's form."""
    if metadata:
        return TopicPartition(place.topic, place.partition, offset, metadata)
    return TopicPartition(place.topic, place.partition, offset)


class StandingReader:
    """What KafkaConsumer stands on. Belongs to the thread that uses it first, and raises in others."""

    def __init__(self, engine: KafkaEngine, group: str | None, reset: str, options: dict[str, Any]) -> None:
        self._engine = engine
        self._group = group
        self._reset = reset
        self._options = options
        self._process = os.getpid()
        self._thread: int | None = None
        # held by each use, so that a close by another thread waits until librdkafka has been left
        self._using = threading.RLock()
        self._closed = False
        # the next offset of each assigned partition; None: there is none to begin at, and a poll will say so
        self._positions: dict[Place, int | None] = {}
        self._paused: set[Place] = set()
        self._counts = {"records": 0, "polls": 0, "commits": 0}
        self._client = self._opened()

    def _opened(self) -> Any:
        options = {
            **self._options,
            "group.id": self._group or nobody(),
            "auto.offset.reset": self._reset,
            "topic.metadata.refresh.interval.ms": 5_000,
        }
        with failures("opening a consumer"):
            return Consumer(self._engine._consuming(options))

    def _reopen(self) -> None:
        with failures("leaving the group"):
            self._client.close()
        self._client_closed()
        self._client = self._opened()

    # ---- who may call -----------------------------------------------------------------------------------

    @contextmanager
    def _use(self) -> Iterator[None]:
        if os.getpid() != self._process:
            raise ClosedError("the consumer was inherited through a fork: open one in the child")
        with self._using:
            if self._closed or self._engine.closed:
                raise ClosedError("the consumer was closed")
            yield

    @contextmanager
    def _owned(self, doing: str) -> Iterator[None]:
        """Have the consumer to itself; what Kafka raises within is an error of pylog."""
        thread = threading.get_ident()
        if self._thread != thread:
            if self._thread is not None:
                raise UnsupportedError("a consumer belongs to the thread that used it first: use one each")
            self._thread = thread
        with self._use(), failures(doing):
            yield

    def _close(self) -> None:
        if self._closed or os.getpid() != self._process:
            return
        with self._using:
            if self._closed:
                return
            try:
                # revokes what is assigned, by the callbacks, and leaves the group
                with failures("closing a consumer"):
                    self._client.close()
            finally:
                self._closed = True
                self._engine._members.discard(self)  # type: ignore[arg-type]  # a KafkaConsumer
                self._positions.clear()
                self._client_closed()

    def _client_closed(self) -> None:
        """The client is no more: whoever waits for an answer of it gets none."""

    # ---- what is assigned -------------------------------------------------------------------------------

    def _take(self, places: list[Place], came_later: frozenset[str] | set[str] = frozenset()) -> None:
        """Read exactly these, in no group; what was read already goes on where it stands."""
        kept = {place: offset for place, offset in self._positions.items() if place in set(places)}
        self._positions.clear()
        starts = self._starts([place for place in places if place not in kept], came_later)
        goes_on = [at(place, OFFSET_STORED if offset is None else offset) for place, offset in kept.items()]
        self._positions = {place: {**kept, **self._positions}[place] for place in places}
        if places:
            self._client.assign([*goes_on, *starts])
        else:
            self._client.unassign()
        self._paused &= set(places)
        self._pause_again(places)

    def _starts(self, places: list[Place], came_later: frozenset[str] | set[str]) -> list[Any]:
        """Find where each begins, note it as the position, and return it in librdkafka's form."""
        found: dict[Place, int | None] = {}
        if self._group is not None and places:
            found.update({place: one.offset for place, one in self._committed(places).items()})
        rest = [place for place in places if place not in found]
        first = [place for place in rest if self._reset == "earliest" or place.topic in came_later]
        found.update(self._engine._offsets.beginnings(first))
        if self._reset == "latest":
            found.update(self._engine._offsets.ends([place for place in rest if place not in found]))
        for place in places:
            self._positions[place] = found.get(place)
        return [
            at(place, OFFSET_STORED if found.get(place) is None else found[place] or 0) for place in places
        ]

    def _committed(self, places: list[Place]) -> dict[Place, OffsetAndMetadata]:
        asked = [at(place, 0) for place in places]
        with failures(f"asking for what group {self._group!r} committed"):
            answers = self._client.committed(asked, timeout=self._engine._address.request_seconds)
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        return {
            Place(one.topic, one.partition): OffsetAndMetadata(one.offset, (one.metadata or "").encode())
            for one in answers
            if one.offset >= 0
        }

    def _await_assignment(self) -> None:
        """Be told first what is assigned, where a group has not said so yet: "all" is not none."""

    def _forget(self, places: list[Place]) -> None:
        for place in places:
            self._positions.pop(place, None)

    def assignment(self) -> list[Place]:
        """Return what is read now."""
        with self._owned("asking"):
            return list(self._positions)

    def _place(self, partition: object) -> Place:
        place = place_of(partition)
        if place not in self._positions:
            raise ConfigError(f"{partition!r} is not assigned to this consumer")
        return place

    def _chosen(self, partitions: Partitions | None) -> list[Place]:
        if partitions is None:
            self._await_assignment()
            return list(self._positions)
        return [self._place(place) for place in places_of(partitions)]

    def pause(self, partitions: Partitions | None = None) -> None:
        """Give nothing of these partitions, or of all, until resume(); also after a rebalance."""
        with self._owned("pausing"):
            places = self._chosen(partitions)
            self._paused |= set(places)
            self._client.pause([TopicPartition(*place) for place in places])

    def _pause_again(self, places: list[Place]) -> None:
        paused = [TopicPartition(*place) for place in places if place in self._paused]
        if paused:
            self._client.pause(paused)

    def resume(self, partitions: Partitions | None = None) -> None:
        """Undo pause()."""
        with self._owned("resuming"):
            places = self._chosen(partitions)
            self._paused -= set(places)
            self._client.resume([TopicPartition(*place) for place in places])

    def paused(self) -> list[Place]:
        """Return what is paused."""
        with self._owned("asking"):
            return [place for place in self._positions if place in self._paused]

    # ---- positions --------------------------------------------------------------------------------------

    def position(self, partition: Place | tuple[str, int]) -> int:
        """Return the offset of the next record that the application is given."""
        with self._owned("asking"):
            place = self._place(partition)
            offset = self._positions[place]
            if offset is None:
                raise OffsetOutOfRangeError(
                    f"{place.topic}-{place.partition} has no committed offset: auto_offset_reset is 'error'"
                )
            return offset

    def seek(self, partition: Place | tuple[str, int], offset: int) -> None:
        """Go on at an offset. Raises OffsetOutOfRangeError outside [log_start_offset, log_end_offset]."""
        with self._owned("seeking"):
            place = self._place(partition)
            self._seek({place: self._engine._offsets.check(place, offset)})

    def seek_to_beginning(self, partitions: Partitions | None = None) -> None:
        """Go on at the log start offset of the partitions, or of all."""
        with self._owned("seeking"):
            self._seek(self._engine._offsets.beginnings(self._chosen(partitions)))

    def seek_to_end(self, partitions: Partitions | None = None) -> None:
        """Go on at the log end offset of the partitions, or of all."""
        with self._owned("seeking"):
            self._seek(self._engine._offsets.ends(self._chosen(partitions)))

    def seek_to_time(self, time: int | datetime, partitions: Partitions | None = None) -> None:
        """Go on at the first record with a timestamp at or after `time`, or at the end where none has."""
        with self._owned("seeking"):
            timestamp = nanoseconds(time)
            places = self._chosen(partitions)
            wanted = self._engine._offsets.ends(places)
            for place, found in self._engine._offsets.at_times(dict.fromkeys(places, timestamp)).items():
                if found is not None:
                    wanted[place] = found.offset
            self._seek(wanted)

    def _seek(self, wanted: Mapping[Place, int]) -> None:
        for place, offset in wanted.items():
            self._when_fetching(lambda place=place, offset=offset: self._client.seek(at(place, offset)))  # type: ignore[misc]
            self._positions[place] = offset

    def _when_fetching(self, call: Callable[[], object]) -> None:
        """Call, and again while librdkafka's own thread has not begun with the partition."""
        end = time.monotonic() + self._engine._address.request_seconds
        while True:
            try:
                call()
                return
            except KafkaException as exception:
                if exception.args[0].code() not in NOT_YET or time.monotonic() > end:
                    raise
            time.sleep(TRY_AGAIN_SECONDS)

    def offsets_for_times(
        self, times: Mapping[Place | tuple[str, int], int | datetime]
    ) -> dict[Place, OffsetAndTimestamp | None]:
        """Return for each partition its first record at or after the time, or None where it has none."""
        with self._owned("asking for offsets"):
            wanted = {place_of(place): nanoseconds(given) for place, given in times.items()}
            return self._engine._offsets.at_times(wanted)

    def beginning_offsets(self, partitions: Partitions | None = None) -> dict[Place, int]:
        """Return the log start offset of each, or of all that is assigned."""
        with self._owned("asking for offsets"):
            places = list(self._positions) if partitions is None else places_of(partitions)
            return self._engine._offsets.beginnings(places)

    def end_offsets(self, partitions: Partitions | None = None) -> dict[Place, int]:
        """Return the log end offset of each, or of all that is assigned."""
        with self._owned("asking for offsets"):
            places = list(self._positions) if partitions is None else places_of(partitions)
            return self._engine._offsets.ends(places)
