"""Batches out through the Arrow C data interface; columns of numpy and Arrow in."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logcore.arrow import export_stream
from logcore.batch import RecordBatch, parse_batch
from logcore.binary_columns import add_to_builder
from logcore.builder import BatchBuilder
from logcore.errors import UnsupportedError

nullable = st.none() | st.binary(max_size=12)
rows = st.lists(st.tuples(nullable, nullable, st.none() | st.integers(-5, 5)), min_size=1, max_size=40)


def batch_of(
    *records: tuple[bytes | None, bytes | None, int | None], base_offset: int = 0, codec: str = "none"
) -> RecordBatch:
    builder = BatchBuilder()
    for key, value, timestamp in records:
        builder.add_record(key, value, None, timestamp)
    return parse_batch(builder.encode(base_offset=base_offset, codec=codec), 0, 0)


class Nothing:
    """A finder by which no pyarrow is installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pyarrow":
            raise ImportError(name)


class Stream:
    """What hands an iterable of batches to Arrow, as a consumer does."""

    def __init__(self, batches: Iterator[RecordBatch]) -> None:
        self.batches = batches

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return export_stream(self.batches)


# ---- out -------------------------------------------------------------------------------------------


@given(rows)
def test_arrow_sees_what_the_batch_holds(
    records: list[tuple[bytes | None, bytes | None, int | None]],
) -> None:
    batch = batch_of(*records, base_offset=7)

    table = batch.to_arrow()

    table.validate(full=True)
    assert table.column("offset").to_pylist() == [record.offset for record in batch]
    assert table.column("timestamp").cast(pyarrow.int64()).to_pylist() == [r.timestamp for r in batch]
    assert table.column("key").to_pylist() == [record.key for record in batch]
    assert table.column("value").to_pylist() == [record.value for record in batch]
    assert table.column("key").null_count == sum(record.key is None for record in batch)


def test_the_schema_is_the_same_for_every_batch() -> None:
    expected = pyarrow.schema(
        [
            pyarrow.field("offset", pyarrow.int64(), nullable=False),
            pyarrow.field("timestamp", pyarrow.timestamp("ns", "UTC"), nullable=False),
            pyarrow.field("key", pyarrow.binary()),
            pyarrow.field("value", pyarrow.binary()),
        ]
    )

    assert batch_of((None, b"v", None)).to_arrow().schema == expected
    assert batch_of((b"k", None, 5), (None, b"", 6)).to_arrow().schema == expected


def test_values_and_keys_are_not_copied_and_outlive_the_batch() -> None:
    builder = BatchBuilder()
    builder.add_records([b"value"] * 10, [b"key"] * 10)
    data = builder.encode()
    before = sys.getrefcount(data)
    batch = parse_batch(data, 0, 0)
    address = batch.value_data.__array_interface__["data"][0]

    column = batch.to_arrow().column("value")
    del batch
    gc.collect()

    assert column.buffers()[2].address == address
    assert column.to_pylist() == [b"value"] * 10
    del column
    gc.collect()
    assert sys.getrefcount(data) == before


def test_many_batches_are_one_stream() -> None:
    batches = [batch_of((b"k", b"v%d" % i, None), base_offset=i) for i in range(3)]

    assert pyarrow.table(Stream(iter(batches))).column("value").to_pylist() == [b"v0", b"v1", b"v2"]
    assert pyarrow.table(Stream(iter([]))).num_rows == 0
    assert pyarrow.table(batches[0]).num_rows == 1
    assert pyarrow.record_batch(batches[1]).column("offset").to_pylist() == [1]


def test_an_error_midway_reaches_the_reader_of_the_stream() -> None:
    def failing() -> Iterator[RecordBatch]:
        yield batch_of((b"k", b"v", None))
        raise ValueError("the disk is on fire")

    with pytest.raises(OSError, match="ValueError: the disk is on fire"):
        pyarrow.table(Stream(failing()))
    with pytest.raises(OSError, match="gave a int"):
        pyarrow.table(Stream(iter([7])))  # type: ignore[list-item]


def test_exports_that_nobody_takes_are_let_go() -> None:
    batch = batch_of((None, b"v", None))
    before = sys.getrefcount(batch)
    for _ in range(3):
        batch.__arrow_c_array__()
        batch.__arrow_c_stream__()
    gc.collect()

    assert sys.getrefcount(batch) == before


def test_without_pyarrow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of((b"k", b"v", None))
    monkeypatch.delitem(sys.modules, "pyarrow")
    monkeypatch.setattr(sys, "meta_path", [Nothing(), *sys.meta_path])

    with pytest.raises(UnsupportedError, match=r"pylog-engine\[arrow\]"):
        batch.to_arrow()


# ---- in ----------------------------------------------------------------------------------------------


Pairs = list[tuple[bytes | None, bytes | None]]


