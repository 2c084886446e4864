"""In which order a queue looks at its priority levels: strict, weighted or aging.

Pure, one per source. Invariant: every level is in the order, so that nothing that is ready is passed over
where the levels before it have nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pylog.queue_options import QueueConfig

Head = Callable[[int], int | None]
"""The timestamp (ns) of what a level would give first, None where it has nothing."""


class PriorityOrder:
    """Whose turn it is."""

    def __init__(self, config: QueueConfig) -> None:
        self._strict: Sequence[int] = tuple(reversed(range(config.priorities)))
        self._policy = config.priority_policy if config.priorities > 1 else "strict"
        self._aging_ns = config.aging_seconds * 1e9
        self._credit = dict.fromkeys(self._strict, 0)

    def levels(self, head: Head) -> Sequence[int]:
        """Return all levels, the one to take from first."""
        if self._policy == "strict":
            return self._strict
        heads = {level: stamp for level in self._strict if (stamp := head(level)) is not None}
        if len(heads) < 2:
            return [*heads, *(level for level in self._strict if level not in heads)]
        if self._policy == "aging":
            # level + age / aging_seconds, of which the present is the same for all
            return sorted(self._strict, key=lambda level: self._rank(level, heads.get(level)), reverse=True)
        return self._weighted(heads)

    def _rank(self, level: int, stamp: int | None) -> float:
        return float("-inf") if stamp is None else level - stamp / self._aging_ns

    def _weighted(self, waiting: dict[int, int]) -> Sequence[int]:
        """Smooth weighted round robin: between two turns of level 0 come 2**n of level n, evenly spread."""
        for level in waiting:
            self._credit[level] += 1 << level
        chosen = max(waiting, key=lambda level: (self._credit[level], level))
        self._credit[chosen] -= sum(1 << level for level in waiting)
        return [chosen, *(level for level in self._strict if level != chosen)]
