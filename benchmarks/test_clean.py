"""Micro benchmarks of cleaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.micro import Case, cases, run_case


@cases("compaction")
def test_compact(benchmark: Any, scratch: Path, case: Case) -> None:
    """clean(now=True) of a compacted topic: few keys, and a key for each record; 100 B; os."""
    run_case(benchmark, case, scratch)


@cases("key map")
def test_map_keys(benchmark: Any, scratch: Path, case: Case) -> None:
    """The last offset of each key, from batches in memory: few keys, and a key for each record; 100 B."""
    run_case(benchmark, case, scratch)
