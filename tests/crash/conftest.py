"""What the tests of this directory share: the build with failpoints, the power-cut shim, seeds."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from faults import failpoints, powercut  # noqa: E402
from faults.zygote import Zygote  # noqa: E402


@pytest.fixture(scope="session")
def seed() -> int:
    """One seed a run; a failure prints it, and PYLOG_TEST_SEED gives it back."""
    given = os.environ.get("PYLOG_TEST_SEED")
    return int(given) if given else int.from_bytes(os.urandom(4), "little")


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    print(f"PYLOG_TEST_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(scope="session")
def failpoint_build() -> Path:
    """The directory of the package as built with failpoints."""
    return failpoints.built()


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[failpoints.Failpoints]:
    """The table by which tests arm the failpoints of the processes of `zygote`."""
    table = failpoints.Failpoints(tmp_path_factory.mktemp("points") / "table")
    yield table
    table.close()


@pytest.fixture(scope="module")
def zygote(
    tmp_path_factory: pytest.TempPathFactory, failpoint_build: Path, points: failpoints.Failpoints
) -> Iterator[Zygote]:
    """Forks processes of the build with failpoints."""
    with Zygote(tmp_path_factory.mktemp("jobs"), [failpoint_build], points.environment) as started:
        yield started


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The power-cut library."""
    return powercut.compile_shim(tmp_path_factory.mktemp("shim"))
