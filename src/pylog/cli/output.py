"""How commands print: tables, JSON and text on stdout, everything about them on stderr.

Not a place that knows topics or records. Tables are drawn on a terminal and tab-separated on a pipe; progress
shows on a terminal only. Invariant: no control, escape or bidirectional character from data or file names
reaches a terminal; on a pipe, data pass byte for byte.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, object]


class Advance(Protocol):
    """Called with the work done since the last call."""

    def __call__(self, amount: int) -> None:
        """Move the bar on."""


def escaped(text: str) -> str:
    """Return `text` with every character that is not plainly printable written as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escaped_bytes(data: bytes) -> bytes:
    """Return `data` as a terminal may see it."""
    return escaped(data.decode("utf-8", "backslashreplace")).encode()


def to_json(value: object) -> str:
    """Return `value` as one line of pure ASCII JSON."""
    return json.dumps(value, separators=(",", ":"))


def grouped(value: object) -> str:
    """Return a number with thousands separated, anything else as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "-" if value is None else str(value)


def shown(value: object) -> object:
    """Return a value of a configuration for people: a list as its items."""
    return ",".join(map(str, value)) or "-" if isinstance(value, tuple | list) else value


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 record`, `2,000 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


MOST_COLUMNS = 10_000
Head = Callable[[str], str]


def spaced(key: str) -> str:
    """Return the head of a column as words."""
    return key.replace("_", " ")


def as_kafka_writes(key: str) -> str:
    """Return the head of a column as Kafka's tools write it: CURRENT-OFFSET."""
    return key.replace("_", "-").upper()


class Output:
    """Where a command prints to, and in which form."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.on_terminal = sys.stdout.isatty()
        self.quiet = False

    def rows(self, rows: Sequence[Row], title: str = "", *, head: Head = spaced) -> None:
        """Print rows of the same keys: JSON lines, a drawn table, or tab-separated values without a head.

        Args:
            head: Makes the head of a drawn column from its key.
        """
        if self.json:
            for row in rows:
                self.json_line(row)
        elif self.on_terminal:
            draw_table(rows, title, head)
        else:
            for row in rows:
                self.line("\t".join(escaped(plain(value)) for value in row.values()))

    def json_line(self, value: object) -> None:
        """Print one JSON value on a line of its own."""
        sys.stdout.write(to_json(value) + "\n")

    def line(self, text: str) -> None:
        """Print a line that is no data of a record; always escaped, tabs excepted."""
        sys.stdout.write("\t".join(escaped(part) for part in text.split("\t")) + "\n")

    def data(self, data: bytes) -> None:
        """Write bytes as they are; what goes to a terminal was escaped by the caller."""
        sys.stdout.flush()
        sys.stdout.buffer.write(data)

    @property
    def into_file(self) -> bool:
        """Whether what is printed goes into a plain file, so that nobody sees how far it is."""
        try:
            return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
        except OSError:
            return False

    def flush(self) -> None:
        """Let the reader have what was printed."""
        sys.stdout.flush()

    def status(self, text: str) -> None:
        """Say something about the data on stderr, unless told to be quiet."""
        if not self.quiet:
            sys.stdout.flush()
            print(escaped(text), file=sys.stderr)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar on stderr while the block runs, where stderr is a terminal; a total of 0 is no work."""
        if not total or not sys.stderr.isatty() or self.quiet:
            yield lambda amount: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(escaped(label).replace("[", "\\["), total=total)
            yield lambda amount: bar.advance(task, amount)


def plain(value: object) -> str:
    """Return a value for a pipe: numbers ungrouped, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def draw_table(rows: Sequence[Row], title: str, head: Head) -> None:
    """Draw a table on the terminal; nothing without rows."""
    from rich.console import Console

    if rows:
        console, table = Console(highlight=False), table_of(rows, title, head)
        fit(console, table)
        console.print(table)


def fit(console: Console, table: Table) -> None:
    """Give each column its longest word at least: rich would break words, or leave their ends out.

    What does not fit the terminal even so is wrapped by the terminal.
    """
    from rich.measure import Measurement, measure_renderables

    options = console.options.update(max_width=MOST_COLUMNS)
    whole = Measurement.get(console, options, table).maximum
    if whole <= console.width:
        return
    spans = [measure_renderables(console, options, [c.header, *c.cells]) for c in table.columns]
    left = console.width - whole + sum(span.maximum - span.minimum for span in spans)
    console.width -= min(left, 0)
    for column, span in zip(table.columns, spans, strict=True):
        column.width = min(span.maximum, span.minimum + max(left, 0))
        left -= column.width - span.minimum


def table_of(rows: Sequence[Row], title: str = "", head: Head = spaced) -> Table:
    """Return rows, of which there is one at least, as a table to draw."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(head(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(escaped(grouped(value))) for value in row.values()))
    return table
