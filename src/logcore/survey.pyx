# cython: language_level=3, boundscheck=True, wraparound=True
"""What the files of a partition say: where the log ends, what is damaged, what a power cut took.

Reads only; recovery.pyx acts on it, and a read-only opening uses it as it is. docs/FORMAT.md section 8 has
the rules. Invariant: nothing below the durable mark is ever given up, and everything given up is counted.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from logcore.batch_header cimport max_timestamp_of, next_offset_of
from logcore.failpoints cimport planted
from logcore.format cimport *
from logcore.scan cimport SCAN_BATCH, SCAN_BREAK, SCAN_END, SCAN_FOOTER, SegmentScan

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from logcore.errors import CorruptionError
from logcore.scan import parse_segment_header
from logcore.segment_files import SegmentFile, Start, list_segments, read_start


@dataclass
class Damage:
    """Offsets below the durable mark that cannot be read."""

    path: str
    position: int
    length: int
    first_offset: int
    next_offset: int


class Published(NamedTuple):
    """What living processes last said of the end of a partition: byte_pos, offset, epoch."""

    end: int
    next_offset: int
    epoch: int


@dataclass
class Survey:
    """What a partition's files say. `outcome`: "first" (no segment yet), "go_on" (append at end_position),
    "clear" (the same, after what an unacknowledged append left there), "next" (sealed; its successor is
    missing) or "cut" (drop from end_position on and go on in next_epoch).
    """

    start: Start
    directory: str = ""
    outcome: str = "first"
    segment: SegmentFile | None = None
    header: object = None
    end_position: int = 0
    next_offset: int = 0
    epoch: int = 0
    next_epoch: int = 0
    synced_offset: int = 0
    max_timestamp: int = -(1 << 63)
    producers: int = 0
    leftovers: list[str] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    dropped_bytes: int = 0
    dropped_batches: int = 0

    @property
    def end(self) -> int:
        """Cumulative byte_pos at which the log ends."""
        if self.header is None:
            return 0
        return self.header.base_byte_pos + self.end_position - SEGMENT_DATA_START


def open_scan(segment: SegmentFile) -> SegmentScan | None:
    """A scan of a segment with a valid header, None where it has none."""
    scan = SegmentScan(segment.path)
    if scan.header:
        return scan
    scan.close()
    return None


def check_place(
    segment: SegmentFile, header: object, identity: tuple[bytes, int] | None, start: Start
) -> None:
    """Raise CorruptionError where a segment stands under another name or in another partition."""
    if header.base_offset != segment.base_offset or segment.named_epoch not in (0, header.epoch) or (
        identity is not None and identity != (header.topic_uuid, header.partition)
    ):
        raise CorruptionError(
            f"{segment.path} holds another segment than its name says", path=segment.path, position=0,
            first_offset=segment.base_offset,
        )
    if header.epoch > start.epochs[-1][0]:
        path = f"{os.path.dirname(segment.path)}/start"
        raise CorruptionError(
            f"{path} is missing or old: it knows epoch {start.epochs[-1][0]}, and there are records of epoch "
            f"{header.epoch}", path=path, position=0,
        )


def never_written(path: str) -> bool:
    """True where no byte of a segment's headers reached the disk: nobody can have synced anything of it."""
    with open(path, "rb", opener=open_unfollowed) as file:
        copies = [os.pread(file.fileno(), SEGMENT_HEADER_BYTES, at) for at in (0, SEGMENT_HEADER_COPY)]
    return not any(any(copy) for copy in copies)


def open_unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


cdef int64_t durable_mark(SegmentScan scan) except -2:
    """The largest synced offset that anything valid in the segment states, also behind a break."""
    cdef int64_t mark = loadi64(<const uint8_t*> <const char*> scan.header + SH_SYNCED_OFFSET)
    cdef int64_t stated
    scan.seek(SEGMENT_DATA_START)
    while scan.step() != SCAN_END:
        if scan.kind == SCAN_BATCH:
            stated = loadi64(scan.entry + BH_SYNCED_OFFSET)
        elif scan.kind == SCAN_FOOTER:
            stated = loadi64(scan.entry + FT_SYNCED_OFFSET)
        else:
            continue
        mark = max(mark, stated)
    return mark


