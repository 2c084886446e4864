"""Looking at groups from outside, and changing what they have committed.

Not a membership: whoever calls these is in no group. Invariant: offsets are changed under the group's lock,
on disk, and under a new generation before its members hear of it, so that no commit of before undoes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from logcore.offsets import OffsetTable
from logcore.topic_log import TopicLog
from pylog.config import check_count, check_name
from pylog.embedded.commits import GroupOffsets
from pylog.embedded.group_state import GroupFiles, GroupState, Member, boot_time
from pylog.errors import (
    ConfigError,
    CorruptionError,
    GroupNotEmptyError,
    OffsetOutOfRangeError,
    UnknownGroupError,
    UnknownTopicError,
)
from pylog.groups import GroupDescription, GroupMember, GroupPhase, OffsetChange, PartitionLag
from pylog.places import nanoseconds, place_of
from pylog.records import TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.administration import AdministeredDirectory
    from pylog.engine import ResetTarget, TopicsOrPartitions

OFFSETS = ".offsets"
LARGEST_OFFSET = (1 << 63) - 1


class Committed(NamedTuple):
    """What a table says of a partition; damaged where both copies of it are."""

    offset: int | None
    metadata: bytes = b""
    damaged: bool = False


class GroupView:
    """A group as it is on disk, while the block runs that opened it."""

    def __init__(self, engine: AdministeredDirectory, group: str) -> None:
        self.engine = engine
        self.group = check_name(group, "group")
        self.directory = f"{engine.path}/groups/{group}"
        self.offsets = GroupOffsets(engine, group)
        self.state = GroupFiles(f"{self.directory}/members", engine._registry, create=False).load()

    # ---- members ----------------------------------------------------------------------------------------

    def living(self, state: GroupState) -> list[Member]:
        """Return who is a member: alive, if only stopped, or static and waited for."""
        return [member for member in state.members.values() if self._lives(member)]

    def _lives(self, member: Member) -> bool:
        if member.left_at is not None:
            return 0 <= boot_time() - member.left_at < member.session_timeout
        return self.engine._registry.lives(member.slot, member.incarnation)

    def check_empty(self, state: GroupState, remedy: str = "") -> None:
        """Raise GroupNotEmptyError while members live, and say what would help."""
        living = self.living(state)
        if living:
            names = ", ".join(member.member_id for member in living[:3])
            raise GroupNotEmptyError(
                f"group {self.group!r} has living members ({names}{', ...' if living[3:] else ''}){remedy}",
                group=self.group,
                members=len(living),
            )

    def check_known(self) -> None:
        """Raise UnknownGroupError where nobody is a member and nothing is committed."""
        if not self.exists():
            raise UnknownGroupError(f"there is no group {self.group!r}", group=self.group)

    def exists(self) -> bool:
        """Return whether it has members or has committed something."""
        if self.living(self.state):
            return True
        places = (place for log in self.logs() for place in self.places_of(log))
        return any(
            committed.offset is not None or committed.damaged for committed in map(self.committed, places)
        )

    # ---- offsets ----------------------------------------------------------------------------------------

    def logs(self) -> Iterator[TopicLog]:
        """Yield the topics for which the group has a table, by name."""
        with suppress(FileNotFoundError):
            names = sorted(entry.name for entry in os.scandir(self.directory))
            for name in names:
                if name.endswith(OFFSETS) and not name.startswith("."):
                    with suppress(UnknownTopicError):  # deleted since
                        yield self.engine._log(name.removesuffix(OFFSETS))

    def places_of(self, log: TopicLog) -> list[TopicPartition]:
        """Return all partitions of a topic."""
        return [TopicPartition(log.name, partition) for partition in range(log.partitions)]

    def table(self, place: TopicPartition) -> OffsetTable:
        """Return the table that has a partition."""
        return self.offsets.table(self.engine._log(place.topic))

    def committed(self, place: TopicPartition) -> Committed:
        """Return what is committed for a partition."""
        table = self.table(place)
        if place.partition >= table.partitions:  # read-only, and nothing was committed that far
            return Committed(None)
        try:
            found = table.committed(place.partition)
        except CorruptionError:
            return Committed(None, damaged=True)
        return Committed(None) if found is None else Committed(found[0], found[2] or b"")

    def generation(self, place: TopicPartition) -> int:
        """Return the generation that has a partition; 0 where its offset is damaged."""
        try:
            return self.table(place).generation(place.partition)
        except CorruptionError:
            return 0

    def next_generation(self, state: GroupState, places: Iterable[TopicPartition]) -> int:
        """Begin a generation that is newer than the group's and those of the partitions."""
        state.generation = 1 + max([state.generation, *map(self.generation, places)])
        return state.generation

    def owners(self, state: GroupState) -> dict[TopicPartition, Member]:
        """Return who reads what."""
        return {place: member for member in self.living(state) for place in member.owned}

    def known_places(self, state: GroupState) -> list[TopicPartition]:
        """Return what was committed or is read, sorted."""
        found = set()
        for place in self.owners(state):
            with suppress(UnknownTopicError):
                if place.partition < self.engine._partitions_of(place.topic):
                    found.add(place)
        for log in self.logs():
            for place in self.places_of(log):
                committed = self.committed(place)
                if committed.offset is not None or committed.damaged:
                    found.add(place)
        return sorted(found)

    @contextmanager
    def changing(self) -> Iterator[GroupState]:
        """Hold the group, and store what the block makes of its state."""
        files = GroupFiles(f"{self.directory}/members", self.engine._registry, create=True)
        try:
            with files.changing() as state:
                yield state
        finally:
            files.close()


