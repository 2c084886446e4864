"""Checks what holds the segments together: the chain of a partition, its `start`, and the files above it.

Reads only. Invariant: the durable mark by which damage is judged is the largest that anything valid in the
partition states, also behind a break.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from logcore.errors import CorruptionError, FormatError
from logcore.hashing import checksum_header, xxh3_64
from logcore.segment_files import read_start
from pylog.cli.findings import Finding
from pylog.cli.places import partitions_of, segment_name, segments_of, topics_of
from pylog.cli.segment_check import FIRST_BATCH, SegmentReport, check_segment
from pylog.embedded.directory import check_format

Done = Callable[[int], None]
LINK = "it is a symbolic link, which is not followed"
CRASH_LEFT_IT = "a crash left it, the next open cuts the log here"
NEIGHBOURS_TELL = "a crash may have left it; whether it was on disk, only the segments behind this one tell"


class PartitionReport:
    """What was found in a partition, or in a single segment file that stands for one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.segments: list[SegmentReport] = []
        self.findings: list[Finding] = []
        self.log_start_offset = 0
        self.deleted_before = 0
        """What `start` says: below it all was on disk once."""

    @property
    def mark(self) -> int:
        """The durable mark."""
        return max(self.deleted_before, *(segment.mark for segment in self.segments), 0)

    @property
    def next_offset(self) -> int:
        """The log end offset, as far as it can be read."""
        return self.segments[-1].next_offset if self.segments else self.log_start_offset

    def judge(self, what_then: str = CRASH_LEFT_IT) -> None:
        """Judge what the segments lost, now that the durable mark is known."""
        for segment in self.segments:
            self.findings += segment.judged(self.mark, what_then)

    def as_row(self) -> dict[str, object]:
        """Return it as a row of a table."""
        kinds = {finding.kind for finding in self.findings}
        verdict = next((kind for kind in ("corrupt", "torn", "damaged") if kind in kinds), "ok")
        return {
            "checked": self.name,
            "segments": len(self.segments),
            "batches": sum(segment.batches for segment in self.segments),
            "records": sum(segment.records for segment in self.segments),
            "log_start_offset": self.log_start_offset,
            "log_end_offset": self.next_offset,
            "durable_mark": self.mark,
            "verdict": verdict,
        }


def check_single(path: Path, done: Done) -> PartitionReport:
    """Check a segment file by itself, without anything that may lie around it."""
    report = PartitionReport(path.name)
    segment = check_segment(path)
    report.segments.append(segment)
    if segment.header is not None:
        report.log_start_offset = segment.header.base_offset
    report.judge(NEIGHBOURS_TELL)
    done(path.stat().st_size)
    return report


def check_partition(directory: Path, topic: dict[str, Any] | None, done: Done) -> PartitionReport:
    """Check all segments of a partition and the chain that they make."""
    report = PartitionReport(f"{directory.absolute().parent.name}-{directory.name}")
    try:
        report.log_start_offset = report.deleted_before = read_start(str(directory)).log_start_offset
    except (CorruptionError, FormatError, OSError) as error:
        report.findings.append(Finding("corrupt", str(directory / "start"), str(error)))
    find_links(directory, lambda path: segment_name(path) is not None, report.findings)
    checked = []
    for path in segments_of(directory):
        checked.append(check_segment(path))
        done(path.stat().st_size)
    report.segments = without_dropped(checked, report)
    for segment in report.segments:
        check_identity(segment, topic, directory, report)
    check_chain(report)
    report.judge()
    return report


def without_dropped(checked: list[SegmentReport], report: PartitionReport) -> list[SegmentReport]:
    """Leave out segments that a cut dropped: a newer epoch begins at or before them."""
    cuts = [name for segment in checked if (name := segment_name(segment.path)) and name.epoch]
    kept = []
    for segment in checked:
        base, epoch = segment_name(segment.path) or (0, 0)
        if segment.header is not None:
            epoch = segment.header.epoch
        if any(cut.base_offset <= base and cut.epoch > epoch for cut in cuts):
            report.findings.append(Finding("note", str(segment.path), "dropped by a cut; no part of the log"))
        else:
            kept.append(segment)
    return kept


def check_identity(
    segment: SegmentReport, topic: dict[str, Any] | None, directory: Path, report: PartitionReport
) -> None:
    """Check that a segment is where it belongs."""
    header, name = segment.header, segment_name(segment.path)
    if header is None:
        return
    reasons = []
    if name is not None and name.base_offset != header.base_offset:
        reasons.append(f"it begins at offset {header.base_offset}, not where its name says")
    if name is not None and name.epoch and name.epoch != header.epoch:
        reasons.append(f"it is of epoch {header.epoch}, not of the one in its name")
    if directory.name.isdecimal() and header.partition != int(directory.name):
        reasons.append(f"it belongs to partition {header.partition}")
    if topic is not None and header.topic_uuid.hex() != topic.get("uuid"):
        reasons.append("it belongs to another topic")
    for reason in reasons:
        report.findings.append(Finding("corrupt", str(segment.path), reason))


