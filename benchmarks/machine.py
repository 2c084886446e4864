"""Where and when a run was taken: processor, cores, kernel, file system, commit, Python and packages.

A figure without these is no figure. Host names and paths are left out on purpose.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "xxhash", "zstandard", "Cython", "lmdb", "redis", "pyarrow")


def describe(directory: Path) -> dict[str, str]:
    """The facts of this machine, with the file system that holds `directory`."""
    packages = {name: version for name in PACKAGES if (version := installed(name))}
    return {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "file system": file_system(directory),
        "load when started": load(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }


def load() -> str:
    """What else the machine does, over the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of the checkout, marked where it is not what is committed."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        return (name + (" with changes" if git("status", "--porcelain", "../src") else "")) or "unknown"
    except FileNotFoundError:
        return "unknown"


def processor() -> str:
    """The model of the processor, from what the kernel says of the first one."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, said = line.partition(":")
        fields.setdefault(name.strip(), said.strip())
    named = fields.get("model name", "")
    if named and named != "unknown":
        return named
    numbers = (fields.get(key, "?") for key in ("vendor_id", "cpu family", "model", "stepping"))
    if "vendor_id" not in fields:
        return platform.machine()
    return "{} family {} model {} stepping {}".format(*numbers)


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, by the longest mount point above it."""
    place = directory.resolve()
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, name, *_ = line.split()
        if place.is_relative_to(mounted) and len(mounted) >= len(best):
            best, kind = mounted, name
    return kind
