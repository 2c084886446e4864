"""A power cut while a queue is worked: no record is lost, none is moved twice, and what was synced stays.

A worker runs under the shim of faults/powercut.c until some event; then states are drawn from what the disk
may hold, and each is opened under another boot id and worked until it is empty.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.powercut import PowerCut, write_boot_id
from faults.zygote import Zygote

JOB = "faults.queue_work"
RECORDS = 400


@pytest.fixture
def zygote(tmp_path: Path, failpoint_build: Path, shim: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "jobs", [failpoint_build], {"LD_PRELOAD": str(shim)}) as started:
        yield started


def said(journal: Path) -> dict[str, set[int]]:
    """What the worker said; "safe" is what it had acked when a sync returned."""
    words: dict[str, set[int]] = {word: set() for word in ("acking", "acked", "moving", "moved", "safe")}
    for line in journal.read_text().splitlines() if journal.exists() else []:
        word, *offsets = line.split()
        if word == "synced":
            words["safe"] |= words["acked"]
        else:
            words[word].update(map(int, offsets))
    return words


def check(found: dict[str, Any], words: dict[str, set[int]], records: int) -> None:
    came, dead = found["came"], found["dead"]
    assert found["counts"] == [0, 0, 0, 0]
    assert len(set(came)) == len(came)
    assert len(set(dead)) == len(dead), "moved twice"
    assert set(dead) <= words["moving"]
    assert not set(dead) & set(came), "moved, and delivered again"
    assert not words["safe"] & set(came), "acked and synced, and delivered again"
    assert set(came) | set(dead) | words["acking"] == set(range(records)), "lost"


def cut_in_a_life(zygote: Zygote, place: Path, rng: random.Random, states: int, records: int) -> None:
    data, journal = place / "disk", place / "journal"
    zygote.run(f"{JOB}:create", directory=data, records=records)
    boot_id = write_boot_id(place / "boot", rng)
    cut = PowerCut(data, place / "trace")
    most = 5000 if records > RECORDS else rng.choice([20, 200])
    environment = cut.environment(boot_id, rng.randint(1, 120))
    arguments: dict[str, Any] = {"directory": data, "journal": journal, "most": most}
    zygote.start(f"{JOB}:work", environment=environment, **arguments).wait_killed_or_done()
    for number in range(states):
        left = place / f"left.{number}"
        cut.state(rng, left)
        after = {"PYLOG_BOOT_ID_FILE": str(write_boot_id(place / f"boot.{number}", rng))}
        found = zygote.run(f"{JOB}:drain", environment=after, directory=left)
        check(found, said(journal), records)
        assert zygote.run(f"{JOB}:drain", environment=after, directory=left)["came"] == []
        shutil.rmtree(left)


@pytest.mark.parametrize("life", range(4))
def test_2a_a_power_cut_costs_redelivery_and_never_a_record(
    zygote: Zygote, tmp_path: Path, rng: random.Random, life: int
) -> None:
    cut_in_a_life(zygote, tmp_path, rng, states=5, records=6000 if life == 3 else RECORDS)


@pytest.mark.soak
@pytest.mark.parametrize("life", range(200))
def test_power_cuts_cost_redelivery_and_never_a_record(
    zygote: Zygote, tmp_path: Path, rng: random.Random, life: int
) -> None:
    cut_in_a_life(zygote, tmp_path, rng, states=20, records=6000 if life % 4 == 3 else RECORDS)
