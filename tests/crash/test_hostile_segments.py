"""Segments whose checksums hold and whose statements are lies: never a death, a hang or much memory.

Reader, `dump`, `verify` and `cat` get them in processes of their own, with limits on memory and CPU time.
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


def run_hostile(zygote: Zygote, place: Path, seed: object, numbers: range) -> None:
    half = numbers.start + len(numbers) // 2
    parts = [(numbers.start, half), (half, numbers.stop)]
    children = [
        zygote.start("faults.facing:run", work=place / f"work{i}", seed=str(seed), numbers=part)
        for i, part in enumerate(parts)
    ]
    found: list[dict[str, Any]] = [child.result(timeout=1000) for child in children]
    failures = [failure for one in found for failure in one["failures"]]
    assert not failures, f"seed {seed}:\n" + "\n".join(failures)
    for what in ("read", "told"):
        assert sum(one[what] for one in found), f"nothing was {what}: the test proves nothing"


def test_segments_made_to_do_harm_are_read_or_refused_within_limits(
    zygote: Zygote, tmp_path: Path, seed: int
) -> None:
    run_hostile(zygote, tmp_path, seed, range(300))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_segments_made_to_do_harm(
    zygote: Zygote, tmp_path: Path, seed: int, part: int
) -> None:
    run_hostile(zygote, tmp_path, seed, range(part * 1000, (part + 1) * 1000))
