"""Damaged bytes: identical records or a named error for exactly what was hit, never a death, never silence.

Every file of a data directory is hit: bytes flipped, pages zeroed or swapped, tails cut off or garbled, files
missing, empty, old, or replaced by another file, a directory, a link or a pipe. One hit at a time, in
processes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.zygote import Zygote


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory, failpoint_build: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("jobs"), [failpoint_build]) as started:
        yield started


@pytest.fixture(scope="module")
def sound(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("sound")
    paths = {"sound": str(place / "data"), "old": str(place / "old")}
    zygote.run("faults.damaging:make_sound", directory=paths["sound"], old=paths["old"])
    return paths


def run_damage(
    zygote: Zygote, sound: dict[str, str], place: Path, seed: object, numbers: range, timeout: float
) -> None:
    half = len(numbers) // 2
    parts = [(numbers.start, numbers.start + half), (numbers.start + half, numbers.stop)]
    children = [
        zygote.start("faults.damaging:run", **sound, work=place / f"work{i}", seed=str(seed), numbers=part)
        for i, part in enumerate(parts)
    ]
    found: list[dict[str, Any]] = [child.result(timeout) for child in children]
    failures = [failure for one in found for failure in one["failures"]]
    assert not failures, f"seed {seed}:\n" + "\n".join(failures)
    assert sum(one["done"] for one in found) == len(numbers)
    for told in ("told", "refused", "appended"):
        assert sum(one[told] for one in found), f"no damage was {told}: the test hits nothing"


@pytest.mark.parametrize("part", range(4))
def test_2c_any_damage_gives_the_same_records_or_a_named_error_for_what_it_hit(
    zygote: Zygote, sound: dict[str, str], tmp_path: Path, seed: int, part: int
) -> None:
    run_damage(zygote, sound, tmp_path, seed, range(part * 1250, (part + 1) * 1250), 110)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(100))
def test_a_million_damages(
    zygote: Zygote, sound: dict[str, str], tmp_path: Path, seed: int, part: int
) -> None:
    run_damage(zygote, sound, tmp_path, seed, range(part * 10_000, (part + 1) * 10_000), 3000)
