"""Which member of a group gets which partition: pure functions of members, partitions and weights.

Not who decides when: that is the coordinator. Named and meant as Kafka's assignors (KIP-429 for the
cooperative one). Invariant: each partition of a topic that somebody subscribes to goes to exactly one
member that subscribes to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pylog.records import TopicPartition

Assignment = dict[str, list[TopicPartition]]
"""The partitions of each member, by member_id."""
Weights = Mapping[TopicPartition, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What an assignor knows of a member."""

    member_id: str
    topics: frozenset[str]
    owned: frozenset[TopicPartition] = frozenset()
    capacity: float = 1.0


Assignor = Callable[[Sequence[Candidate], Mapping[str, int], Weights], Assignment]
"""(members, partitions of each topic, weight of each partition) -> assignment."""


def range_(members: Sequence[Candidate], partitions: Mapping[str, int], weights: Weights) -> Assignment:
    """Give each member a run of neighbouring partitions of each topic: equal keys of two topics meet."""
    found: Assignment = {member.member_id: [] for member in members}
    for topic in sorted(partitions):
        readers = _subscribers(members, topic)
        if not readers:
            continue
        each, more = divmod(partitions[topic], len(readers))
        first = 0
        for number, member in enumerate(readers):
            behind = first + each + (number < more)
            found[member.member_id] += [TopicPartition(topic, p) for p in range(first, behind)]
            first = behind
    return found


def round_robin(members: Sequence[Candidate], partitions: Mapping[str, int], weights: Weights) -> Assignment:
    """Deal all partitions of all topics out in turn."""
    found: Assignment = {member.member_id: [] for member in members}
    order = sorted(members, key=_by_id)
    turn = 0
    for place in _places(members, partitions):
        while place.topic not in order[turn % len(order)].topics:
            turn += 1
        found[order[turn % len(order)].member_id].append(place)
        turn += 1
    return found


def cooperative_sticky(
    members: Sequence[Candidate], partitions: Mapping[str, int], weights: Weights
) -> Assignment:
    """Leave each partition where it is, and move only as many as it takes to give all the same number."""
    equal = [Candidate(member.member_id, member.topics, member.owned) for member in members]
    return _sticky(equal, partitions, {})


def weighted(members: Sequence[Candidate], partitions: Mapping[str, int], weights: Weights) -> Assignment:
    """Balance weight by capacity: a member of capacity 2 gets twice the weight; moves as little as it can.

    The coordinator gives each partition a weight of 1 and its share of the lag on top.
    """
    return _sticky(members, partitions, weights)


ASSIGNORS: dict[str, Assignor] = {
    "range": range_,
    "round_robin": round_robin,
    "cooperative_sticky": cooperative_sticky,
    "weighted": weighted,
}


def _by_id(member: Candidate) -> str:
    return member.member_id


def _subscribers(members: Iterable[Candidate], topic: str) -> list[Candidate]:
    return sorted((member for member in members if topic in member.topics), key=_by_id)


def _places(members: Sequence[Candidate], partitions: Mapping[str, int]) -> list[TopicPartition]:
    wanted: set[str] = set().union(*(member.topics for member in members))
    topics = sorted(wanted & set(partitions))
    return [TopicPartition(topic, p) for topic in topics for p in range(partitions[topic])]


def _sticky(members: Sequence[Candidate], partitions: Mapping[str, int], weights: Weights) -> Assignment:
    """Keep what is owned, hand out what is not, then move from the most to the least loaded.

    A move is made only where the receiver ends below what the giver had: so the loads, sorted, only fall, and
    the moving ends.
    """
    loads = {member.member_id: 0.0 for member in members}
    capacity = {member.member_id: member.capacity for member in members}
    readers = {topic: [member.member_id for member in _subscribers(members, topic)] for topic in partitions}
    held: dict[str, dict[str, list[TopicPartition]]] = {name: defaultdict(list) for name in loads}

    def give(name: str, place: TopicPartition) -> None:
        held[name][place.topic].append(place)
        loads[name] += weights.get(place, 1.0) / capacity[name]

    owner = {place: member.member_id for member in sorted(members, key=_by_id) for place in member.owned}
    places = _places(members, partitions)
    homeless = []
    for place in places:
        name = owner.get(place)
        if name is not None and name in readers[place.topic]:
            give(name, place)
        else:
            homeless.append(place)
    for place in sorted(homeless, key=lambda place: -weights.get(place, 1.0)):
        give(min(readers[place.topic], key=lambda name: (loads[name], name)), place)
    while _move_one(loads, capacity, readers, held, weights):
        pass
    return {name: sorted(place for topic in held[name].values() for place in topic) for name in loads}


def _move_one(
    loads: dict[str, float],
    capacity: Mapping[str, float],
    readers: Mapping[str, Sequence[str]],
    held: Mapping[str, dict[str, list[TopicPartition]]],
    weights: Weights,
) -> bool:
    """Move one partition that evens the loads, from the most loaded member that has one; False: none does."""
    for giver in sorted(loads, key=lambda name: (-loads[name], name)):
        for topic, places in sorted(held[giver].items()):
            if not places:
                continue
            taker = min(readers[topic], key=lambda name: (loads[name], name))
            for index in range(len(places) - 1, -1, -1):
                weight = weights.get(places[index], 1.0)
                if loads[taker] + weight / capacity[taker] < loads[giver] - 1e-9:
                    place = places.pop(index)
                    held[taker][topic].append(place)
                    loads[giver] -= weight / capacity[giver]
                    loads[taker] += weight / capacity[taker]
                    return True
    return False
