"""XXH3 of the xxhash package, at C speed and by its Python functions: the same bits in every file."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import Child

PROGRAM = """
import random, sys
speed, work, directory = sys.argv[1:]
if speed == "python":
    from xxhash import _xxhash
    _xxhash.__file__ = "/dev/null"       # as where the extension module exports nothing
import xxhash
import pylog
from logcore.hashing import uses_native_xxh3, xxh3_64
from pylog.cli import main

assert uses_native_xxh3() == (speed == "c")
near = [size + step for size in (3, 8, 16, 128, 240, 512, 1024, 4096) for step in (-1, 0, 1)]
rng = random.Random(1)
values = [rng.randbytes(size) for size in (0, 1, 2, *near, 100_001)]
keys = [b"key-%d" % n + value[:200] for n, value in enumerate(values)]
pairs = list(zip(keys, values))
assert [xxh3_64(value) for value in values] == [xxhash.xxh3_64_intdigest(value) for value in values]

with pylog.open(directory) as engine:
    if work == "write":
        engine.create_topic("t", partitions=3, partitioner="xxh3", segment_bytes=1 << 20)
        engine.create_topic("last", cleanup_policy="compact", segment_bytes=1 << 16)
        for key, value in pairs:
            engine.append("t", value, key)
        engine.append_many("t", values, keys)
        with engine.producer() as producer:
            for key, value in pairs:
                producer.send("t", value, key)
        for n in range(40):
            engine.append_many("last", [b"%d" % n * 100] * len(keys), keys)
    else:
        assert sorted((record.key, record.value) for record in engine.read("t")) == sorted(pairs * 3)
        for key in keys:
            (first, *_, last) = engine.read_key("t", key)
            assert engine.append("t", b"", key, guard=last.offset).partition == first.partition
    engine.clean(now=True)
    last = {record.key: record.value for record in engine.read("last")}
    assert last == dict.fromkeys(keys, b"39" * 100)
    assert sum(1 for _ in engine.read("last")) < 3 * len(keys)
    assert len(engine.read_key("last", keys[3])) < 4
assert main(["-C", directory, "verify"]) == 0
"""


@pytest.mark.parametrize(("writer", "reader"), [("python", "c"), ("c", "python")])
def test_what_is_written_with_one_is_read_found_and_compacted_with_the_other(
    data: Path, writer: str, reader: str
) -> None:
    for speed, work in ((writer, "write"), (reader, "read")):
        with Child(PROGRAM, speed, work, data) as child:
            assert child.ends() == 0


def test_damage_is_seen_by_python_too(data: Path) -> None:
    damaging = """
import sys
from pathlib import Path
from xxhash import _xxhash
_xxhash.__file__ = "/dev/null"
import pylog
with pylog.open(sys.argv[1]) as engine:
    engine.create_topic("t", durability="sync")
    for n in range(3):
        engine.append("t", b"value %d" % n)
(path,) = Path(sys.argv[1], "topics", "t", "0").glob("*.log")
path.write_bytes(path.read_bytes().replace(b"value 1", b"value 7"))
with pylog.open(sys.argv[1]) as engine:
    try:
        list(engine.read("t"))
    except pylog.CorruptionError as error:
        print("checksum" in str(error))
"""
    with Child(damaging, data) as child:
        assert child.says() == "True"
