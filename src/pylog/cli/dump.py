"""`pylog dump`: one line per batch, in the manner of Kafka's DumpLogSegments."""

from __future__ import annotations

import argparse
from pathlib import Path

from logcore.batch import parse_batch
from logcore.errors import CorruptionError
from logcore.scan import (
    ScannedBatch,
    ScannedBreak,
    ScannedFooter,
    SegmentHeader,
    SegmentScan,
    parse_segment_header,
)
from pylog.cli import CORRUPT, OK
from pylog.cli.envelope import Source, encode, encode_bytes
from pylog.cli.output import Output, escaped, to_json
from pylog.cli.places import all_segments, find_target

CODECS = {0: "none", 1: "zstd"}
NS_PER_MS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to dump and how deep."""
    parser.add_argument("target", metavar="FILE|TOPIC", help="a segment file, a directory, or a topic")
    parser.add_argument("--print-data-log", action="store_true", help="print the records of each batch, too")
    parser.add_argument("--no-check", action="store_true", help="do not compute the checksums of bodies")


def run(args: argparse.Namespace, out: Output) -> int:
    """Dump every segment; the exit code says whether something in them cannot be read."""
    bad = 0
    segments = all_segments(find_target(args.target, args.directory))
    with out.progress("dump", sum(path.stat().st_size for path in segments) if out.into_file else 0) as done:
        for path in segments:
            bad += dump_segment(path, args, out)
            done(path.stat().st_size)
    return CORRUPT if bad else OK


def dump_segment(path: Path, args: argparse.Namespace, out: Output) -> int:
    """Dump one file; return how many places of it cannot be read."""
    scan = SegmentScan(str(path))
    bad = 0
    try:
        if not scan.header:
            tell(out, {"unreadable": str(path), "position": 0, "size": scan.file_bytes, "isvalid": False})
            return 1
        header = parse_segment_header(scan.header)
        assert header is not None
        dump_header(path, header, out)
        for entry in scan.entries(not args.no_check):
            if isinstance(entry, ScannedBatch):
                bad += dump_batch(scan, entry, header, args.print_data_log, out)
            elif isinstance(entry, ScannedFooter):
                dump_footer(entry, out)
            else:
                bad += dump_break(entry, out)
    finally:
        scan.close()
    return bad


def tell(out: Output, facts: dict[str, object]) -> None:
    """Print facts as `name: value` on one line, or as JSON."""
    if out.json:
        out.json_line(facts)
    else:
        out.line(" ".join(f"{name}: {text_of(value)}" for name, value in facts.items()))


def text_of(value: object) -> str:
    """Return a fact as Kafka's tool prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def dump_header(path: Path, header: SegmentHeader, out: Output) -> None:
    """Print what the segment header says."""
    if not out.json:
        out.line(f"Dumping {path}")
        out.line(f"Log starting offset: {header.base_offset}")
    tell(
        out,
        {
            "segment": path.name,
            "baseOffset": header.base_offset,
            "partition": header.partition,
            "partitionEpoch": header.epoch,
            "topicUuid": header.topic_uuid.hex(),
            "segmentBytes": header.segment_bytes,
            "CreateTime": header.created // NS_PER_MS,
            "bytePosition": header.base_byte_pos,
            "syncedOffset": header.synced_offset,
        },
    )


def dump_batch(scan: SegmentScan, batch: ScannedBatch, header: SegmentHeader, deep: bool, out: Output) -> int:
    """Print a batch, and its records where wanted; return 1 where its body cannot be read."""
    last = batch.next_offset - 1
    tell(
        out,
        {
            "baseOffset": batch.base_offset,
            "lastOffset": last,
            "count": batch.record_count,
            "baseSequence": batch.first_sequence,
            "lastSequence": batch.last_sequence,
            "producerId": -1 if batch.producer_id is None else batch.producer_id,
            "producerEpoch": -1 if batch.producer_id is None else batch.producer_epoch,
            "partitionEpoch": batch.epoch,
            "isMark": batch.is_mark,
            "position": batch.position,
            "CreateTime": batch.max_timestamp // NS_PER_MS,
            "size": batch.length,
            "compresscodec": CODECS.get(batch.codec, f"unknown({batch.codec})"),
            "syncedOffset": batch.synced_offset,
            "isvalid": batch.body_ok,
        },
    )
    if not deep or batch.is_mark:
        return not batch.body_ok
    try:
        records = parse_batch(
            scan.read(batch.position, batch.length),
            header.salt,
            batch.position,
            max_body_bytes=header.segment_bytes,
        )
        for record in records:
            dump_record(record, out)
    except CorruptionError as error:
        tell(out, {"unreadable": str(error), "position": batch.position, "isvalid": False})
        return 1
    return 0


def dump_record(record: Source, out: Output) -> None:
    """Print one record; bytes that are no text are shown as base64."""
    if out.json:
        facts = encode(record)
        out.json_line({name: value for name, value in facts.items() if name not in ("topic", "partition")})
        return
    key, value = record.key, record.value
    names = ",".join(name for name, _ in record.headers)
    out.line(
        f"| offset: {record.offset} CreateTime: {record.timestamp // NS_PER_MS} "
        f"keySize: {-1 if key is None else len(key)} valueSize: {-1 if value is None else len(value)} "
        f"headerKeys: [{names}] key: {shown(key)} payload: {shown(value)}"
    )


def shown(data: bytes | None) -> str:
    """Return bytes on one line of printable text."""
    encoded = encode_bytes(data)
    return escaped(encoded) if isinstance(encoded, str) else to_json(encoded)


def dump_footer(footer: ScannedFooter, out: Output) -> None:
    """Print what the footer says."""
    tell(
        out,
        {
            "footer": "cut" if footer.is_cut else "seal",
            "endOffset": footer.end_offset,
            "position": footer.position,
            "size": footer.length,
            "CreateTime": footer.sealed // NS_PER_MS,
            "nextEpoch": footer.next_epoch,
            "producers": footer.producer_count,
            "syncedOffset": footer.synced_offset,
            "isvalid": True,
        },
    )


def dump_break(entry: ScannedBreak, out: Output) -> int:
    """Name bytes that are neither a batch nor a footer."""
    what = "unreadable tail" if entry.at_tail else "unreadable bytes"
    tell(out, {"unreadable": what, "position": entry.position, "size": entry.length, "isvalid": False})
    return 1
