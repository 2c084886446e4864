"""What tells this process, boot and container apart from others: read from /proc.

Not the registry, which compares them. Invariant: reads only.
"""

from __future__ import annotations

import os

from logcore.errors import UnsupportedError


def identity_of_host() -> tuple[bytes, int, int]:
    """Return (boot id, inode of our pid namespace, inode of our time namespace or 0)."""
    try:
        boot = bytes.fromhex(_read("/proc/sys/kernel/random/boot_id").decode().strip().replace("-", ""))
        pid_namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except (OSError, ValueError) as error:
        raise UnsupportedError(f"pylog needs /proc to tell engines apart: {error}") from None
    try:
        time_namespace = os.stat("/proc/self/ns/time").st_ino  # noqa: PTH116
    except FileNotFoundError:
        time_namespace = 0
    return boot, pid_namespace, time_namespace


def start_time_of_process() -> int:
    """Return when this process started, in clock ticks since boot: field 22 of /proc/self/stat."""
    return int(_read("/proc/self/stat").rpartition(b")")[2].split()[19])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would be the dearest import of the core
        return file.read()
