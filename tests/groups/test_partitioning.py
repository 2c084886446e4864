"""Partitioning as in Kafka, pattern 11: which partition a key gets, and how many partitions there may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import Child

import pylog

PUBLISHED = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""Of Kafka's own tests (UtilsTest.testMurmur2)."""


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 64, 1000])
def test_11a_keys_go_where_kafkas_own_vectors_put_them(engine: pylog.Engine, partitions: int) -> None:
    engine.create_topic("t", partitions=partitions)
    wanted = {key: (number & 0x7FFFFFFF) % partitions for key, number in PUBLISHED.items()}
    assert {key: engine.append("t", b"", key=key).partition for key in PUBLISHED} == wanted
    with engine.producer() as producer:
        for key in PUBLISHED:
            producer.send("t", b"", key)
    many = engine.append_many("t", [b""] * len(PUBLISHED), list(PUBLISHED))
    assert [place.partition for place in many] == list(wanted.values())
    assert {record.key: record.partition for record in engine.read("t")} == wanted
    assert len(list(engine.read("t"))) == 3 * len(PUBLISHED)


FEW_FILES = """
import resource, sys
from pathlib import Path
import pylog
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
count = int(sys.argv[2])
most = 0
with pylog.open(sys.argv[1]) as engine:
    engine.create_topic("t", partitions=count, durability="os")
    made = len(list(Path(sys.argv[1], "topics", "t").iterdir()))
    for partition in range(count):
        engine.append("t", b"%d" % partition, partition=partition)
        if partition % 50 == 0:
            most = max(most, len(Path("/proc/self/maps").read_text().splitlines()))
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        found = []
        while len(found) < count:
            found += [int(record.value) for record in consumer.poll(1000, timeout=30.0)]
        consumer.commit()
        most = max(most, len(Path("/proc/self/maps").read_text().splitlines()))
    assert sorted(found) == list(range(count))
print(made, most, flush=True)
"""


def test_11d_thousands_of_partitions_open_lazily_with_few_files_and_maps(data: Path) -> None:
    with Child(FEW_FILES, data, 2500) as child:
        made, most = map(int, child.says().split())
        assert child.ends() == 0
    assert made < 10, "partitions have directories before anything was appended to them"
    assert most < 2000, "a map for each partition is not few"
