"""What the demo shows: a progress bar and a live table on a terminal; a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from flights import ROWS, Figures, carrier_names

SLOWEST = 6


class Screen:
    """A progress bar and a live table on a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)
        self.names = carrier_names()
        self.begun = self.last_line = time.monotonic()
        self.last_done = 0
        self.reads = ""

    @contextmanager
    def live(self) -> Iterator[Screen]:
        """Keep the picture on the screen while the block runs."""
        from rich.live import Live

        self.picture = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self.picture is None:
            yield self
            return
        with self.picture:
            yield self

    def say(self, text: str) -> None:
        """Say something that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def readers(self, reads: dict[str, list[int]], what: str) -> None:
        """Say who reads what, when it is not as it was."""
        listed = "; ".join(f"{name} reads {' and '.join(map(str, parts))}" for name, parts in reads.items())
        self.say(f"{what}: {listed}")
        self.reads = listed

    def show(self, there: int, figures: Figures, done: int) -> None:
        """Show how far everybody is, who reads what, and whose flights are the latest."""
        if self.picture is None:
            if time.monotonic() - self.last_line >= 2 or self.last_done < done == ROWS:
                self.last_line, self.last_done = time.monotonic(), done
                seconds = self.last_line - self.begun
                self.say(f"{seconds:5.1f} s  {there:,} flights in the log, {done:,} counted")
            return
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(title="mean arrival delay, live", title_justify="left", box=None, pad_edge=False)
        for column in ("carrier", "flights", "minutes"):
            table.add_column(column, justify="left" if column == "carrier" else "right", min_width=10)
        for carrier, delays in islice(sorted(figures.items(), key=lambda item: -item[1].mean), SLOWEST):
            table.add_row(self.names.get(carrier, carrier), f"{delays.flights:,}", f"{delays.mean:.1f}")
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            ProgressBar(ROWS, done, width=40),
            Text(f"{there:,} of {ROWS:,} flights in the log, {done:,} counted"),
        )
        self.picture.update(Group(progress, Text(self.reads), table), refresh=True)
