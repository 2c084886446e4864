"""What a check finds wrong: a finding names the file, the position, the offsets and the reason.

Plain values. Invariant: a finding says what it means for the records: `corrupt` lost some that were on disk,
`torn` is what a kill or power cut left and the next open drops, `damaged` is redundant or can be rebuilt.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pylog.cli import CHECK_FAILED, CORRUPT, OK

Kind = Literal["corrupt", "torn", "damaged", "note"]


class Finding(NamedTuple):
    """One thing that is not as docs/FORMAT.md says."""

    kind: Kind
    path: str
    reason: str
    position: int | None = None
    length: int | None = None
    first_offset: int | None = None
    next_offset: int | None = None
    """Where reading can go on; None where nothing readable is behind."""

    def as_line(self) -> str:
        """Return it as one line of text."""
        place = "" if self.position is None else f" position {self.position},"
        if self.position is not None and self.length:
            place = f" positions {self.position}..{self.position + self.length - 1},"
        if self.first_offset is not None:
            place += f" offsets {self.offsets()},"
        return f"{self.kind}: {self.path}:{place} {self.reason}"

    def offsets(self) -> str:
        """Return the range of offsets that cannot be read."""
        if self.next_offset is None:
            return f"{self.first_offset} and up"
        if self.first_offset is None or self.next_offset <= self.first_offset:
            return "none"
        return f"{self.first_offset}..{self.next_offset - 1}"

    def as_row(self) -> dict[str, object]:
        """Return it for JSON."""
        return {"finding": self.kind, **{k: v for k, v in self._asdict().items() if k != "kind"}}


def exit_code(findings: list[Finding]) -> int:
    """Return what a check that found these ends with."""
    kinds = {finding.kind for finding in findings}
    if "corrupt" in kinds:
        return CORRUPT
    return CHECK_FAILED if kinds & {"torn", "damaged"} else OK
