"""Micro benchmarks of waiting: for the disk, for another process, for a topic to open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.micro import Case, cases, run_case


@cases("synced")
def test_append_synced(benchmark: Any, scratch: Path, case: Case) -> None:
    """append on disk on return: one writer, eight threads, eight processes; 100 B and 1 KiB; sync."""
    run_case(benchmark, case, scratch)


@cases("wake-up")
def test_wake_a_sleeping_process(benchmark: Any, scratch: Path, case: Case) -> None:
    """A sleeping consumer has the record: p50 and p99 in extra_info; 100 B and 1 KiB; os."""
    run_case(benchmark, case, scratch)


@cases("open ")
def test_open_a_topic_of_many_segments(benchmark: Any, scratch: Path, case: Case) -> None:
    """open until the end offset is known: after close, kill -9, and recovering all; 100 B; os."""
    run_case(benchmark, case, scratch)


@cases("commits")
def test_commit(benchmark: Any, scratch: Path, case: Case) -> None:
    """commit() and commit_async() of a member: the time of one, per_second in extra_info; os and sync."""
    run_case(benchmark, case, scratch)


@cases("transactions")
def test_commit_a_transaction(benchmark: Any, scratch: Path, case: Case) -> None:
    """Transactions of 2 and 8 parts, and consume-transform-produce; os, interval and sync."""
    run_case(benchmark, case, scratch)


@cases("rebalance")
def test_go_on_after_a_member_was_killed(benchmark: Any, scratch: Path, case: Case) -> None:
    """kill -9 to the first record at the new owner, p50 and p99; 2, 8 and 32 members."""
    run_case(benchmark, case, scratch)