@contextmanager
def viewed(engine: AdministeredDirectory, group: str) -> Iterator[GroupView]:
    """Look at a group."""
    engine._finish_transactions()
    view = GroupView(engine, group)
    try:
        yield view
    finally:
        view.offsets.close()


# ---- looking --------------------------------------------------------------------------------------------


def list_groups(engine: AdministeredDirectory) -> list[str]:
    """Return the names of the groups that have members or have committed something, sorted."""
    try:
        names = sorted(entry.name for entry in os.scandir(f"{engine.path}/groups") if entry.is_dir())
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if not name.startswith("."):
            with viewed(engine, name) as view:
                if view.exists():
                    found.append(name)
    return found


def describe_group(engine: AdministeredDirectory, group: str) -> GroupDescription:
    """Return a group as it is now."""
    with viewed(engine, group) as view:
        view.check_known()
        state, host = view.state, os.uname().nodename
        living = view.living(state)
        owners = view.owners(state)
        members = [
            GroupMember(member.member_id, member.pid, host, member.instance_id, tuple(sorted(member.owned)))
            for member in living
        ]
        rows = [_lag_of(view, place, owners.get(place)) for place in view.known_places(state)]
        return GroupDescription(
            group, _phase(state, living), state.generation, state.assignor, tuple(members), tuple(rows)
        )


def _phase(state: GroupState, living: list[Member]) -> GroupPhase:
    if not living:
        return "empty"
    settled = len(living) == len(state.members) and all(set(m.owned) == set(m.target) for m in living)
    return "stable" if settled else "rebalancing"


def _lag_of(view: GroupView, place: TopicPartition, owner: Member | None) -> PartitionLag:
    committed = view.committed(place)
    if committed.damaged:
        view.table(place).committed(place.partition)  # says which file, and where
    log = view.engine._log(place.topic)
    end, first = log.log_end_offset(place.partition), log.log_start_offset(place.partition)
    position = max(first, first if committed.offset is None else committed.offset)
    lag = max(0, end - position)
    return PartitionLag(
        place.topic,
        place.partition,
        committed.offset,
        end,
        lag,
        _age(view.engine, log, place.partition, position) if lag else 0.0,
        committed.metadata,
        None if owner is None else owner.member_id,
    )


def _age(engine: AdministeredDirectory, log: TopicLog, partition: int, offset: int) -> float | None:
    """Return the seconds since the record at `offset`; None where it cannot be read."""
    try:
        records = log.reader(partition, offset).poll(1)
    except (CorruptionError, OffsetOutOfRangeError):  # damaged, or deleted just now
        return None
    return max(0.0, (engine._clock.time_ns() - records[0].timestamp) / 1e9) if records else 0.0


def consumed_by(engine: AdministeredDirectory, topic: str, partition: int, offset: int) -> dict[str, bool]:
    """Return for each group of the topic whether it has committed past a record."""
    place = TopicPartition(topic, partition)
    check_count(partition, "partition", 0, engine._partitions_of(topic) - 1)
    check_count(offset, "offset", 0, LARGEST_OFFSET)
    found = {}
    for group in list_groups(engine):
        with viewed(engine, group) as view:
            if any(known.topic == topic for known in view.known_places(view.state)):
                committed = view.committed(place).offset
                found[group] = committed is not None and committed > offset
    return found


# ---- changing -------------------------------------------------------------------------------------------


def delete_group(engine: AdministeredDirectory, group: str) -> None:
    """Forget what a group committed, for everybody who has its tables open."""
    with viewed(engine, group) as view:
        view.check_known()
        with view.changing() as state:
            view.check_empty(state)
            places = [place for log in view.logs() for place in view.places_of(log)]
            generation = view.next_generation(state, places)
            for place in places:
                view.table(place).forget(place.partition, generation)
            _sync(view, places)
            state.members.clear()


