"""Builds the native core: one extension module per .pyx of src/logcore, joined by cimport.

`--failpoints` (used by `make debug`) compiles the failpoints in; a normal build contains none.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent
os.chdir(HERE)

define_macros: list[tuple[str, str | None]] = []
if "--failpoints" in sys.argv:
    sys.argv.remove("--failpoints")
    define_macros.append(("PYLOG_FAILPOINTS", "1"))

extensions = [
    Extension(
        f"logcore.{path.stem}",
        [str(path)],
        define_macros=define_macros,
        extra_compile_args=["-O3", "-fno-strict-aliasing", "-Wno-unused-function"],
        libraries=["pthread", "dl"],
    )
    for path in sorted(Path("src/logcore").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        nthreads=os.cpu_count() or 1,
        include_path=["src"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    )
)
