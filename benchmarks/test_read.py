"""Micro benchmarks of reading back what was written with durability os."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.micro import Case, cases, run_case


@cases("read records")
def test_read_records(benchmark: Any, scratch: Path, case: Case) -> None:
    """poll(1000), each value taken, beside a row format and the peers; 100 B and 1 KiB; os."""
    run_case(benchmark, case, scratch)


@cases("read columns")
def test_read_columns(benchmark: Any, scratch: Path, case: Case) -> None:
    """batches(), lengths summed, beside arrays (100 B) and a bare checksum (1 KiB); os."""
    run_case(benchmark, case, scratch)


@cases("read, ")
def test_read_compressed(benchmark: Any, scratch: Path, case: Case) -> None:
    """poll(1000) and batches() of a zstd topic, beside bare decompression; 100 B and 1 KiB; os."""
    run_case(benchmark, case, scratch)