def check_chain(report: PartitionReport) -> None:
    """Check that each segment begins where the one before it ends."""
    readable = [segment for segment in report.segments if segment.header is not None]
    if not readable:
        return
    first = readable[0]
    assert first.header is not None
    if first.header.base_offset > report.log_start_offset and first is report.segments[0]:
        lost = (None, None, report.log_start_offset, first.header.base_offset)
        report.findings.append(Finding("corrupt", str(first.path.parent), "a segment file is missing", *lost))
    for before, behind in pairwise(readable):
        check_link(before, behind, report)
    for segment in report.segments:
        if segment.header is None:
            close_gap(segment, report)
    last = report.segments[-1]
    if last.header is not None and last.next_offset < report.mark:
        what = (last.end_position, 0, last.next_offset, report.mark)
        report.findings.append(
            Finding("corrupt", str(last.path), "records that were on disk are gone", *what)
        )


def check_link(before: SegmentReport, behind: SegmentReport, report: PartitionReport) -> None:
    """Check one step of the chain."""
    assert before.header is not None
    assert behind.header is not None
    footer, base = before.footer, behind.header.base_offset
    between = [s for s in report.segments if s.header is None and before.path < s.path < behind.path]
    if footer is None:
        if before.lost and before.lost[-1].next_offset is None:
            before.lost[-1] = before.lost[-1]._replace(next_offset=base)
        reason = "the footer of a sealed segment cannot be read"
        at = (before.end_position, None, before.next_offset, base)
        before.findings.append(Finding("corrupt", str(before.path), reason, *at))
        return
    if footer.end_offset != base and not between:
        kind, reason = "corrupt", "the segment file behind this one is missing"
        what = (footer.position, footer.length, footer.end_offset, base)
        before.findings.append(Finding(kind, str(before.path), reason, *what))  # type: ignore[arg-type]
    elif not between:
        expected = before.header.base_byte_pos + footer.position - FIRST_BATCH
        # a compacted segment has become shorter, and its successor stays where it was
        if behind.header.base_byte_pos != expected and before.header.range_end < 0:
            behind.find("damaged", f"its cumulative position is not the {expected} of its predecessor's end")


def close_gap(segment: SegmentReport, report: PartitionReport) -> None:
    """Name the offsets of a segment whose header cannot be read by its own name and its successor's."""
    place = report.segments.index(segment)
    name = segment_name(segment.path)
    behind = report.segments[place + 1].header if place + 1 < len(report.segments) else None
    segment.findings = [
        finding._replace(
            first_offset=name.base_offset if name else None,
            next_offset=behind.base_offset if behind else None,
        )
        for finding in segment.findings
    ]


# ---- above the partitions -----------------------------------------------------------------------


def find_links(directory: Path, ours: Callable[[Path], bool], findings: list[Finding]) -> None:
    """Name the symbolic links in the place of something of ours: what they lead to is not looked at."""
    if directory.is_dir():
        found = sorted(path for path in directory.iterdir() if path.is_symlink() and ours(path))
        findings.extend(Finding("corrupt", str(path), LINK) for path in found)


def read_object(path: Path, keys: tuple[str, ...], findings: list[Finding]) -> dict[str, Any] | None:
    """Return the JSON object of a small file, None (and a finding) where it is none with these keys."""
    try:
        if path.is_symlink():
            findings.append(Finding("corrupt", str(path), LINK))
            return None
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        findings.append(Finding("corrupt", str(path), "the file is missing"))
        return None
    except ValueError:
        findings.append(Finding("corrupt", str(path), "it holds no JSON object"))
        return None
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        findings.append(Finding("corrupt", str(path), f"it says nothing of {', '.join(missing)}"))
        return None
    return dict(found)


def checksum_of(content: dict[str, Any]) -> str:
    """Return the checksum that belongs into a JSON object of the log (FORMAT.md, section 6)."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return f"{xxh3_64(json.dumps(rest, sort_keys=True, separators=(',', ':')).encode()):016x}"


def check_topic(directory: Path, done: Done) -> tuple[list[PartitionReport], list[Finding]]:
    """Check a topic's description and all its partitions."""
    findings: list[Finding] = []
    path = directory / "topic.json"
    topic = read_object(path, ("name", "uuid", "partitions", "config", "checksum"), findings)
    if topic is not None and topic["checksum"] != checksum_of(topic):
        findings.append(Finding("corrupt", str(path), "its checksum does not fit"))
    find_links(directory, lambda path: path.name.isdecimal(), findings)
    reports = [check_partition(partition, topic, done) for partition in partitions_of(directory)]
    return reports, findings


def check_directory(directory: Path, done: Done) -> tuple[list[PartitionReport], list[Finding]]:
    """Check a whole data directory; raises FormatError for one of a newer release."""
    findings: list[Finding] = []
    reports: list[PartitionReport] = []
    path = directory / "format"
    if read_object(path, ("format", "version", "features"), findings) is not None:
        check_format(path.read_bytes(), str(path))
    topics = directory / "topics"
    find_links(directory, lambda path: path == topics, findings)
    if not topics.is_symlink():
        find_links(topics, lambda path: not path.name.startswith("."), findings)
    for topic in topics_of(directory):
        found, more = check_topic(topic, done)
        reports += found
        findings += more
    producers = directory / "producers"
    for path in sorted(producers.iterdir()) if producers.is_dir() else ():
        if path.is_symlink() or path.name.startswith(".") or path.name.endswith(".tmp"):
            continue
        data = path.read_bytes()[:65]
        if (
            len(data) != 64
            or data[:8] != b"pylogprd"
            or checksum_header(data[:56], 0, 0) != struct.unpack_from("<Q", data, 56)[0]
        ):
            findings.append(Finding("corrupt", str(path), "the identity of the producer is damaged"))
    return reports, findings
