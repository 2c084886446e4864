"""`pylog verify --repair`: puts a sound copy in the place of a damaged segment and keeps the damaged one.

Nothing is edited in place: the copy is written and synced under a temporary name, the damaged file gets a
second name ending in `.damaged`, and one rename puts the copy where it was. Batches stay where they stand;
what cannot be read becomes a mark as long as itself, and the segment's header says that offsets are missing.
Invariant: a crash at any step leaves either the damaged file or the finished copy under the segment's name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from logcore.scan import SegmentScan, parse_segment_header
from pylog.cli.findings import Finding
from pylog.cli.output import Output
from pylog.cli.places import Target, all_partitions
from pylog.cli.repair_bytes import FOOTER_MAGIC, filler, renewed_footer, renewed_header, restored_footer
from pylog.cli.segment_check import (
    FIRST_BATCH,
    HEADER_COPIES,
    SegmentReport,
    check_segment,
    find_spare_header,
)
from pylog.errors import LockTimeoutError

MARK_BYTES = 64
DROPPED = "the next open drops what is torn"
LEFT = "what is torn stays as it is, since this file alone does not tell whether it was on disk"


class Patch(NamedTuple):
    """Bytes that the copy has and the damaged file has not."""

    position: int
    data: bytes


class Plan(NamedTuple):
    """What is done to one file. Without patches it is only moved aside, to be rebuilt."""

    path: Path
    actions: list[str]
    patches: list[Patch]


def repair(target: Target, findings: list[Finding], out: Output, *, execute: bool) -> bool:
    """Print the plan, and carry it out where told to; return whether something was changed."""
    plans = make_plans(target, findings)
    for plan in plans:
        for action in plan.actions:
            out.rows([{"repair": str(plan.path), "action": action, "done": execute}])
    planned = {str(plan.path) for plan in plans}
    for finding in findings:
        if finding.kind == "torn":
            out.status(f"{finding.path}: {LEFT if target.kind == 'segment' else DROPPED}")
        elif finding.kind != "note" and finding.path not in planned:
            out.status(f"{finding.path}: cannot be repaired: {finding.reason}")
    if not plans or not execute:
        out.status("nothing was changed; --execute repairs" if plans else "there is nothing to repair")
        return False
    with alone(target.path):
        for plan in plans:
            carry_out(plan)
            out.status(f"repaired {plan.path}; the damaged file is beside it")
    return True


def make_plans(target: Target, findings: list[Finding]) -> list[Plan]:
    """Return what can be done about the findings, file by file."""
    paths = dict.fromkeys(Path(f.path) for f in findings if f.kind in ("corrupt", "damaged"))
    caches = [path for path in paths if path.suffix in (".index", ".keys")]
    plans = [Plan(path, ["move aside; it is rebuilt"], []) for path in caches]
    for path in paths:
        if path.suffix == ".log":
            plan = plan_segment(path, neighbours(target, path))
            if plan is not None:
                plans.append(plan)
    return plans


def neighbours(target: Target, path: Path) -> list[Path]:
    """Return the segment files of the partition of `path`, itself alone where it was given alone."""
    from pylog.cli.places import segments_of

    if target.kind == "segment":
        return [path]
    return next((segments_of(p) for p in all_partitions(target) if p == path.parent), [path])


def plan_segment(path: Path, partition: list[Path]) -> Plan | None:
    """Return how a segment becomes sound, None where that cannot be."""
    plan = Plan(path, [], [])
    header = best_header(path)
    if not header:
        return None
    report = check_segment(path)
    if report.header is None:
        plan.actions.append("take the segment header from the footer; verify again after that")
        plan.patches.extend(Patch(position, header) for position in HEADER_COPIES)
        return plan
    dropped = drop_lost(report, plan)
    if report.footer is None:
        dropped |= restore_footer(report, partition, plan)
    if dropped:
        header = renewed_header(header, report.next_offset)
        plan.actions.append("say in the segment header that offsets are missing")
    elif any("header" in finding.reason for finding in report.findings):
        plan.actions.append("make the copies of the segment header equal")
    if plan.actions:
        plan.patches.extend(Patch(position, header) for position in HEADER_COPIES)
        renew_footer(report, header, plan)
    return plan if plan.actions else None


def renew_footer(report: SegmentReport, header: bytes, plan: Plan) -> None:
    """Plan that the footer, the old or a restored one, holds the segment header that the copy has."""
    restored = [patch for patch in plan.patches if patch.data.startswith(FOOTER_MAGIC)]
    plan.patches[:] = [patch for patch in plan.patches if patch not in restored]
    if report.footer is not None:
        scan = SegmentScan(str(report.path))
        restored = [Patch(report.footer.position, scan.read(report.footer.position, report.footer.length))]
        scan.close()
    for position, footer in restored:
        plan.patches.append(Patch(position, renewed_footer(footer, header, position)))


def best_header(path: Path) -> bytes:
    """Return a valid copy of the segment header, b"" where there is none."""
    scan = SegmentScan(str(path))
    try:
        return scan.header or find_spare_header(scan)
    finally:
        scan.close()


def drop_lost(report: SegmentReport, plan: Plan) -> bool:
    """Plan marks in the place of what cannot be read but has something readable behind it."""
    assert report.header is not None
    dropped = False
    for lost in report.lost:
        if lost.next_offset is None or (0 < lost.length < MARK_BYTES):
            continue
        if lost.first_offset >= report.mark and report.footer is None:
            continue  # torn: recovery's business
        if lost.length:
            mark = filler(report.header, lost.position, lost.length, lost.next_offset)
            plan.patches.append(Patch(lost.position, mark))
        count = lost.next_offset - lost.first_offset
        plan.actions.append(
            f"drop {count} unreadable records, offsets {lost.first_offset}..{lost.next_offset - 1}"
            if count
            else f"replace what is unreadable at position {lost.position}; no record is lost"
        )
        dropped |= count > 0
    return dropped


def restore_footer(report: SegmentReport, partition: list[Path], plan: Plan) -> bool:
    """Plan a new footer where a sealed segment lost its own: its successor says where it stood."""
    place = partition.index(report.path) if report.path in partition else len(partition)
    if place + 1 >= len(partition) or report.header is None:
        return False
    scan = SegmentScan(str(partition[place + 1]))
    behind = parse_segment_header(scan.header) if scan.header else None
    scan.close()
    if behind is None:
        return False
    position = FIRST_BATCH + behind.base_byte_pos - report.header.base_byte_pos
    gap = position - report.end_position
    if gap < 0 or 0 < gap < MARK_BYTES:
        return False
    plan.patches[:] = [patch for patch in plan.patches if patch.position < report.end_position]
    if gap:
        mark = filler(report.header, report.end_position, gap, behind.base_offset)
        plan.patches.append(Patch(report.end_position, mark))
    plan.patches.append(Patch(position, restored_footer(report, partition[:place], behind, position)))
    plan.actions.append(f"restore the footer at position {position}")
    lost = behind.base_offset - report.next_offset
    if lost > 0:
        plan.actions.append(
            f"drop {lost} unreadable records, offsets {report.next_offset}..{behind.base_offset - 1}"
        )
    report.next_offset = behind.base_offset
    return lost > 0


# ---- carrying it out ----------------------------------------------------------------------------


def carry_out(plan: Plan) -> None:
    """Keep the damaged file under another name and put a sound one in its place."""
    evidence = free_name(plan.path)
    if not plan.patches:
        plan.path.rename(evidence)
        sync_directory(plan.path.parent)
        return
    finished = plan.path.with_name(f".{plan.path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with plan.path.open("rb") as source, finished.open("xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            shutil.copyfileobj(source, copy, 1 << 20)
            for patch in plan.patches:
                copy.seek(patch.position)
                copy.write(patch.data)
            copy.flush()
            os.fsync(copy.fileno())
        evidence.hardlink_to(plan.path)
        sync_directory(plan.path.parent)
        finished.rename(plan.path)
        sync_directory(plan.path.parent)
    finally:
        finished.unlink(missing_ok=True)


def free_name(path: Path) -> Path:
    """Return a name for the evidence that nothing has yet."""
    number = 1
    while (name := path.with_name(f"{path.name}.damaged{'' if number == 1 else number}")).exists():
        number += 1
    return name


def sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep every engine out of the data directory that `path` lies in, if it lies in one.

    Raises:
        LockTimeoutError: a living process has it open.
    """
    root = next((p for p in (path, *path.absolute().parents) if (p / "format").is_file()), None)
    if root is None or not (root / "lock").is_file():
        yield
        return
    with (root / "lock").open("r+b") as lock:
        for byte in (1, 0):  # byte 1 is held while an engine opens, byte 0 while one lives
            wanted = struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            try:
                fcntl.fcntl(lock, fcntl.F_OFD_SETLK, wanted)
            except OSError:
                raise LockTimeoutError(f"a process has {root} open: repair needs it alone") from None
        yield
