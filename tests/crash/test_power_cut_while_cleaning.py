"""The power goes while a partition is cleaned: last records of keys, and what was not deleted, are there."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.powercut import PowerCut, write_boot_id
from faults.zygote import Zygote

import pylog

HERE = Path(__file__).stem
TOPIC = "t"
RECORDS = 90
BEFORE = 31
MORE = 7  # one of each key, so that none of them replaces another
STATES = 6


def create(directory: str) -> list[Any]:
    with pylog.open(directory) as engine:
        engine.create_topic(TOPIC, segment_bytes=16 << 10, cleanup_policy="compact", durability="sync")
        for number in range(RECORDS):
            engine.append(TOPIC, f"{number:04}".encode() * 200, key=b"%d" % (number % 7))
    return read(directory)


def clean(directory: str, said: str) -> None:
    """Compact, append, delete, compact: and say what returned."""
    with pylog.open(directory) as engine, Path(said).open("a") as out:
        for step in ("compact", "append", "delete", "compact"):
            if step == "compact":
                engine.clean(TOPIC, now=True)
            elif step == "append":
                for number in range(RECORDS, RECORDS + MORE):
                    engine.append(TOPIC, f"{number:04}".encode() * 200, key=b"%d" % (number % 7))
            else:
                engine.delete_records(TOPIC, 0, BEFORE)
            out.write(f"{step}\n")
            out.flush()


def read(directory: str) -> list[Any]:
    with pylog.open(directory) as engine:
        return [
            [record.offset, record.timestamp, (record.key or b"").decode(), (record.value or b"").decode()]
            for record in engine.read(TOPIC, 0)
        ]


def look(directory: str) -> dict[str, Any]:
    """What is there, twice, and what one more cleaning leaves of it."""
    first, again = read(directory), read(directory)
    with pylog.open(directory) as engine:
        start = engine.log_start_offset(TOPIC, 0)
        (report,) = engine.clean(TOPIC, now=True)
    return {"first": first, "again": again, "start": start, "error": report.error, "cleaned": read(directory)}


def last_of_each_key(records: list[Any]) -> list[Any]:
    return sorted({record[2]: record for record in records}.values())


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory, failpoint_build: Path, shim: Path) -> Iterator[Zygote]:
    paths = [failpoint_build, Path(__file__).parent]
    with Zygote(tmp_path_factory.mktemp("jobs"), paths, {"LD_PRELOAD": str(shim)}) as started:
        yield started


def cut_the_power(zygote: Zygote, place: Path, rng: random.Random, stop_at: int, states: int) -> None:
    disk, said = place / "disk", place / "said"
    before = zygote.run(f"{HERE}:create", directory=disk)
    said.touch()
    cut = PowerCut(disk, place / "trace")
    environment = cut.environment(write_boot_id(place / "boot", rng), stop_at)
    zygote.start(
        f"{HERE}:clean", environment=environment, directory=disk, said=said
    ).wait_killed_or_done()
    done = said.read_text().split()
    for number in range(states):
        left = place / f"left{number}"
        cut.state(rng, left)
        boot = {"PYLOG_BOOT_ID_FILE": str(write_boot_id(place / "boot", rng))}
        check(zygote.start(f"{HERE}:look", environment=boot, directory=left).result(), before, done)
        shutil.rmtree(left)


def check(found: dict[str, Any], before: list[Any], done: list[str]) -> None:
    first = found["first"]
    assert found["again"] == first
    assert found["error"] is None
    assert found["start"] in ((BEFORE,) if "delete" in done else (0, BEFORE))
    appended = [record for record in first if record[0] >= RECORDS]
    assert [record[0] for record in appended] == list(range(RECORDS, RECORDS + len(appended)))
    assert len(appended) == MORE or "append" not in done, "an append that was synced is gone"
    # what was there before is there as it was, or was replaced by a later record of its key
    known = {record[0]: record for record in before}
    assert all(known[record[0]] == record for record in first if record[0] < RECORDS)
    every = [record for record in before if record[0] >= found["start"]] + appended
    assert last_of_each_key(first) == last_of_each_key(every)
    assert found["cleaned"] == last_of_each_key(every)


@pytest.mark.parametrize("life", range(8))
def test_a_power_cut_while_cleaning_takes_nothing_that_should_stay(
    zygote: Zygote, tmp_path: Path, rng: random.Random, life: int
) -> None:
    cut_the_power(zygote, tmp_path, rng, stop_at=rng.randint(5, 60 + 30 * life), states=STATES)


@pytest.mark.soak
@pytest.mark.parametrize("life", range(300))
def test_power_cuts_while_cleaning_for_long(
    zygote: Zygote, tmp_path: Path, rng: random.Random, life: int
) -> None:
    cut_the_power(zygote, tmp_path, rng, stop_at=rng.randint(1, 400), states=20)
