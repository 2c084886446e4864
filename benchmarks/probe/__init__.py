"""Builds and loads the ceilings: two small Cython modules that do the least that a log must do.

They are compiled with the C compiler of this Python into benchmarks/results/build, under a name that
carries a digest of their source, so that a changed ceiling is never measured by its old build.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).parent
BUILD = SOURCES.parent / "results" / "build"
FLAGS = ("-O3", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wno-unused-function")


class ProbeBuildError(RuntimeError):
    """The ceilings could not be compiled; the message carries the compiler's last lines."""


def load(name: str) -> ModuleType:
    """Return the compiled module `name` ("rows" or "waits"), building it where needed.

    Raises:
        ProbeBuildError: Cython or the C compiler failed.
    """
    full_name = f"benchmarks.probe.{name}"
    if full_name in sys.modules:
        return sys.modules[full_name]
    library = build(SOURCES / f"{name}.pyx")
    spec = importlib.util.spec_from_file_location(full_name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module
    spec.loader.exec_module(module)
    return module


def build(source: Path) -> Path:
    """Compile one .pyx, unless this very source is built already; return the library."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    facts = source.read_bytes() + f"{version('cython')} {suffix} {FLAGS}".encode()
    directory = BUILD / hashlib.sha256(facts).hexdigest()[:16]
    library = directory / f"{source.stem}{suffix}"
    if library.exists():
        return library
    directory.mkdir(parents=True, exist_ok=True)
    c_file = directory / f"{source.stem}.{os.getpid()}.c"
    unfinished = library.with_suffix(f".{os.getpid()}.new")
    run([sys.executable, "-m", "cython", "-3", "-o", str(c_file), str(source)])
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    include = sysconfig.get_path("include")
    run([*compiler, *FLAGS, f"-I{include}", "-o", str(unfinished), str(c_file), "-lpthread", "-ldl"])
    unfinished.replace(library)         # whole or not at all, whoever else builds at the same time
    return library


def run(command: list[str]) -> None:
    """Run one step of the build, quietly unless it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProbeBuildError(f"{command[0]} failed:\n{(done.stderr or done.stdout)[-2000:]}")