def reset_offsets(
    engine: AdministeredDirectory,
    group: str,
    partitions: TopicsOrPartitions | None,
    *,
    to: ResetTarget | None,
    by: int | None,
    execute: bool,
    force: bool,
) -> list[OffsetChange]:
    """Plan where a group goes on, and commit that with `execute`."""
    _check_target(partitions, to, by)
    with viewed(engine, group) as view:
        plan = _plan(view, view.state, partitions, to, by)
        if not execute:
            return plan
        with view.changing() as state:
            if not force:
                view.check_empty(state, ": where it is forced they begin anew")
            plan = _plan(view, state, partitions, to, by)
            _carry_out(view, state, plan)
        return plan


def _check_target(partitions: object, to: ResetTarget | None, by: int | None) -> None:
    if (to is None) == (by is None):
        raise ConfigError("a reset needs one of to= (where to go on) and by= (how far to move)")
    if by is not None:
        check_count(by, "by", -LARGEST_OFFSET, LARGEST_OFFSET)
    elif isinstance(to, str):
        if to not in ("earliest", "latest"):
            raise ConfigError(
                f"to={to!r} is unknown: use 'earliest', 'latest', an offset, a time, a duration"
            )
    elif isinstance(to, Mapping):
        if partitions is not None:
            raise ConfigError("a mapping names the partitions itself: leave partitions out")
    elif isinstance(to, datetime):
        nanoseconds(to)
    elif not isinstance(to, timedelta):
        check_count(to, "to", 0, LARGEST_OFFSET)


def _plan(
    view: GroupView, state: GroupState, partitions: object, to: ResetTarget | None, by: int | None
) -> list[OffsetChange]:
    each: dict[TopicPartition, ResetTarget | None]
    if isinstance(to, Mapping):
        each = {place_of(place): check_count(offset, "to", 0, LARGEST_OFFSET) for place, offset in to.items()}
    else:
        each = dict.fromkeys(_chosen(view, state, partitions), to)
    plan = []
    for place, target in sorted(each.items(), key=lambda item: item[0]):
        log = view.engine._log(place.topic)
        check_count(place.partition, "partition", 0, log.partitions - 1)
        # only where somebody has committed: a plan makes no table
        has_table = os.path.lexists(f"{view.directory}/{place.topic}{OFFSETS}")
        committed = view.committed(place).offset if has_table else None
        first, end = log.log_start_offset(place.partition), log.log_end_offset(place.partition)
        wanted = _wanted(
            view.engine, log, place.partition, target, by, first if committed is None else committed
        )
        plan.append(OffsetChange(*place, committed, min(max(wanted, first), end)))
    return plan


def _chosen(view: GroupView, state: GroupState, partitions: object) -> list[TopicPartition]:
    """Return the partitions that a caller means: those of the group, of topics, or single ones."""
    if partitions is None:
        view.check_known()
        return view.known_places(state)
    if not isinstance(partitions, Iterable):
        raise TypeError(f"expected topics or (topic, partition) pairs, not {partitions!r}")
    found = []
    for given in [partitions] if isinstance(partitions, str) else partitions:
        if isinstance(given, str):
            found += view.places_of(view.engine._log(given))
        else:
            found.append(place_of(given))
    return found


def _wanted(
    engine: AdministeredDirectory,
    log: TopicLog,
    partition: int,
    to: ResetTarget | None,
    by: int | None,
    base: int,
) -> int:
    """Return the offset that a target means in a partition, inside the log or not."""
    if by is not None:
        return base + by
    if to == "earliest":
        return 0
    if to == "latest":
        return LARGEST_OFFSET
    if isinstance(to, timedelta):
        time = engine._clock.time_ns() - nanoseconds_of(to)
    elif isinstance(to, datetime):
        time = nanoseconds(to)
    else:
        assert isinstance(to, int)
        return to
    reader = log.reader(partition, log.log_start_offset(partition))
    found = reader.offset_for_time(time)
    return LARGEST_OFFSET if found is None else int(found)


def nanoseconds_of(duration: timedelta) -> int:
    """Return a duration in nanoseconds."""
    return duration // timedelta(microseconds=1) * 1000


def _carry_out(view: GroupView, state: GroupState, plan: list[OffsetChange]) -> None:
    """Commit the plan in a new generation, and give that to whoever reads the partitions: it begins anew."""
    places = [TopicPartition(change.topic, change.partition) for change in plan]
    generation = view.next_generation(state, places)
    for place, change in zip(places, plan, strict=True):
        table = view.table(place)
        if view.committed(place).damaged:
            table.forget(place.partition, generation)
        epoch = view.engine._log(place.topic).epoch(place.partition)
        table.commit(place.partition, change.new_offset, epoch, generation)
    _sync(view, places)
    for member in state.members.values():
        for place in places:
            if place in member.owned:
                member.owned[place] = generation


def _sync(view: GroupView, places: Iterable[TopicPartition]) -> None:
    for topic in sorted({place.topic for place in places}):
        view.table(TopicPartition(topic, 0)).sync()
