"""Computes what a disk may hold after a power cut, from what powercut.c saw. No root, no block device.

A sync promises the content as it was when the sync began; a directory sync promises the names. All else is
free: of the pages written later any subset may be there, and of the later names in a directory any prefix.
Each state that state() builds is one that a correct file system may leave.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096
SOURCE = Path(__file__).with_name("powercut.c")


def compile_shim(directory: Path) -> Path:
    """Compile powercut.c into `directory` and return the library for LD_PRELOAD."""
    library = directory / "powercut.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def write_boot_id(path: Path, rng: random.Random) -> Path:
    """Write another boot id to a file, for PYLOG_BOOT_ID_FILE."""
    digits = f"{rng.getrandbits(128):032x}"
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    path.write_text("-".join(parts) + "\n")
    return path


@dataclass(eq=False)
class Node:
    """A file (inode number) or a directory (children)."""

    inode: int = 0
    children: dict[str, Node] | None = None
    initial: dict[str, Node] = field(default_factory=dict)
    operations: list[NameOperation] = field(default_factory=list)


@dataclass(eq=False)
class NameOperation:
    """One step that changes names: in a directory a name leads to a node, or to None where it is removed."""

    changes: tuple[tuple[Node, str, Node | None], ...]
    durable: bool = False

    @property
    def directories(self) -> list[Node]:
        return [where for where, _, _ in self.changes]


class PowerCut:
    """The trace of processes that worked below `root`; what is there when it begins counts as on disk."""

    def __init__(self, root: Path, trace: Path) -> None:
        self.root = root
        self.trace = trace
        trace.mkdir(parents=True)
        (trace / "counters").write_bytes(bytes(PAGE))
        self.durable_content: dict[int, Path] = {}
        self.tree = self._remember(root)
        self._replayed = False
        self.order: list[NameOperation] = []

    def environment(self, boot_id: Path, stop_at: int = 0) -> dict[str, str]:
        """What a process needs besides LD_PRELOAD to be watched; stop_at kills it before that event."""
        found = {
            "PYLOG_POWERCUT_ROOT": str(self.root),
            "PYLOG_POWERCUT_TRACE": str(self.trace),
            "PYLOG_BOOT_ID_FILE": str(boot_id),
        }
        return found | ({"PYLOG_POWERCUT_STOP_AT": str(stop_at)} if stop_at else {})

    @property
    def events(self) -> int:
        """Events so far; an event is what stop_at counts."""
        return int.from_bytes((self.trace / "counters").read_bytes()[:8], "little")

    def _remember(self, directory: Path) -> Node:
        node = Node(children={})
        assert node.children is not None
        for path in sorted(directory.iterdir()):
            if path.is_dir():
                node.children[path.name] = self._remember(path)
                continue
            inode = path.stat().st_ino
            copy = self.trace / f"initial-{inode}"
            shutil.copyfile(path, copy)
            self.durable_content[inode] = copy
            node.children[path.name] = Node(inode=inode)
        node.initial = dict(node.children)
        return node

    # ---- replay -----------------------------------------------------------------------------

    def replay(self) -> None:
        """Read the log. Call it once, when all processes are dead."""
        assert not self._replayed
        self._replayed = True
        log = self.trace / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        begun: Counter[str] = Counter()
        for line in lines:
            if line.startswith("? "):
                begun[key_of(line[2:])] += 1
                continue
            kind, rest = line.partition(" ")[::2]
            if kind == "sync":
                inode, number, _ = rest.split(" ", 2)
                self.durable_content[int(inode)] = self.trace / f"{number}.data"
            elif kind == "dirsync":
                self._directory_synced(rest)
            elif kind != "stopped":
                begun[key_of(line)] -= 1
                self._named(kind, rest)
        for line in lines:  # a kill between a call and its line in the log
            if line.startswith("? ") and begun[key_of(line[2:])] > 0:
                begun[key_of(line[2:])] -= 1
                self._perhaps_named(*line[2:].split(" ", 1))

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.tree
        for part in Path(path).parts:
            if node is None or node.children is None:
                return None
            node = node.children.get(part)
        return node

    def _directory_synced(self, path: str) -> None:
        node = self._find(path)
        if node is not None:
            for operation in node.operations:
                made_durable(operation)

    def _change(self, *changes: tuple[str, Node | None]) -> None:
        resolved = []
        for path, target in changes:
            where = self._find(str(Path(path).parent))
            assert where is not None and where.children is not None, f"{path}: its directory is not known"
            resolved.append((where, Path(path).name, target))
        operation = NameOperation(tuple(resolved))
        self.order.append(operation)
        for where, name, target in resolved:
            if operation not in where.operations:
                where.operations.append(operation)
            assert where.children is not None
            change_name(where.children, name, target)

    def _named(self, kind: str, rest: str) -> None:
        number, names = rest.split(" ", 1)
        if kind == "mkdir":
            self._change((names, Node(children={})))
        elif kind in ("create", "link"):
            self._change((names, Node(inode=int(number))))
        elif kind == "unlink":
            self._change((names, None))
        elif kind == "rename":
            source, target = names.split("\t")
            node = self._find(source)
            assert node is not None, f"{source}: renamed, never made"
            if source != target:
                self._change((target, node), (source, None))
        else:
            raise AssertionError(f"an event that is not known: {kind}")

    def _perhaps_named(self, kind: str, rest: str) -> None:
        number, names = rest.split(" ", 1)
        path, exists = names, (self.root / names).exists
        if kind in ("mkdir", "create", "link"):
            if exists() and self._find(path) is None:
                inode = (self.root / path).stat().st_ino
                self._named(kind, f"{inode} {path}")
        elif kind == "unlink":
            if not exists() and self._find(path) is not None:
                self._named(kind, rest)
        else:
            source, target = names.split("\t")
            moved = self.root / target
            gone = not (self.root / source).exists() and self._find(source) is not None
            if gone and moved.exists() and moved.stat().st_ino == int(number):
                self._named(kind, rest)

    # ---- states -----------------------------------------------------------------------------

    def state(self, rng: random.Random, target: Path) -> None:
        """Write one state that the disk may hold into the new directory `target`."""
        if not self._replayed:
            self.replay()
        contents = self._current_content()
        names = {id(self.tree): dict(self.tree.initial)}
        ended: set[int] = set()  # directories of which the disk holds nothing later
        keeping = rng.choice([0.0, 0.3, 0.7, 0.95, 1.0])
        for operation in self.order:
            lost = any(id(where) in ended for where in operation.directories) or rng.random() >= keeping
            if lost and not operation.durable:
                ended.update(id(where) for where in operation.directories)
                continue
            for where, name, target_node in operation.changes:
                change_name(names.setdefault(id(where), dict(where.initial)), name, target_node)
        style = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0, None])
        self._write_directory(self.tree, names, target, contents, rng, style)

    def _current_content(self) -> dict[int, Path]:
        found = {path.stat().st_ino: path for path in self.trace.glob("*.gone")}
        found |= {path.stat().st_ino: path for path in self.root.rglob("*") if path.is_file()}
        return found

    def _write_directory(
        self,
        node: Node,
        names: dict[int, dict[str, Node]],
        target: Path,
        contents: dict[int, Path],
        rng: random.Random,
        style: float | None,
    ) -> None:
        target.mkdir(mode=0o700)
        for name, child in names.get(id(node), node.initial).items():
            if child.children is not None:
                self._write_directory(child, names, target / name, contents, rng, style)
                continue
            durable = self.durable_content.get(child.inode)
            old = durable.read_bytes() if durable is not None else b""
            current = contents.get(child.inode)
            new = current.read_bytes() if current is not None else old
            (target / name).touch(mode=0o600)
            (target / name).write_bytes(mix_pages(old, new, rng, style))


def key_of(line: str) -> str:
    """Name an operation the same way before and after the call, which alone knows a new inode."""
    kind, rest = line.split(" ", 1)
    return f"{kind} {rest.split(' ', 1)[1]}"


def change_name(names: dict[str, Node], name: str, target: Node | None) -> None:
    if target is None:
        names.pop(name, None)
    else:
        names[name] = target


def made_durable(operation: NameOperation) -> None:
    """Mark a step as being on disk, and what came before it in its directories: they are written in order."""
    if operation.durable:
        return
    operation.durable = True
    for where in operation.directories:
        for earlier in where.operations:
            if earlier is operation:
                break
            made_durable(earlier)


def mix_pages(old: bytes, new: bytes, rng: random.Random, style: float | None) -> bytes:
    """Lay a random part of the later pages over what was synced; the size is old, new or between."""
    share = rng.random() if style is None else style
    if share == 1.0:
        return new
    size = len(old)
    if len(new) != len(old) and share > 0:
        low, high = sorted((len(old), len(new)))
        size = rng.choice([len(new), len(new), len(old), min(high, low // PAGE * PAGE + PAGE)])
    mixed = bytearray(old[:size].ljust(size, b"\0"))
    for at in range(0, size, PAGE):
        page = new[at : min(at + PAGE, size)]
        if bytes(mixed[at : at + len(page)]) != page and rng.random() < share:
            mixed[at : at + len(page)] = page
    return bytes(mixed)
