"""Damages a segment file in chosen ways, for tests and for trying `pylog verify` out.

    python tools/damage.py data/topics/flights/0/00000000000000000000.log flip --at 5000 -o /tmp/hurt.log
    pylog verify /tmp/hurt.log

It only ever writes the file named by -o. Invariant: the same arguments and seed do the same damage.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = 4096


def flip_byte(data: bytes, at: int, mask: int = 0xFF) -> bytes:
    """Flip the bits of `mask` in the byte at `at`: what a bad cable or cosmic ray does."""
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def zero_page(data: bytes, at: int) -> bytes:
    """Zero the page that `at` lies in: what a power cut leaves of a page that never reached the disk."""
    start = at // PAGE * PAGE
    end = min(start + PAGE, len(data))
    return data[:start] + bytes(end - start) + data[end:]


def swap_pages(data: bytes, at: int, other: int) -> bytes:
    """Swap the pages that `at` and `other` lie in: what a confused file system does."""
    first, second = sorted((at // PAGE * PAGE, other // PAGE * PAGE))
    if first == second:
        return data
    page, another = data[first : first + PAGE], data[second : second + PAGE]
    between = data[first + PAGE : second]
    return data[:first] + another.ljust(PAGE, b"\0") + between + page[: len(another)] + data[second + PAGE :]


def truncate(data: bytes, at: int) -> bytes:
    """Drop everything from `at` on: what a copy that was broken off lacks."""
    return data[:at]


def garbage_tail(data: bytes, at: int, seed: int = 0) -> bytes:
    """Overwrite everything from `at` on with noise: what an append that was broken off may leave."""
    return data[:at] + random.Random(seed).randbytes(len(data) - at)


def main() -> int:
    """Damage one file as the command line says."""
    parser = argparse.ArgumentParser(description="Damage a copy of a segment file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("way", choices=["flip", "zero", "swap", "truncate", "garbage"])
    parser.add_argument("--at", type=int, help="position in the file; default: anywhere behind the headers")
    parser.add_argument("--other", type=int, help="the other position for swap; default: anywhere")
    parser.add_argument("--seed", type=int, default=0, help="chooses what is not given; default: 0")
    parser.add_argument("-o", dest="out", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    data = args.file.read_bytes()
    chosen = random.Random(args.seed)
    at = chosen.randrange(min(PAGE, len(data)), len(data)) if args.at is None else args.at
    other = chosen.randrange(len(data)) if args.other is None else args.other
    if not 0 <= at < len(data) or not 0 <= other < len(data):
        parser.error(f"{args.file} has {len(data)} bytes: --at and --other are positions in it")
    ways: dict[str, Callable[[], bytes]] = {
        "flip": lambda: flip_byte(data, at),
        "zero": lambda: zero_page(data, at),
        "swap": lambda: swap_pages(data, at, other),
        "truncate": lambda: truncate(data, at),
        "garbage": lambda: garbage_tail(data, at, args.seed),
    }
    args.out.write_bytes(ways[args.way]())
    print(
        f"{args.out}: {args.way} at {at}" + (f" and {other}" if args.way == "swap" else ""), file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
