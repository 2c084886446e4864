"""Segments that somebody wrote to do harm: every checksum holds, and what they state is a lie.

make() draws one by its number from a seed. Made with the oracle's writer, so that no native check of ours
decides what can be tried.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import oracle
import oracle_writer
import zstandard
from oracle import Record, SegmentHeader, header_checksum, xxh3
from oracle_writer import Choices, SegmentWriter, encode_batch, padded

SECOND = 1_000_000_000
U32, U64 = 2**32 - 1, 2**64 - 1
LARGE = (0, 1, 7, 8, 63, 64, 2**16, 2**20, 2**20 + 1, 2**30, 2**31 - 1, 2**31, U32 - 7, U32)
OFFSETS = (-(2**63), -1, 0, 1, 2**31, 2**32, 2**62, 2**62 + 1, 2**63 - 1)


@dataclass
class Parts:
    """A batch in pieces that can be changed one by one before it is sealed again."""

    fields: dict[str, int]
    blocks: bytes
    body: bytes


FIELDS = struct.Struct("<IqIIIIqqQ")
NAMES = ("total", "base", "count", "attributes", "epoch", "raw", "timestamp", "synced", "body_checksum")


def take_apart(batch: bytes) -> Parts:
    fields = dict(zip(NAMES, FIELDS.unpack_from(batch, 4), strict=True))
    blocks = sum(size for bit, size in oracle.BLOCK_BYTES.items() if fields["attributes"] & bit)
    return Parts(fields, batch[64 : 64 + blocks], batch[64 + blocks :])


def put_together(parts: Parts, salt: int, position: int, *, honest_length: bool = True) -> bytes:
    """Encode a batch with checksums that hold for whatever it states."""
    body = padded(parts.body)
    fields = dict(parts.fields, body_checksum=xxh3(body))
    if honest_length:
        fields["total"] = 64 + len(parts.blocks) + len(body)
    head = oracle.BATCH_MAGIC + FIELDS.pack(*(fields[name] for name in NAMES))
    checksum = header_checksum(head + parts.blocks, salt, position)
    return head + struct.pack("<Q", checksum) + parts.blocks + body


# ---- lies, each changes the parts of one batch -------------------------------------------------------------


def lie_in_header(parts: Parts, rng: random.Random) -> None:
    name = rng.choice(["count", "raw", "epoch", "attributes", "base", "synced", "timestamp"])
    if name in ("base", "synced", "timestamp"):
        parts.fields[name] = rng.choice(OFFSETS)
    elif name == "attributes":
        parts.fields[name] ^= 1 << rng.randrange(32)
    else:
        parts.fields[name] = rng.choice(LARGE)


def lie_in_blocks(parts: Parts, rng: random.Random) -> None:
    if not parts.blocks:
        parts.fields["attributes"] |= rng.choice(list(oracle.BLOCK_BYTES))
        parts.blocks = b"".join(
            struct.pack("<q", rng.choice(OFFSETS)) * (size // 8)
            for bit, size in oracle.BLOCK_BYTES.items()
            if parts.fields["attributes"] & bit
        )
        return
    at = rng.randrange(len(parts.blocks) // 8) * 8
    parts.blocks = parts.blocks[:at] + struct.pack("<q", rng.choice(OFFSETS)) + parts.blocks[at + 8 :]


def lie_in_columns(parts: Parts, rng: random.Random) -> None:
    """Offsets that fall, are negative or leave the column; deltas and sequences that do not rise."""
    body = bytearray(parts.body)
    if len(body) < 8:
        return
    for _ in range(rng.choice([1, 1, 2, 6])):
        at = rng.randrange(len(body) // 4) * 4
        value = rng.choice([*LARGE, struct.unpack_from("<I", body, at)[0] + rng.choice([-8, -1, 1, 8])])
        struct.pack_into("<I", body, at, value & U32)
    parts.body = bytes(body)


def another_length(parts: Parts, rng: random.Random) -> None:
    half = parts.body[: len(parts.body) // 16 * 8]
    parts.body = rng.choice([b"", half, parts.body + bytes(8), bytes(4096)])
    if rng.random() < 0.5:
        parts.fields["raw"] = len(padded(parts.body))


def bomb(parts: Parts, rng: random.Random) -> None:
    """A small frame of very many zeros, with an honest, a small or an absent statement of its size."""
    size = rng.choice([1 << 20, 1 << 28, (1 << 30) - 64])
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=rng.random() < 0.7)
    frame = _bombs.get(size) or b"".join(zeros(compressor, size))
    _bombs.setdefault(size, frame)
    parts.fields["attributes"] = parts.fields["attributes"] & ~7 | 1
    parts.fields["raw"] = rng.choice([size, size, 4096, 1 << 30, U32 - 7])
    parts.body = struct.pack("<II", rng.choice([len(frame), len(frame), 0, U32]), 0) + frame


_bombs: dict[int, bytes] = {}


def zeros(compressor: zstandard.ZstdCompressor, size: int) -> list[bytes]:
    chunk, made = bytes(1 << 20), []
    work = compressor.compressobj(size=size if size % (1 << 20) == 0 else -1)
    for _ in range(size >> 20):
        made.append(work.compress(chunk))
    return [*made, work.flush()]


def broken_frame(parts: Parts, rng: random.Random) -> None:
    frame = bytearray(zstandard.compress(parts.body or bytes(64)))
    for _ in range(rng.randrange(1, 4)):
        frame[rng.randrange(len(frame))] = rng.randrange(256)
    parts.fields["attributes"] = parts.fields["attributes"] & ~7 | 1
    parts.body = struct.pack("<II", len(frame), 0) + bytes(frame)


def hostile_record_headers(parts: Parts, rng: random.Random) -> None:
    """Names and values that are longer than the record, escapes for the terminal, no UTF-8."""
    name = rng.choice([b"\x1b[2J\x07", b"\xff\xfe", "\u202e".encode(), b"n" * 300])
    size = rng.choice([len(name), 2**16 - 1, 0])
    length = rng.choice([-2, -1, 0, 5, 2**31 - 1])
    data = struct.pack("<H", size) + name + struct.pack("<i", length) + b"value"
    parts.fields.update(count=1, attributes=oracle.HEADERS)
    value = b"\x1b]0;owned\x07"
    parts.body = oracle_writer.binary_column([data]) + oracle_writer.binary_column([value])
    parts.fields["raw"] = len(padded(parts.body))


LIES: tuple[Callable[[Parts, random.Random], None], ...] = (
    lie_in_header, lie_in_header, lie_in_blocks, lie_in_columns, lie_in_columns, another_length, bomb,
    broken_frame, hostile_record_headers,
)  # fmt: skip


# ---- whole segments ---------------------------------------------------------------------------------------


def sound_records(first: int, count: int) -> list[Record]:
    return [
        Record(first + i, SECOND * (1 + i), b"k%d" % i, b"value" * (i + 1), (("h", b"x"),), first + i)
        for i in range(count)
    ]


def choices_of(rng: random.Random, header: SegmentHeader) -> Choices:
    return Choices(
        codec=rng.randrange(2),
        epoch=header.epoch,
        producer=rng.choice([None, (77, 1)]),
        transaction=rng.choice([None, None, bytes(16)]),
        spread=rng.random() < 0.4,
    )


def make(seed: str, number: int, header: SegmentHeader) -> bytes:
    """A segment of four sound batches, of which one or two were changed; or one that lies as a whole."""
    rng = random.Random(f"{seed} {number}")
    if rng.random() < 0.1:
        header = lying_header(header, rng)
    writer = SegmentWriter(header)
    for _ in range(4):
        records = sound_records(writer.next_offset, rng.choice([1, 2, 9]))
        position = len(writer.data)
        batch = encode_batch(records, choices_of(rng, header), header.salt, position)
        if rng.random() < 0.4:
            parts = take_apart(batch)
            rng.choice(LIES)(parts, rng)
            honest = rng.random() < 0.9
            if not honest:
                parts.fields["total"] = rng.choice(LARGE)
            batch = put_together(parts, header.salt, position, honest_length=honest)
        writer.data += batch
        writer.next_offset += len(records)
    if rng.random() < 0.5:
        lying_footer(writer, rng)
    return writer.finished(free=rng.choice([0, 8, 4096]))


def lying_header(header: SegmentHeader, rng: random.Random) -> SegmentHeader:
    lies: list[SegmentHeader] = [
        replace(header, segment_bytes=rng.choice([0, 1, 4224, 2**30, 2**40, U64])),
        replace(header, start_position=rng.choice([0, 2**40, U64])),
        replace(header, synced_offset=rng.choice(OFFSETS)),
        replace(header, merged_end=rng.choice(OFFSETS)),
        replace(header, epoch=rng.choice([1, U32])),
    ]
    return rng.choice(lies)


def lying_footer(writer: SegmentWriter, rng: random.Random) -> None:
    position, end = len(writer.data), writer.next_offset
    facts = {"end": end, "synced": 0, "next_epoch": 0, "position": position}
    facts[rng.choice(list(facts))] = rng.choice([-1, 0, 1, 2**31, 2**62, 2**63 - 1])
    entry = oracle.ProducerEntry(77, 1, 0, rng.choice(OFFSETS), rng.choice(OFFSETS), 0)
    producers = [entry] * rng.choice([0, 1, 5])
    footer = oracle_writer.encode_footer(
        writer.header, facts["position"] & 2**62 - 1, facts["end"], synced_offset=facts["synced"],
        next_epoch=facts["next_epoch"] & U32, cut=rng.random() < 0.3, producers=producers,
    )  # fmt: skip
    if rng.random() < 0.5:  # as if it stood where it says
        head = footer[:16] + struct.pack("<Q", position) + footer[24:120]
        checksum = header_checksum(head, writer.header.salt, position)
        footer = head + struct.pack("<Q", checksum) + footer[128:]
    writer.data += footer