def taken(values: object, keys: object = None, budget: int = 1 << 20) -> Pairs:
    """Whatever record_columns takes, through as many batches as the budget makes of it."""
    found: Pairs = []
    builder = BatchBuilder()
    while True:
        count = add_to_builder(builder, values, keys, len(found), budget)
        if count == 0:
            return found
        batch = parse_batch(builder.encode(), 0, 0)
        assert len(batch) == count
        found += zip(batch.keys(), batch.values(), strict=True)
        builder.clear()


def chunked(items: list[bytes | None], cuts: list[int], kind: pyarrow.DataType) -> pyarrow.ChunkedArray:
    edges = [0, *sorted(min(cut, len(items)) for cut in cuts), len(items)]
    parts = [items[a:b] for a, b in pairwise(edges)]
    return pyarrow.chunked_array([pyarrow.array(part, kind) for part in parts], kind)


kinds = st.sampled_from([pyarrow.binary(), pyarrow.large_binary()])
cut_lists = st.lists(st.integers(0, 40), max_size=4)


@given(
    st.lists(st.tuples(nullable, nullable), max_size=40),
    cut_lists,
    cut_lists,
    kinds,
    st.booleans(),
    st.data(),
)
def test_arrow_columns_come_in_whatever_their_chunks(
    pairs: Pairs,
    cuts: list[int],
    other_cuts: list[int],
    kind: pyarrow.DataType,
    keyed: bool,
    data: st.DataObject,
) -> None:
    keys = chunked([key for key, _ in pairs], cuts, kind)
    values = chunked([value for _, value in pairs], other_cuts, kind)
    start = data.draw(st.integers(0, len(pairs)))
    expected = [(key if keyed else None, value) for key, value in pairs[start:]]

    found = taken(values.slice(start), keys.slice(start) if keyed else None, data.draw(st.integers(81, 400)))

    assert found == expected


@given(st.lists(st.binary(max_size=12), max_size=40), st.booleans(), st.integers(81, 400))
def test_pairs_of_offsets_and_bytes_come_in(items: list[bytes], long: bool, budget: int) -> None:
    offsets = numpy.cumsum([0, *map(len, items)]).astype("i8" if long else "i4")
    data = numpy.frombuffer(b"".join(items), numpy.uint8)

    assert taken((offsets, data), (offsets, data), budget) == [(item, item) for item in items]


def test_rows_of_a_matrix_come_in() -> None:
    matrix = numpy.arange(12, dtype=numpy.uint8).reshape(3, 4)

    assert taken(matrix) == [(None, bytes(range(i, i + 4))) for i in (0, 4, 8)]


def test_a_column_joins_records_that_are_there() -> None:
    values = pyarrow.array([b"a", None, b"c"])
    builder = BatchBuilder()
    builder.add_record(b"k", b"first", timestamp=5)
    add_to_builder(builder, values)
    add_to_builder(builder, values, values)

    batch = parse_batch(builder.encode(), 0, 0)
    assert batch.values() == [b"first", b"a", None, b"c", b"a", None, b"c"]
    assert batch.keys() == [b"k", None, None, None, b"a", None, b"c"]
    assert batch[0].timestamp == 5
    assert batch[1].timestamp > 5


i4, u1 = numpy.int32, numpy.uint8
abc = numpy.frombuffer(b"abc", u1)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        (pyarrow.array([1, 2]), TypeError, "values: "),
        (numpy.array([1, 2]), TypeError, "values: an Arrow column of binary, a pair"),
        ((numpy.array([0, 9], i4), abc), ValueError, "end at 9 of 3 bytes"),
        ((numpy.array([0, 3, 1], i4), abc), ValueError, "offsets fall"),
        ((numpy.array([0, 3, 1], numpy.int64), abc), ValueError, "offsets fall"),
        ((numpy.array([-1, 3], i4), abc), ValueError, "offsets fall"),
        ((numpy.array([], i4), abc), TypeError, "one more than there are rows"),
        ((numpy.array([0.0, 3.0]), abc), TypeError, "int32 or int64"),
        ((numpy.array([0, 3], i4), abc.astype(i4)), TypeError, "array of uint8"),
        ((numpy.array([0, 3], i4), "abc"), TypeError, "an array is needed, not str"),
        ((numpy.array([0, 9, 3, 9], i4)[::3], abc), TypeError, "not contiguous"),
        (numpy.zeros((2, 2), i4), TypeError, "uint8"),
    ],
)
def test_columns_that_cannot_be_are_named(values: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        taken(values)


def test_keys_are_as_many_as_values() -> None:
    with pytest.raises(ValueError, match="2 values and 1 keys"):
        taken(pyarrow.array([b"a", b"b"]), pyarrow.array([b"k"]))
    with pytest.raises(TypeError, match="keys: "):
        taken(pyarrow.array([b"a"]), [b"k"])
