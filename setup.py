"""Builds the native core: one extension module per .pyx of src/logcore, joined by cimport.

A build made here contains no failpoints; tools/build_failpoints.py makes the copy that has them.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent
os.chdir(HERE)

extensions = [
    Extension(
        f"logcore.{path.stem}",
        [str(path)],
        extra_compile_args=["-O3", "-fno-strict-aliasing", "-Wno-unused-function"],
        libraries=["pthread", "dl"],
    )
    for path in sorted(Path("src/logcore").glob("*.pyx"))
]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
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
