"""Whatever happens to a partition, the records of a key are those that a scan finds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import pylog
from pylog.embedded.engine import EmbeddedEngine as Engine

TOPIC = "t"
KEYS = [b"", b"a", b"b" * 300, *(b"k%d" % number for number in range(9))]


def check(engine: Engine, dice: random.Random) -> None:
    """Hold some keys against a scan, between random offsets and in both directions."""
    first, end = engine.log_start_offset(TOPIC, 0), engine.log_end_offset(TOPIC, 0)
    records = list(engine.read(TOPIC, 0))
    for key in dice.sample(KEYS, 4):
        low, high = sorted(dice.randrange(first, end + 2) for _ in range(2))
        wanted = [record for record in records if record.key == key and low <= record.offset < high]
        assert engine.read_key(TOPIC, key, first=low, behind=high) == wanted
        most = dice.randrange(5)
        assert engine.read_key(TOPIC, key, first=low, behind=high, most=most) == wanted[:most]
        backward = engine.read_key(TOPIC, key, first=low, behind=high, most=most, backward=True)
        assert backward == wanted[::-1][:most]


def change(engine: Engine, dice: random.Random) -> None:
    """Append in one of the ways, with a guard that holds or one that does not, or delete the head."""
    key = dice.choice(KEYS)
    value = dice.choice([b"", b"x" * 50, b"y" * 4000, None])
    last = engine.read_key(TOPIC, key, most=1, backward=True)
    at = last[0].offset if last else -1
    what = dice.random()
    if what < 0.3:
        engine.append(TOPIC, value, key)
    elif what < 0.6:
        assert engine.append(TOPIC, value, key, guard=at).offset > at
    elif what < 0.7:
        with pytest.raises(pylog.VersionConflictError) as told:
            engine.append(TOPIC, value, key, guard=at + 1)
        assert told.value.actual == at
    elif what < 0.9:
        keys = [dice.choice([*KEYS, None]) for _ in range(dice.randrange(1, 30))]
        engine.append_many(TOPIC, [b"%d" % n for n in range(len(keys))], keys=keys)
    elif what < 0.93:
        first, end = engine.log_start_offset(TOPIC, 0), engine.log_end_offset(TOPIC, 0)
        engine.delete_records(TOPIC, 0, first + (end - first) // 5)
    elif what < 0.96:
        engine.clean(TOPIC, now=True)
    else:
        with engine.transaction() as transaction:
            transaction.append(TOPIC, value, key, guard=at)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("policy", ["delete", "compact"])
@pytest.mark.parametrize("seed", range(2))
def test_a_key_has_what_a_scan_finds(tmp_path: Path, policy: str, codec: str, seed: int) -> None:
    dice = random.Random(f"{policy} {codec} {seed}")
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic(TOPIC, segment_bytes=16 << 10, cleanup_policy=policy, compression_type=codec)
    for life in range(3):
        with pylog.open(tmp_path / "data") as engine, pylog.open(tmp_path / "data") as another:
            for _ in range(60):
                change(dice.choice((engine, another)), dice)
                if dice.random() < 0.3:
                    check(dice.choice((engine, another)), dice)
        with pylog.open(tmp_path / "data", read_only=True) as engine:
            check(engine, dice)
        if life == 1:
            for path in (tmp_path / "data" / "topics" / TOPIC / "0").glob("*.keys"):
                path.unlink()
