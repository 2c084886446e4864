"""The descriptor by which an event loop waits for records: readable when something may have arrived.

Not asyncio's face, which is pylog.aio. Invariant: between enroll() and withdraw() no arrival is missed, given
that whoever waits looks for records once more after enroll().
"""

from __future__ import annotations

from logcore.service import Service


class Arrivals:
    """One for all consumers of an engine."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def fileno(self) -> int:
        """Return the descriptor, an eventfd: reading 8 bytes of it makes it quiet again."""
        return int(self._service.eventfd)

    def enroll(self) -> None:
        """Have the descriptor become readable from now on."""
        self._service.enroll()

    def withdraw(self) -> None:
        """Undo one enroll()."""
        self._service.withdraw()
