"""Indexes of keys that a power cut left beside segments that it took something from: they mislead nobody."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.powercut import PowerCut, write_boot_id
from faults.zygote import Zygote

import pylog
from pylog.engine import Engine

HERE = Path(__file__).stem
TOPIC = "t"
KEYS = [b"k%d" % number for number in range(5)]
STATES = 10


def by_reading_all(engine: Engine, key: bytes) -> list[int]:
    return [record.offset for record in engine.read(TOPIC) if record.key == key]


def by_key(engine: Engine, key: bytes) -> list[int]:
    return [record.offset for record in engine.read_key(TOPIC, key)]


def live(directory: str, seed: int) -> None:
    """Append and read by key, sync now and then, until the power goes."""
    dice = random.Random(seed)
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, segment_bytes=16 << 10, durability="os")
        for number in range(dice.randrange(20, 150)):
            names = [dice.choice(KEYS) for _ in range(dice.choice((1, 1, 4)))]
            engine.append_many(TOPIC, [b"%d" % number * 150] * len(names), keys=names)
            if dice.random() < 0.2:
                by_key(engine, dice.choice(KEYS))
            if dice.random() < 0.05:
                engine.sync(TOPIC)
        by_key(engine, KEYS[0])
        os.kill(os.getpid(), signal.SIGKILL)


def look(directory: str) -> int:
    """Compare with a scan before and after appending more; how many indexes were there at first."""
    there = len(list(Path(directory, "topics", TOPIC, "0").glob("*.keys")))
    with pylog.open(directory) as engine:
        if TOPIC not in engine.list_topics():
            return 0
        for _ in range(2):
            last = {}
            for key in KEYS:
                offsets = by_reading_all(engine, key)
                assert by_key(engine, key) == offsets, key
                last[key] = offsets[-1] if offsets else -1
            for key in KEYS:
                engine.append(TOPIC, b"more" * 700, key, guard=last[key])
    return there


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory, failpoint_build: Path, shim: Path) -> Iterator[Zygote]:
    build = [failpoint_build, Path(__file__).parent]
    with Zygote(tmp_path_factory.mktemp("jobs"), build, {"LD_PRELOAD": str(shim)}) as started:
        yield started


@pytest.mark.parametrize("seed", range(2))
def test_what_a_key_has_after_a_power_cut_is_what_a_scan_finds(
    zygote: Zygote, tmp_path: Path, rng: random.Random, seed: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    cut = PowerCut(disk, tmp_path / "trace")
    environment = cut.environment(write_boot_id(tmp_path / "boot_id", rng))
    child = zygote.start(f"{HERE}:live", environment=environment, directory=disk, seed=rng.getrandbits(32))
    assert child.wait() == signal.SIGKILL
    indexes = 0
    for number in range(STATES):
        later = tmp_path / f"later{number}"
        cut.state(rng, later)
        boot_id = write_boot_id(tmp_path / f"boot_id{number}", rng)
        indexes += zygote.run(
            f"{HERE}:look", environment={"PYLOG_BOOT_ID_FILE": str(boot_id)}, directory=later
        )
    print(f"{indexes} indexes in {STATES} states")