cdef object walk(SegmentScan scan, object survey, int64_t mark):
    """Walk one segment into `survey`: end_position, next_offset, damage, outcome. "sealed" at a footer."""
    cdef const uint8_t* p = <const uint8_t*> <const char*> scan.header
    cdef int64_t expected = loadi64(p + SH_BASE_OFFSET)
    cdef int64_t base, behind, newest = survey.max_timestamp
    cdef uint32_t epoch = load32(p + SH_EPOCH)
    cdef int producers = survey.producers
    cdef int64_t range_end = loadi64(p + SH_RANGE_END)
    cdef bint valid
    survey.outcome = "go_on"
    survey.next_epoch = survey.epoch = epoch
    scan.seek(SEGMENT_DATA_START)
    while True:
        scan.step()
        survey.end_position = scan.position
        survey.next_offset = expected
        if scan.kind == SCAN_BATCH:
            p = scan.entry
            base = loadi64(p + BH_BASE_OFFSET)
            behind = next_offset_of(p)
            valid = load32(p + BH_EPOCH) == epoch and base >= expected and behind >= base
            if valid and behind > mark:
                valid = base == expected and scan.body_holds()
                p = scan.entry = scan.peek(scan.position, 8)
            if not valid and expected >= mark:
                survey.outcome = "cut"
                return None
            if not valid or (base > expected and base > range_end):
                survey.damage.append(
                    Damage(scan.path, scan.position, scan.length, expected, max(base, expected))
                )
            if valid:
                if load32(p + BH_RECORD_COUNT):
                    newest = max(newest, max_timestamp_of(p))
                producers += (load32(p + BH_ATTRIBUTES) & ATTR_BLOCK_PRODUCER) != 0
                expected = behind
            survey.max_timestamp, survey.producers = newest, producers
        elif scan.kind == SCAN_FOOTER:
            p = scan.entry
            survey.producers = load32(p + FT_PRODUCER_COUNT)
            survey.max_timestamp = max(newest, loadi64(p + FT_MAX_TIMESTAMP))
            behind = loadi64(p + FT_END_OFFSET)
            if behind > expected:
                survey.damage.append(Damage(scan.path, scan.position, 0, expected, behind))
            survey.next_offset = behind
            survey.next_epoch = load32(p + FT_NEXT_EPOCH)
            survey.outcome = "next"
            return "cut" if load32(p + FT_FLAGS) & FOOTER_CUT else "sealed"
        elif expected < mark:
            if scan.kind == SCAN_END:              # all that is left of what was on disk
                survey.damage.append(Damage(scan.path, scan.position, scan.length, expected, mark))
                survey.next_offset = mark
                survey.outcome = "cut"
                return None
            survey.damage.append(Damage(scan.path, scan.position, scan.length, expected, -1))
        else:
            if scan.kind == SCAN_BREAK or scan.tail_broken:
                survey.outcome = "cut"
            return None


def without_leftovers(segments: list[SegmentFile], survey: Survey) -> list[SegmentFile]:
    """The segments that count: what begins behind the start of a newer epoch was dropped by its cut."""
    cuts = [segment for segment in segments if segment.named_epoch]
    if not cuts:
        return segments
    kept = []
    for segment in segments:
        epoch = segment.named_epoch
        if not epoch and any(cut.base_offset <= segment.base_offset for cut in cuts):
            scan = open_scan(segment)
            if scan is not None:
                epoch = parse_segment_header(scan.header).epoch
                scan.close()
        if any(cut.named_epoch > epoch and cut.base_offset <= segment.base_offset for cut in cuts):
            survey.leftovers.append(segment.path)
        else:
            kept.append(segment)
    return kept


