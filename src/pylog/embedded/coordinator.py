"""A consumer's membership in its group: joining, leaving, following the others, handing partitions over.

There is no server: whichever member notices that something is to be done does it, under the group's lock.
A rebalance is cooperative (KIP-429): what stays with its owner is never interrupted, what moves is given on
once the owner has let go of it, or is taken from it after rebalance_timeout_ms. Invariant: before a partition
gets an owner its offset table is fenced for that generation, so that no owner before can commit.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from logcore.processes import fork_count
from pylog.embedded.assignors import ASSIGNORS, Candidate
from pylog.embedded.commits import GroupOffsets
from pylog.embedded.group_state import MAX_MEMBERS, GroupFiles, GroupState, Member, boot_time
from pylog.errors import ConfigError, FencedError, UnknownTopicError, UnsupportedError
from pylog.records import TopicPartition
from pylog.subscription import Subscription, matching

if TYPE_CHECKING:
    from pylog.config import GroupConfig
    from pylog.embedded.engine import EmbeddedEngine

LOOK_SECONDS = 0.25
"""How often a member that polls looks for what rings no bell: stopped members, new topics, deadlines."""


class Rebalance(NamedTuple):
    """What changed for one member."""

    lost: list[TopicPartition]
    """Taken from it: others may have them already."""
    revoked: list[TopicPartition]
    """To be let go of by release(), once what was read of them is committed."""
    gained: list[TopicPartition]


class Coordinator:
    """One membership. Belongs to the consumer's thread; close() may come from another."""

    def __init__(self, engine: EmbeddedEngine, offsets: GroupOffsets, config: GroupConfig) -> None:
        self._engine = engine
        self._registry = engine._registry
        self._offsets = offsets
        self._config = config
        self._token = 0  # before anything can fail: __del__ asks for it
        self._files = GroupFiles(f"{engine.path}/groups/{offsets.group}/members", self._registry, create=True)
        self._forks = fork_count()
        self._place = -1
        self._state = GroupState()
        self._revision = -1
        self._word = -1
        self._look_at = 0.0
        self._topics_changed = -1
        self._counts: dict[str, int] = {}
        self._subscription = Subscription("none")
        self.refused = False
        """Whether a commit of what this member holds was refused: a reset may have died half way."""
        self.member_id = ""
        self.held: dict[TopicPartition, int] = {}
        """What this member reads, and the generation in which it got each."""

    # ---- joining and leaving ----------------------------------------------------------------------------

    def join(self, subscription: Subscription) -> None:
        """Become a member, or change what this one subscribes to.

        Raises:
            ConfigError: the group's living members use another assignor.
            UnsupportedError: the group has 1024 members.
        """
        self._subscription = subscription
        config = self._config
        with self._files.changing() as state:
            self._bury(state)
            if state.assignor != config.assignor and state.members:
                raise ConfigError(
                    f"group {self._offsets.group!r} uses assignor={state.assignor!r}: say the same"
                )
            state.assignor = config.assignor
            member = state.members.get(self.member_id) if self._token else None
            if member is None or member.token != self._token:
                member = self._enrol(state)
            member.topics, member.patterns = subscription.topics, subscription.patterns
            self._rebalance(state)
        self._revision = -1

    def _enrol(self, state: GroupState) -> Member:
        """Add this member to the document, or take over what a static one left."""
        config = self._config
        taken = {member.place for member in state.members.values()}
        static = config.group_instance_id
        before = None if static is None else state.members.get(static)
        if before is not None:
            taken.discard(before.place)
        if len(taken) >= MAX_MEMBERS:
            raise UnsupportedError(f"group {self._offsets.group!r} has {MAX_MEMBERS} members, the most")
        self._token = random.SystemRandom().getrandbits(63) | 1
        self._place = min(set(range(len(taken) + 1)) - taken)
        self.member_id = static or f"{self._registry.pid}-{self._token:016x}"
        member = Member(
            member_id=self.member_id,
            token=self._token,
            slot=self._registry.slot,
            incarnation=self._registry.incarnation,
            pid=os.getpid(),
            place=self._place,
            topics=[],
            patterns=[],
            instance_id=static,
            capacity=config.capacity,
            session_timeout=config.session_timeout_ms / 1000,
            max_poll_interval=config.max_poll_interval_ms / 1000,
            rebalance_timeout=config.rebalance_timeout_ms / 1000,
        )
        self._files.polled(self._place, boot_time())
        self.held = {}
        if before is not None:
            # what it had stays with it, in a new generation that fences the one before
            state.generation += 1
            member.target = before.target
            self._give(state, member, before.owned)
        state.members[self.member_id] = member
        return member

    def leave(self) -> None:
        """Hand everything over; a static member's partitions wait for it for session_timeout_ms."""
        if self._token == 0 or self._forks != fork_count():
            return
        with self._files.changing() as state:
            member = state.members.get(self.member_id)
            if member is not None and member.token == self._token:
                if member.instance_id is None:
                    del state.members[self.member_id]
                    self._rebalance(state)
                else:
                    member.left_at, member.slot, member.incarnation = boot_time(), -1, 0
        self._token = 0
        self.held = {}

    def close(self) -> None:
        """Leave, and unmap."""
        try:
            self.leave()
        finally:
            self._token = 0
            self._files.close()

    def __del__(self) -> None:
        # of a consumer that was dropped: takes no lock, and the others see that it does not poll
        if self._token and self._forks == fork_count():
            with suppress(UnsupportedError):
                self._files.polled(self._place, 0.0)

    # ---- following --------------------------------------------------------------------------------------

    def stale(self) -> bool:
        """Return whether follow() has something to look at; a few loads where nothing changed."""
        return self._files.revision != self._revision or boot_time() >= self._look_at

    def follow(self) -> Rebalance | None:
        """Say that this member polls, do what is due in the group, and return what changed for it.

        Raises:
            FencedError: another consumer joined with the same group_instance_id.
        """
        now = boot_time()
        self._files.polled(self._place, now)
        word = self._registry.word()
        if self._files.revision == self._revision and word == self._word and now < self._look_at:
            return None
        self._word, self._look_at = word, now + LOOK_SECONDS
        if self._files.revision == self._revision:
            if not self._due(now):
                return None
            with self._files.changing() as state:
                self._bury(state)
                self._regain(state)
                self._rebalance(state)
        self._revision = self._files.revision
        self._state = self._files.load()
        return self._compare()

    def _compare(self) -> Rebalance | None:
        member = self._state.members.get(self.member_id)
        if member is None:
            # the others took this process for stopped: begin anew
            lost = sorted(self.held)
            self.held, self._token = {}, 0
            self.join(self._subscription)
            return Rebalance(lost, [], [])
        if member.token != self._token:
            self.held = {}
            raise FencedError(
                f"another consumer joined group {self._offsets.group!r} as {self.member_id!r} "
                "(group_instance_id): one at a time has it"
            )
        before, owned, target = self.held, member.owned, set(member.target)
        lost = sorted(place for place, got in before.items() if owned.get(place) != got)
        # what it shall not have any more and never began to read is let go of without a word
        revoked = member.to_revoke()
        self.held = {place: got for place, got in owned.items() if place in target or place in before}
        gained = sorted(place for place in target.intersection(owned) if before.get(place) != owned[place])
        if not (lost or revoked or gained):
            return None
        return Rebalance(lost, revoked, gained)

    def release(self, places: Iterable[TopicPartition]) -> None:
        """Let go of partitions: whoever shall have them gets them at once."""
        with self._files.changing() as state:
            member = state.members.get(self.member_id)
            if member is None or member.token != self._token:
                return
            for place in places:
                self.held.pop(place, None)
                member.owned.pop(place, None)
            self._hand_out(state)

    # ---- what any member does for the group -------------------------------------------------------------

    def _due(self, now: float) -> bool:
        """Return whether the group needs a look under its lock, by the document as last loaded."""
        members = self._state.members.values()
        if self.refused:
            return True
        if any(self._gone(member, now) for member in members):
            return True
        if any(member.revoke_by is not None and now >= member.revoke_by for member in members):
            return True
        changed = self._engine._topics.changed()
        if changed == self._topics_changed:
            return any(self._grew(topic, count) for topic, count in self._counts.items())
        self._topics_changed = changed
        return True

    def _grew(self, topic: str, count: int) -> bool:
        """Return whether a topic has other partitions than when this member saw to the group last."""
        with suppress(UnknownTopicError):
            return self._engine._partitions_of(topic) != count
        return True

    def _gone(self, member: Member, now: float) -> bool:
        """Return whether a member is dead, stopped, stuck, or has been away for too long."""
        if member.left_at is not None:
            return not 0 <= now - member.left_at < member.session_timeout
        if not self._registry.lives(member.slot, member.incarnation):
            return True
        if self._registry.heartbeat_age(member.slot) > member.session_timeout:
            return True
        return now - self._files.last_poll(member.place) > member.max_poll_interval

    def _bury(self, state: GroupState) -> None:
        """Take out who is gone; a static member that died is waited for."""
        now = boot_time()
        for member in list(state.members.values()):
            if not self._gone(member, now):
                continue
            alive = member.left_at is None and self._registry.lives(member.slot, member.incarnation)
            if member.instance_id is not None and member.left_at is None and not alive:
                member.left_at = now
            else:
                del state.members[member.member_id]

    def _rebalance(self, state: GroupState) -> None:
        """Compute who shall have what, take what was not let go of in time, and give out what is free."""
        now = boot_time()
        partitions, topics = self._subscribed(state)
        members = [
            Candidate(member.member_id, frozenset(topics[name]), frozenset(member.target), member.capacity)
            for name, member in state.members.items()
        ]
        weights = self._weights(partitions) if state.assignor == "weighted" else {}
        found = ASSIGNORS[state.assignor](members, partitions, weights) if members else {}
        if any(found[name] != member.target for name, member in state.members.items()):
            state.generation += 1
        for name, member in state.members.items():
            member.target = found[name]
            late = member.to_revoke()
            if late and member.revoke_by is not None and now >= member.revoke_by:
                for place in late:
                    del member.owned[place]
                late = []
            if not late:
                member.revoke_by = None
            elif member.revoke_by is None:
                member.revoke_by = now + member.rebalance_timeout
        self._hand_out(state)

    def _subscribed(self, state: GroupState) -> tuple[dict[str, int], dict[str, set[str]]]:
        """Return the partitions of each topic that somebody wants, and the topics of each member."""
        known = self._engine.list_topics()
        topics = {
            name: matching(member.topics, member.patterns, known) for name, member in state.members.items()
        }
        partitions = {}
        for topic in sorted(set().union(*topics.values())):
            try:
                partitions[topic] = self._engine._partitions_of(topic)
            except UnknownTopicError:
                for wanted in topics.values():
                    wanted.discard(topic)
        self._counts = partitions
        return partitions, topics

    def _weights(self, partitions: dict[str, int]) -> dict[TopicPartition, float]:
        """Return 1 and the share of the lag for each partition: one without lag counts too."""
        lags = {}
        for topic, count in partitions.items():
            log = self._engine._log(topic)
            for partition in range(count):
                committed = self._offsets.committed(log, partition)
                first = log.log_start_offset(partition) if committed is None else committed[0]
                lags[TopicPartition(topic, partition)] = max(0, log.log_end_offset(partition) - first)
        mean = sum(lags.values()) / len(lags) if lags else 0
        return {place: 1.0 + (lag / mean if mean else 0.0) for place, lag in lags.items()}

    def _hand_out(self, state: GroupState) -> None:
        """Give each partition that nobody owns to who shall have it."""
        owned = {place for member in state.members.values() for place in member.owned}
        for member in state.members.values():
            self._give(state, member, [place for place in member.target if place not in owned])

    def _regain(self, state: GroupState) -> None:
        """Take again what is this member's by the document, and of a newer generation by its table."""
        if not self.refused:
            return
        self.refused = False
        member = state.members.get(self.member_id)
        if member is not None and member.token == self._token:
            for place, got in list(member.owned.items()):
                with suppress(UnknownTopicError):
                    table = self._offsets.table(self._engine._log(place.topic))
                    if table.generation(place.partition) > got:
                        self._give(state, member, [place])

    def _give(self, state: GroupState, member: Member, places: Iterable[TopicPartition]) -> None:
        for place in places:
            try:
                table = self._offsets.table(self._engine._log(place.topic))
            except UnknownTopicError:
                continue
            # a power cut may have taken the document's last generations, and left the table's
            if table.generation(place.partition) >= state.generation:
                state.generation = table.generation(place.partition) + 1
            table.fence(place.partition, state.generation)
            member.owned[place] = state.generation
