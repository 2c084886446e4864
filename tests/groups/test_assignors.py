"""Assignors: each partition to one subscriber, evenly, and moved as little as it takes (pattern 5)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylog.embedded.assignors import ASSIGNORS, Candidate, cooperative_sticky, weighted
from pylog.records import TopicPartition

TOPICS = ["a", "b", "c"]


@st.composite
def groups(draw: Any) -> tuple[list[Candidate], dict[str, int], dict[TopicPartition, float]]:
    """A group with any subscriptions; partitions may be owned by two members, or by one that reads others."""
    partitions = draw(st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 12), min_size=1))
    places = [TopicPartition(topic, p) for topic, count in partitions.items() for p in range(count)]
    members = []
    for number in range(draw(st.integers(1, 6))):
        topics = frozenset(draw(st.sets(st.sampled_from(TOPICS))))
        owned = frozenset(draw(st.sets(st.sampled_from(places))))
        members.append(Candidate(f"m{number}", topics, owned, draw(st.sampled_from([0.5, 1.0, 2.0, 7.0]))))
    weights = {place: draw(st.sampled_from([0.1, 1.0, 3.0, 50.0])) for place in places}
    return members, partitions, weights


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@given(group=groups())
def test_each_partition_goes_to_one_of_its_subscribers(name: str, group: Any) -> None:
    members, partitions, weights = group
    found = ASSIGNORS[name](members, partitions, weights)
    given_out = Counter(place for places in found.values() for place in places)
    wanted = {
        TopicPartition(topic, p)
        for topic, count in partitions.items()
        if any(topic in member.topics for member in members)
        for p in range(count)
    }
    assert set(given_out) == wanted
    assert set(given_out.values()) <= {1}
    for member in members:
        assert all(place.topic in member.topics for place in found[member.member_id])


@given(count=st.integers(1, 100), members=st.integers(1, 20))
def test_who_all_read_the_same_get_the_same_number(count: int, members: int) -> None:
    candidates = [Candidate(f"m{number:02}", frozenset({"a"})) for number in range(members)]
    for name in ("range", "round_robin", "cooperative_sticky"):
        sizes = [len(places) for places in ASSIGNORS[name](candidates, {"a": count}, {}).values()]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("members", range(2, 31))
def test_5a_one_that_joins_moves_no_more_than_its_share(members: int) -> None:
    before = cooperative_sticky(
        [Candidate(f"m{number:02}", frozenset({"a"})) for number in range(members - 1)], {"a": 100}, {}
    )
    others = [Candidate(name, frozenset({"a"}), frozenset(places)) for name, places in before.items()]
    after = cooperative_sticky([*others, Candidate("new", frozenset({"a"}))], {"a": 100}, {})

    moved = sum(len(set(before[name]) - set(after[name])) for name in before)
    assert moved <= math.ceil(100 / members)
    assert all(set(after[name]) <= set(before[name]) for name in before)


def test_one_that_leaves_moves_only_its_own() -> None:
    before = cooperative_sticky([Candidate(f"m{n}", frozenset({"a"})) for n in range(5)], {"a": 100}, {})
    left = [Candidate(name, frozenset({"a"}), frozenset(before[name])) for name in before if name != "m2"]
    after = cooperative_sticky(left, {"a": 100}, {})
    assert all(set(before[member.member_id]) <= set(after[member.member_id]) for member in left)


def test_range_brings_the_same_partition_of_two_topics_together() -> None:
    members = [Candidate(name, frozenset({"a", "b"})) for name in ("x", "y")]
    found = ASSIGNORS["range"](members, {"a": 4, "b": 4}, {})
    for places in found.values():
        assert {p for topic, p in places if topic == "a"} == {p for topic, p in places if topic == "b"}


def test_weighted_gives_by_capacity_and_by_lag() -> None:
    small, large = Candidate("small", frozenset({"a"})), Candidate("large", frozenset({"a"}), capacity=3.0)
    by_capacity = weighted([small, large], {"a": 8}, {})
    assert (len(by_capacity["small"]), len(by_capacity["large"])) == (2, 6)

    equal = [Candidate("x", frozenset({"a"})), Candidate("y", frozenset({"a"}))]
    lags = {TopicPartition("a", p): 1.0 for p in range(8)} | {TopicPartition("a", 0): 7.0}
    by_lag = weighted(equal, {"a": 8}, lags)
    assert sorted(len(places) for places in by_lag.values()) == [1, 7]
