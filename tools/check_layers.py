"""Checks that imports follow the arrows of the house.

`cli -> everything`, `queues, eventsourcing, patterns, aio, parallel -> engine (protocols) + vocabulary`,
`embedded -> logcore + engine + vocabulary`, `vocabulary -> vocabulary + logcore's values and errors`,
`logcore -> nothing of pylog`. Reads sources only and imports nothing of them; exit code 1 where one is wrong.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

VOCABULARY = (
    "pylog.errors",
    "pylog.records",
    "pylog.config",
    "pylog.groups",
    "pylog.serdes",
    "pylog.correlation",
    "pylog.clock",
    "pylog.filters",
    "pylog.places",
    "pylog.subscription",
    "pylog.queue_options",
)
SEAM = ("pylog.engine", "pylog.queue_source", *VOCABULARY)
# What engine.queue() and event_store() give out stands above the engine: imported when called, or for types.
DOORS = ("pylog.queues", "pylog.eventsourcing")
VALUES_OF_THE_CORE = (
    "logcore.errors",
    "logcore.batch",
    "logcore.record_ids",
    "logcore.matching",
    "logcore.header_fields",
    "logcore.record_headers",
)

# A layer: the modules in it, and what they may import of the project besides themselves.
LAYERS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("logcore",), ()),
    (VOCABULARY, (*VOCABULARY, *VALUES_OF_THE_CORE)),
    (("pylog.engine", "pylog.queue_source"), (*DOORS, *SEAM)),
    (("pylog.embedded",), ("logcore", *DOORS, *SEAM)),
    (("pylog.kafka",), SEAM),
    (("pylog.parallel",), SEAM),
    (("pylog.aio",), ("pylog.queues", *SEAM)),
    # a queue is a native class, as a record is: what nobody has to look at takes no Python frame
    (("pylog.queues", "pylog.retries"), ("pylog.queues", "pylog.retries", "logcore.direct_queue", *SEAM)),
    (("pylog.eventsourcing.persistence",), ("pylog",)),  # a program of its own: it opens a directory
    (("pylog.eventsourcing",), ("pylog.queues", "pylog.retries", *SEAM)),
    (("pylog.patterns",), ("pylog.queues", "pylog.retries", "pylog.eventsourcing", *SEAM)),
    (("pylog.cli",), ("pylog", "logcore")),
    (("pylog.__init__", "pylog.__main__"), ("pylog", "logcore")),
)
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)


def within(module: str, parents: tuple[str, ...]) -> bool:
    """Return whether the module is one of the parents or lies in one."""
    return any(module == parent or module.startswith(parent + ".") for parent in parents)


def imports_of_python(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of each import, also those within functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            # `from pylog import engine` imports a module, `from pylog import Record` what its door leads to
            if base == "pylog":
                yield from ((node.lineno, f"pylog.{name.name}") for name in node.names)
            else:
                yield node.lineno, base


def imports_of_cython(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of each import and cimport."""
    for match in CYTHON_IMPORT.finditer(source):
        yield source.count("\n", 0, match.start(1 if match[1] else 2)) + 1, match[1] or match[2]


def module_of(path: Path, root: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(root).with_suffix("").parts
    if parts[-1] == "__init__" and parts != ("pylog", "__init__"):
        parts = parts[:-1]
    return ".".join(parts)


def wrong_arrows(root: Path) -> list[str]:
    """Return one line for each import below `root` that its layer does not allow."""
    found = []
    sources = (path for path in root.rglob("*") if path.suffix in {".py", ".pyi", ".pyx", ".pxd"})
    for path in sorted(sources):
        module = module_of(path, root)
        layer = next((layer for layer in LAYERS if within(module, layer[0])), None)
        if layer is None:
            found.append(f"{path}: {module} is in no layer of tools/check_layers.py")
            continue
        source = path.read_text()
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        cython = path.suffix in {".pyx", ".pxd"}
        for line, name in imports_of_cython(source) if cython else imports_of_python(source, package):
            if within(name, ("pylog", "logcore")) and not within(name, layer[0] + layer[1]):
                found.append(f"{path}:{line}: {module} imports {name}, which is above it or beside it")
    return found


def main() -> int:
    """Check the sources of this repository."""
    found = wrong_arrows(Path(__file__).parent.parent / "src")
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
