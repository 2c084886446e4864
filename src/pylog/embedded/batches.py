"""What consumer.batches() returns.

Invariant: between two batches the consumer belongs to nobody where an Arrow stream reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

from pylog.records import RecordBatch


class Batches:
    """An iterator of RecordBatch that is an Arrow stream as well.

    Whoever reads the stream (DuckDB, say) pulls on threads of its own, one at a time: a pull has the consumer
    to itself and lets go of it, so that the next may come from any thread.
    """

    def __init__(self, batches: Iterator[RecordBatch], let_go: Callable[[], None]) -> None:
        self._batches = batches
        self._let_go = let_go

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordBatch:
        return next(self._batches)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        from logcore.arrow import export_stream

        self._let_go()
        return export_stream(self._pulled())

    def _pulled(self) -> Iterator[RecordBatch]:
        try:
            for batch in self._batches:
                self._let_go()
                yield batch
        finally:
            self._let_go()
