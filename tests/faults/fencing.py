"""A commit of a generation that is over, by hand. A job of a Zygote."""

from __future__ import annotations

from pathlib import Path

import pylog
from logcore.offsets import OffsetTable
from logcore.processes import Registry
from logcore.service import Service


def commit_behind_a_fence(directory: str) -> list[str | int]:
    """Return the error's name, or "", and the offset that is committed afterwards."""
    registry = Registry(directory)
    service = Service(registry)
    service.start()
    table = OffsetTable(str(Path(directory) / "offsets"), bytes(16), 1, registry)
    error = ""
    try:
        table.commit(0, 5, 0, 1)
        table.fence(0, 2)
        try:
            table.commit(0, 3, 0, 1)
        except pylog.FencedError as refused:
            error = type(refused).__name__
        found = table.committed(0)
    finally:
        table.close()
        service.close()
        registry.close()
    return [error, -1 if found is None else found[0]]
