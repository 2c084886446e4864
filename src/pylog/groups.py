"""What a consumer group looks like from outside: its members, how far it is, and what a reset would change.

Plain values without behaviour. Invariant: immutable, and as it was at one moment: a group that is read from
moves on at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pylog.records import TopicPartition

GroupPhase = Literal["empty", "stable", "rebalancing"]
"""No members; each has what it shall have; partitions are on their way from one to another."""


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A living consumer of a group, or a static one that is waited for."""

    member_id: str
    pid: int
    host: str
    instance_id: str | None
    """What makes it a static member, or None."""
    assignment: tuple[TopicPartition, ...]
    """What it reads now."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a group is in one partition."""

    topic: str
    partition: int
    committed: int | None
    """The next offset to read; None where nothing was committed."""
    log_end_offset: int
    lag: int
    """Records from `committed` on, or from the log start offset where that is None or deleted since."""
    lag_seconds: float | None
    """Now less the timestamp of the first of those records; 0.0 without any, None where it is damaged."""
    metadata: bytes
    """What was committed with the offset."""
    member_id: str | None
    """Who reads the partition, or None."""


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group: its members, and a row for each partition that it committed or that a member reads."""

    group: str
    state: GroupPhase
    generation: int
    assignor: str
    members: tuple[GroupMember, ...]
    partitions: tuple[PartitionLag, ...]

    @property
    def lag(self) -> int:
        """The records that are not consumed yet, of all partitions."""
        return sum(row.lag for row in self.partitions)

    @property
    def lag_seconds(self) -> float:
        """The largest of the partitions'."""
        return max((row.lag_seconds or 0.0 for row in self.partitions), default=0.0)


class OffsetChange(NamedTuple):
    """One line of the plan of a reset."""

    topic: str
    partition: int
    committed: int | None
    """What is committed now; None where nothing is, or where it is damaged."""
    new_offset: int
