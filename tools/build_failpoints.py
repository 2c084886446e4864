"""Builds further copies of the package for the tests: with failpoints, or with sanitizers.

    python tools/build_failpoints.py                # build/failpoints: the code that tests/crash kills
    python tools/build_failpoints.py --sanitize     # build/sanitized: the same under ASAN and UBSAN

Each is a tree of its own, to be put first on PYTHONPATH; the normal extension modules are not touched. A
module is built again when its source, a header that it cimports, or a flag changed. Prints the directory.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
CIMPORT = re.compile(r"^\s*(?:from\s+logcore\.(\w+)\s+cimport|cimport\s+logcore\.(\w+))", re.MULTILINE)
DIRECTIVES = {
    "boundscheck": "False",
    "wraparound": "False",
    "cdivision": "True",
    "initializedcheck": "False",
    "embedsignature": "True",
    "freethreading_compatible": "False",
}
EXTENSION_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
COMMON = ("-shared", "-fPIC", "-fno-strict-aliasing", "-Wno-unused-function", "-w")


@dataclass(frozen=True)
class Variant:
    """A way to compile the package; `name` is also its directory below build/."""

    name: str
    flags: tuple[str, ...]


FAILPOINTS = Variant("failpoints", ("-O1", "-DPYLOG_FAILPOINTS=1"))
SANITIZED = Variant(
    "sanitized",
    ("-O1", "-g", "-DPYLOG_FAILPOINTS=1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"),
)


class BuildError(Exception):
    """Cython or the C compiler refused a module; the message is theirs."""


def build(variant: Variant = FAILPOINTS) -> Path:
    """Bring build/<variant> up to date and return it. Raises BuildError; a second caller waits."""
    target = ROOT / "build" / variant.name
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy_sources(target)
        sources = sorted((SOURCES / "logcore").glob("*.pyx"))
        remove_stale(target, {path.stem for path in sources})
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lambda path: build_module(path.stem, target, variant), sources))
    return target


def copy_sources(target: Path) -> None:
    for package in ("logcore", "pylog"):
        wanted = {path.relative_to(SOURCES) for path in (SOURCES / package).rglob("*.p*") if is_source(path)}
        for relative in wanted:
            copy_if_changed(SOURCES / relative, target / relative)
        for path in (target / package).rglob("*.p*"):
            if is_source(path) and path.relative_to(target) not in wanted:
                path.unlink()


def is_source(path: Path) -> bool:
    return path.suffix in (".py", ".pyx", ".pxd") and path.is_file()


def copy_if_changed(source: Path, copy: Path) -> None:
    content = source.read_bytes()
    if copy.exists() and copy.read_bytes() == content:
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(content)


def remove_stale(target: Path, modules: set[str]) -> None:
    for path in (target / "logcore").glob("*.so"):
        if path.name.split(".")[0] not in modules:
            path.unlink()


def headers_of(module: str, sources: Path) -> set[str]:
    """Name every module whose .pxd takes part in compiling this one, also through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for path in (sources / f"{name}.pxd", sources / f"{name}.pyx"):
            if path.exists() and (path.suffix == ".pxd" or name == module):
                waiting += [first or second for first, second in CIMPORT.findall(path.read_text())]
    return seen


def fingerprint(module: str, sources: Path, variant: Variant) -> str:
    digest = hashlib.sha256(repr((sys.version, variant, COMMON, sorted(DIRECTIVES.items()))).encode())
    digest.update((sources / f"{module}.pyx").read_bytes())
    for name in sorted(headers_of(module, sources)):
        header = sources / f"{name}.pxd"
        digest.update(name.encode() + (header.read_bytes() if header.exists() else b"-"))
    return digest.hexdigest()


def build_module(module: str, target: Path, variant: Variant) -> None:
    extension = target / "logcore" / f"{module}{EXTENSION_SUFFIX}"
    stamp = target / "stamps" / module
    wanted = fingerprint(module, target / "logcore", variant)
    if extension.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    generated = target / "c" / f"{module}.c"
    generated.parent.mkdir(exist_ok=True)
    stamp.parent.mkdir(exist_ok=True)
    directives = [f"--directive={name}={value}" for name, value in DIRECTIVES.items()]
    source = target / "logcore" / f"{module}.pyx"
    cython = [sys.executable, "-m", "cython", "-3", *directives]
    run([*cython, "-I", str(target), str(source), "-o", str(generated)], target)
    compiler = shutil.which("cc") or "gcc"
    include = f"-I{sysconfig.get_path('include')}"
    # linked beside its place and renamed: a test that runs an older copy keeps its mapping
    unfinished = extension.with_suffix(".new")
    command = [compiler, *COMMON, *variant.flags, include, str(generated), "-o", str(unfinished)]
    run([*command, "-lpthread", "-ldl"], target)
    unfinished.rename(extension)
    stamp.write_text(wanted)


def run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the package with failpoints for tests/crash.")
    parser.add_argument("--sanitize", action="store_true", help="build build/sanitized with ASAN and UBSAN")
    chosen = SANITIZED if parser.parse_args().sanitize else FAILPOINTS
    try:
        print(build(chosen))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