def survey_files(
    directory: str, *, same_boot: bool, published: Published | None = None,
    identity: tuple[bytes, int] | None = None,
) -> Survey:
    """Read what the files of a partition say; writes nothing.

    Args:
        same_boot: the page cache still holds all that was ever written, so nothing can have been lost.
        published: up to where appends were acknowledged, where that is known.
        identity: (uuid of the topic, number of the partition), where they are known.

    Raises:
        CorruptionError: `start` or the last segment is damaged so that the end of the log cannot be told.
    """
    survey = Survey(read_start(directory), directory)
    segments = without_leftovers(list_segments(directory), survey)
    # a new segment whose header never reached the disk holds nothing that was ever synced
    while segments and (last := open_scan(segments[-1])) is None:
        if not never_written(segments[-1].path) or (len(segments) == 1 and survey.start.log_start_offset):
            raise CorruptionError(
                f"{segments[-1].path} has no valid segment header: where the log ends cannot be told",
                path=segments[-1].path, position=0, first_offset=segments[-1].base_offset,
            )
        survey.leftovers.append(segments.pop().path)
    if not segments:
        survey.next_offset = survey.start.log_start_offset
        survey.epoch = survey.next_epoch = survey.start.epochs[-1][0]
        settle(survey, same_boot, published)
        return survey
    scans = [last]
    try:
        # after a power cut the segment before the last may not have been on disk either
        if not same_boot and len(segments) > 1 and (before := open_scan(segments[-2])) is not None:
            scans.insert(0, before)
        # nothing is deleted before it is on disk
        mark = max(survey.start.log_start_offset, *(durable_mark(scan) for scan in scans))
        for number, scan in enumerate(scans):
            survey.segment = segments[number - len(scans)]
            survey.header = parse_segment_header(scan.header)
            check_place(survey.segment, survey.header, identity, survey.start)
            survey.end_position = SEGMENT_DATA_START
            footer = walk(scan, survey, mark)
            later = segments[len(segments) - len(scans) + number + 1:]
            if survey.outcome == "next" and later:
                next_epoch = parse_segment_header(scans[number + 1].header).epoch
                if footer == "sealed" or next_epoch >= survey.next_epoch:
                    continue
                # whoever cut died before it unlinked
                survey.leftovers += [segment.path for segment in later]
            if survey.outcome != "next":
                drop_rest(survey, scan, later)
            if footer == "sealed":
                survey.next_epoch = survey.epoch
            break
    finally:
        for scan in scans:
            scan.close()
    survey.synced_offset = min(mark, survey.next_offset)
    settle(survey, same_boot, published)
    return survey


def drop_rest(survey: Survey, scan: SegmentScan, later: list[SegmentFile]) -> None:
    """Count what a cut at survey.end_position drops; later segments become leftovers."""
    if survey.outcome != "cut":
        return
    scan.seek(survey.end_position)
    for entry in scan.entries(verify_bodies=False):
        if hasattr(entry, "record_count"):
            survey.dropped_batches += 1
        survey.dropped_bytes += entry.length
    for segment in later:
        survey.leftovers.append(segment.path)
        survey.dropped_bytes += os.stat(segment.path).st_size


def newer_epoch(survey: Survey) -> int:
    """The epoch of what is appended once something may have been lost."""
    return max(survey.epoch, survey.start.epochs[-1][0]) + (0 if planted("epoch_not_raised") else 1)


def settle(survey: Survey, same_boot: bool, published: Published | None) -> None:
    """Decide between going on, clearing what was never acknowledged, and a cut under the next epoch."""
    if same_boot and published is not None and survey.next_epoch == published.epoch and (
        survey.end < published.end and survey.next_offset < published.next_offset
    ):
        # no page that was written on this boot can be missing: somebody took it
        survey.damage.append(Damage(
            survey.segment.path if survey.segment else survey.directory, survey.end_position,
            published.end - survey.end, survey.next_offset, published.next_offset,
        ))
        survey.next_offset = published.next_offset
        survey.outcome = "first" if survey.segment is None else "cut"
        survey.next_epoch = newer_epoch(survey)
        return
    if survey.outcome == "first":
        return
    if survey.outcome == "next":
        if not same_boot and survey.next_epoch == survey.epoch:
            # the successor went with records that somebody may have read: their offsets get a new epoch
            survey.next_epoch = newer_epoch(survey)
        return
    known_end = published.end if same_boot and published is not None else None
    if survey.outcome == "cut" and survey.end == known_end and not survey.damage:
        survey.outcome = "clear"
        survey.dropped_bytes = survey.dropped_batches = 0
    elif survey.outcome == "go_on" and not same_boot:
        # records that somebody read may be gone without a trace: their offsets are given
        # out under a new epoch
        survey.outcome = "cut"
    if survey.outcome == "cut":
        survey.next_epoch = newer_epoch(survey)
