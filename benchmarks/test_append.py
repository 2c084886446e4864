"""Micro benchmarks of appending without a sync (durability os)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.micro import Case, cases, run_case


@cases("one by one")
def test_append_one_by_one(benchmark: Any, scratch: Path, case: Case) -> None:
    """One record a call: send to 1 and 4 partitions, engine.append; 100 B and 1 KiB, raw and zstd; os."""
    run_case(benchmark, case, scratch)


@cases("bulk")
def test_append_in_bulk(benchmark: Any, scratch: Path, case: Case) -> None:
    """append_many of long lists, numpy and Arrow columns; 100 B and 1 KiB, raw and zstd; os."""
    run_case(benchmark, case, scratch)


@cases("batches of 1000")
def test_append_in_batches_of_1000(benchmark: Any, scratch: Path, case: Case) -> None:
    """append_many of 1000 records a call, beside peers that commit as many; 100 B and 1 KiB; os."""
    run_case(benchmark, case, scratch)
