"""Where records are: single ids and the lazy list of many."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logcore.record_ids import RecordId, RecordIds, record_ids


def test_an_id_unpacks_compares_and_hashes_by_place() -> None:
    here = RecordId("orders", 3, 17)

    topic, partition, offset = here
    assert (topic, partition, offset) == ("orders", 3, 17)
    assert (here[0], here[-1], len(here)) == ("orders", 17, 3)
    assert here == RecordId("orders", 3, 17, duplicate=True)
    assert hash(here) == hash(RecordId("orders", 3, 17, duplicate=True))
    assert here != ("orders", 3, 17)
    assert repr(here) == "RecordId(topic='orders', partition=3, offset=17)"
    assert repr(RecordId("t", 0, -1, duplicate=True)).endswith("duplicate=True)")
    assert pickle.loads(pickle.dumps(here)) == here
    with pytest.raises(AttributeError):
        here.offset = 1  # type: ignore[misc]


places = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.integers(-1, 5))


@given(places, places)
def test_ids_are_ordered_like_their_tuples(a: tuple[str, int, int], b: tuple[str, int, int]) -> None:
    first, second = RecordId(*a), RecordId(*b)

    assert (first < second, first <= second, first == second) == (a < b, a <= b, a == b)
    assert (first > second, first >= second, first != second) == (a > b, a >= b, a != b)


def test_an_id_is_not_ordered_with_anything_else() -> None:
    with pytest.raises(TypeError):
        assert RecordId("a", 0, 0) < ("a", 0, 1)  # type: ignore[operator]


@given(st.lists(st.integers(0, 4), max_size=60), st.data())
def test_values_of_several_partitions_get_the_next_offsets_of_theirs(
    partition_of: list[int], data: st.DataObject
) -> None:
    expected, runs, next_offset = [], [], dict.fromkeys(range(5), 0)
    for partition in range(5):
        next_offset[partition] = data.draw(st.integers(0, 100))
    counts = {p: partition_of.count(p) for p in range(5)}
    starts = dict(next_offset)
    for p in partition_of:
        expected.append(RecordId("t", p, next_offset[p]))
        next_offset[p] += 1
    for p, count in counts.items():
        split = data.draw(st.integers(0, count))
        runs += [(p, starts[p], split), (p, starts[p] + split, count - split)]

    ids = record_ids("t", runs, partition_of)

    assert ids == expected
    assert list(ids) == expected
    assert ids[::-2] == expected[::-2]
    assert len(ids) == len(expected)


def test_ids_of_one_partition_are_a_few_runs() -> None:
    ids = record_ids("t", [(2, 10, 3), (2, 20, 2)])

    assert [i.offset for i in ids] == [10, 11, 12, 20, 21]
    assert (ids[-1], ids[3]) == (RecordId("t", 2, 21), RecordId("t", 2, 20))
    assert ids[1:4] == [RecordId("t", 2, 11), RecordId("t", 2, 12), RecordId("t", 2, 20)]
    assert ids.runs == [(2, 10, 3), (2, 20, 2)]
    assert repr(ids) == "<RecordIds topic='t' 2:[10, 13), 2:[20, 22)>"
    assert isinstance(ids, Sequence)
    with pytest.raises(IndexError, match="5 is outside of 5"):
        ids[5]


def test_ids_of_an_append_that_failed_midway_are_those_that_are_in() -> None:
    ids = record_ids("t", [(1, 7, 2)], partition_of=[0, 1, 1, 0, 1])

    assert ids == [RecordId("t", 1, 7), RecordId("t", 1, 8)]


def test_ids_pickle_as_a_list() -> None:
    ids = record_ids("t", [(0, 0, 2)])

    assert pickle.loads(pickle.dumps(ids)) == [RecordId("t", 0, 0), RecordId("t", 0, 1)]
    assert ids != [RecordId("t", 0, 0)]
    assert not record_ids("t", [])
    with pytest.raises(TypeError):
        RecordIds()
    with pytest.raises(ValueError, match="not negative"):
        record_ids("t", [(0, 0, 1)], [-1])
