"""Building a batch: what went in is what the oracle reads, whatever the way in."""

from __future__ import annotations

import dataclasses

import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from logcore.batch import parse_batch
from logcore.builder import BatchBuilder
from logcore.errors import RecordTooLargeError
from logcore.single_batch import encode_one

SALT, POSITION = 99, 8192
small_bytes = st.binary(max_size=20)
nullable = st.none() | small_bytes
headers = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=4), nullable), max_size=2)
stamps = st.none() | st.integers(-3, 3)


def read(encoded: bytes) -> list[oracle.Record]:
    return oracle.records(oracle.parse_batch(bytes(POSITION) + encoded, POSITION, SALT))


class Building(RuleBasedStateMachine):
    """Random records into one builder that is finished, refilled and reset again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.builder = BatchBuilder()
        self.records: list[oracle.Record] = []
        self.sequence: int | None = None

    def expect(self, **fields: object) -> None:
        record = oracle.Record(len(self.records), 0, None, None)
        self.records.append(dataclasses.replace(record, **fields))  # type: ignore[arg-type]

    @rule(key=nullable, value=nullable, headers=headers, timestamp=stamps, gap=st.sampled_from([1, 1, 1, 4]))
    def add(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        timestamp: int | None,
        gap: int,
    ) -> None:
        if self.sequence is None:
            self.builder.add_record(key, value, headers, timestamp)
        else:
            self.sequence += gap
            self.builder.add_record(key, value, headers, timestamp, self.sequence)
        self.expect(key=key, value=value, headers=tuple(headers), timestamp=timestamp, sequence=self.sequence)

    @precondition(lambda self: self.sequence is None)
    @rule(pairs=st.lists(st.tuples(nullable, nullable), max_size=100), keyed=st.booleans())
    def add_list(self, pairs: list[tuple[bytes | None, bytes | None]], keyed: bool) -> None:
        values, keys = [value for _, value in pairs], [key for key, _ in pairs]
        assert self.builder.add_records(values, keys if keyed else None) == len(pairs)
        for key, value in pairs:
            self.expect(key=key if keyed else None, value=value, timestamp=None)

    @precondition(lambda self: self.records)
    @rule(codec=st.sampled_from(["none", "zstd"]))
    def encode(self, codec: str) -> None:
        producer = None if self.sequence is None else 7
        encoded = self.builder.encode(codec=codec, salt=SALT, position=POSITION, producer_id=producer)
        found = read(encoded)
        own = {r.timestamp for r, model in zip(found, self.records, strict=True) if model.timestamp is None}
        assert len(own) <= 1
        for record, model in zip(found, self.records, strict=True):
            if model.timestamp is None:
                assert record == dataclasses.replace(model, timestamp=record.timestamp)
            else:
                assert record == model
        parse_batch(encoded, SALT, POSITION)
        raw = oracle.parse_batch(bytes(POSITION) + encoded, POSITION, SALT).raw_body_bytes
        assert raw <= self.builder.body_bytes

    @rule(sequences=st.booleans())
    def reset(self, sequences: bool) -> None:
        self.builder.clear()
        self.records.clear()
        self.sequence = 0 if sequences else None


TestBuilding = Building.TestCase
TestBuilding.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(nullable, nullable, headers, st.integers(-(2**62), 2**62))
def test_a_batch_of_one_is_what_a_builder_gives(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], timestamp: int
) -> None:
    builder = BatchBuilder()
    builder.add_record(key, value, headers, timestamp)

    assert encode_one(key, value, headers, timestamp, SALT, POSITION) == builder.encode(
        salt=SALT, position=POSITION
    )


def test_a_record_of_100_bytes_with_a_key_of_8_costs_at_most_200() -> None:
    assert len(encode_one(b"12345678", bytes(100))) <= 200


def test_equal_times_and_dense_sequences_cost_no_column() -> None:
    builder = BatchBuilder()
    for sequence in range(5, 9):
        builder.add_record(None, b"v", sequence=sequence)

    batch = parse_batch(builder.encode(producer_id=3, producer_epoch=2), 0, 0)

    assert batch.attributes == oracle.PRODUCER
    assert (batch.producer_id, batch.producer_epoch) == (3, 2)
    assert (batch.first_sequence, batch.last_sequence) == (5, 8)
    assert [record.sequence for record in batch] == [5, 6, 7, 8]


def test_a_budget_ends_a_batch_after_the_record_that_reaches_it() -> None:
    builder, values, batches = BatchBuilder(), [b"x" * 100] * 50, []
    start = 0
    while start < len(values):
        taken = builder.add_records(values, None, start, budget=1000)
        batches.append(taken)
        start += taken
        builder.clear()

    assert sum(batches) == 50
    assert max(batches) <= 10
    assert builder.add_records([b"y" * 5000], None, 0, budget=10) == 1


def test_compression_that_does_not_pay_is_left_out() -> None:
    builder = BatchBuilder()
    builder.add_record(b"k", b"v")
    assert parse_batch(builder.encode(codec="zstd"), 0, 0).codec == "none"

    builder.clear()
    builder.add_records([b"the same again and again"] * 1000)
    encoded = builder.encode(codec="zstd")
    assert parse_batch(encoded, 0, 0).codec == "zstd"
    assert len(encoded) < 5000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda b: b.add_record("key", b""), "not str"),
        (lambda b: b.add_record(None, bytearray(b"")), "not bytearray"),
        (lambda b: b.add_records([b"a", 7]), r"values\[1\] is bytes or None, not int"),
        (lambda b: b.add_records(iter([b"a"])), "list or tuple"),
        (lambda b: b.add_records([b"a"], "k"), "list or tuple"),
    ],
)
def test_what_is_no_bytes_is_refused_and_leaves_the_batch(wrong: object, said: str) -> None:
    builder = BatchBuilder()
    builder.add_record(None, b"first", timestamp=1)

    with pytest.raises(TypeError, match=said):
        wrong(builder)  # type: ignore[operator]

    assert [r.value for r in read(builder.encode(salt=SALT, position=POSITION))] == [b"first"]


def test_wrong_sequences_are_refused_and_leave_the_batch() -> None:
    builder = BatchBuilder()
    builder.add_record(None, b"first", sequence=5)

    for sequence, said in ((5, "does not rise: the last one was 5"), (3, "does not rise"), (-1, "or none")):
        with pytest.raises(ValueError, match=said):
            builder.add_record(b"key", None, {"h": b""}, 7, sequence)
    with pytest.raises(ValueError, match="belong together"):
        builder.encode()
    builder.add_record(None, b"second", sequence=9)

    found = read(builder.encode(producer_id=1, salt=SALT, position=POSITION))
    assert [(r.value, r.sequence) for r in found] == [(b"first", 5), (b"second", 9)]

    builder.clear()
    builder.add_record(None, b"first")
    with pytest.raises(ValueError, match="or none"):
        builder.add_record(None, b"second", sequence=1)


def test_limits_are_named() -> None:
    builder = BatchBuilder()
    with pytest.raises(ValueError, match="needs a record"):
        builder.encode()
    builder.add_record(None, b"v")
    with pytest.raises(ValueError, match="codec is"):
        builder.encode(codec="lz4")
    with pytest.raises(ValueError, match="zstd levels are"):
        builder.encode(codec="zstd", level=22)
    with pytest.raises(ValueError, match="one key a value"):
        builder.add_records([b"a"], [b"b", b"c"])
    with pytest.raises(IndexError):
        builder.add_records([b"a"], None, 2)


def test_a_batch_takes_no_more_than_its_most_records() -> None:
    builder = BatchBuilder()
    assert builder.add_records([None] * (2**20 + 5)) == 2**20

    with pytest.raises(RecordTooLargeError, match="1048576 records"):
        builder.add_record(None, b"one more")

    batch = parse_batch(builder.encode(), 0, 0)
    assert len(batch) == 2**20
    assert batch[-1].value is None


def test_a_huge_batch_gives_its_memory_back() -> None:
    builder = BatchBuilder()
    builder.add_record(b"k" * (9 << 20), b"v" * (9 << 20))
    assert parse_batch(builder.encode(), 0, 0)[0].value == b"v" * (9 << 20)
    builder.clear()

    builder.add_record(b"k", b"v")
    assert len(builder) == builder.record_count == 1
    assert parse_batch(builder.encode(), 0, 0).values() == [b"v"]
