"""Checks what a crash left against what processes said before it: the invariants of reliability.md.

I1 to I10, I16 and I17, by number in the messages. Feed it the journal, then check() what was read back. It
goes on over any number of crashes of one directory. Invariant: it believes no one but the journal.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.journal import Line, read_journal

LIVENESS_SECONDS = 2.0 * 20  # I16 says two seconds; a loose bound, since tests share the machine


@dataclass
class Batch:
    """A batch as it was submitted and, perhaps, acknowledged."""

    name: str
    partition: int
    count: int
    started: int
    offset: int | None = None
    acked: int = 0
    synced: bool = False  # the acknowledgement promised that it is on disk


@dataclass
class Position:
    """What a consumer group has done in a partition."""

    committed: int = 0
    handed: set[int] = field(default_factory=set)


class Checker:
    """Collects what was promised for one topic."""

    def __init__(self, journal: Path, partitions: int) -> None:
        self.journal = journal
        self.partitions = partitions
        self.batches: dict[str, Batch] = {}
        self.gone: set[str] = set()  # not there after a crash of their writer: may never come back
        self.contents: dict[tuple[int, int, int], tuple[str, int]] = {}  # (partition, epoch, offset)
        self.synced_floor: dict[int, int] = defaultdict(int)
        self.deleting: dict[int, int] = defaultdict(int)  # somebody set out to delete what is below
        self.transactions: list[list[str]] = []  # batches of one transaction each
        self.cuts: list[tuple[int, dict[int, int]]] = []  # when the power went, and what was synced by then
        self.synced_reads: dict[tuple[int, int], tuple[str, int]] = {}
        self.group: dict[int, Position] = defaultdict(Position)
        self.committed_before: dict[int, int] = {}  # what was committed before the look began
        self.next_to_see: dict[tuple[str, int], int] = {}
        self.last_ends: dict[tuple[str, int], tuple[int, int]] = {}
        self.read_to = 0  # byte position in the journal

    # ---- the journal ----------------------------------------------------------------------------

    def feed(self) -> int:
        """Take in the new lines of the journal; the number of them."""
        lines, self.read_to = read_journal(self.journal, self.read_to)
        for line in lines:
            hear = getattr(self, f"_{line['what']}", None)
            if hear is not None:
                hear(line)
        return len(lines)

    def begin_look(self) -> None:
        """Take in what was said so far: what is found from now on must not fall behind it."""
        self.feed()
        self.committed_before = {partition: position.committed for partition, position in self.group.items()}

    def _intent(self, line: Line) -> None:
        batch = Batch(line["batch"], line["p"], line["n"], line["at"])
        assert batch.name not in self.batches, f"the test uses {batch.name} twice"
        self.batches[batch.name] = batch

    def _together(self, line: Line) -> None:
        self.transactions.append(line["batches"])

    def _ack(self, line: Line) -> None:
        batch = self.batches[line["batch"]]
        batch.offset, batch.acked = line["offset"], line["at"]
        if line["durability"] == "sync":
            batch.synced = True
            self._raise_floor(batch.partition, batch.offset + batch.count)

    def _deleting(self, line: Line) -> None:
        self.deleting[line["p"]] = max(self.deleting[line["p"]], line["offset"])

    def _synced(self, line: Line) -> None:
        self._raise_floor(line["p"], line["offset"])

    def _flushed(self, line: Line) -> None:
        for partition, offset in enumerate(line["ends"]):
            self._raise_floor(partition, offset)

    def _raise_floor(self, partition: int, offset: int) -> None:
        self.synced_floor[partition] = max(self.synced_floor[partition], offset)

    def _opened(self, line: Line) -> None:
        for partition in range(self.partitions):
            self.next_to_see.pop((line["by"], partition), None)
            self.last_ends.pop((line["by"], partition), None)

    def _saw(self, line: Line) -> None:
        for record in line["records"]:
            self._see(record, f"reader {line['by']}")
            partition, offset = record[0], record[1]
            expected = self.next_to_see.get((line["by"], partition), offset)
            assert offset == expected, f"I3: {line['by']} was given {offset} of {partition}, not {expected}"
            self.next_to_see[line["by"], partition] = offset + 1
            assert offset < line["after"][partition], (
                f"I8: {line['by']} was given {offset} of {partition}, at or above the published end"
            )
            if line["isolation"] == "synced":
                self.synced_reads[partition, offset] = (record[3], record[4])
                self._raise_floor(partition, offset + 1)
        for partition in range(self.partitions):
            ends = (line["synced"][partition], line["before"][partition])
            last = self.last_ends.get((line["by"], partition), (0, 0))
            assert ends[0] >= last[0] and ends[1] >= last[1], f"I8: ends of {partition} fell: {last}, {ends}"
            assert ends[1] <= line["after"][partition], f"I8: the end of {partition} fell"
            self.last_ends[line["by"], partition] = ends
            self._raise_floor(partition, ends[0])

    def _see(self, record: list[Any], who: str) -> None:
        """I2 and I7, for a record that anybody read."""
        partition, offset, epoch, name, index, count = record
        batch = self.batches.get(name)
        assert batch is not None, f"I2: {who} read {name} at {partition}:{offset}, which nobody submitted"
        assert (partition, count) == (batch.partition, batch.count) and index < count, (
            f"I2: {who} read {record}, submitted was {batch}"
        )
        assert name not in self.gone, f"I2: {name} came back at {partition}:{offset} after a crash took it"
        known = self.contents.setdefault((partition, epoch, offset), (name, index))
        assert known == (name, index), (
            f"I7: {partition}:{offset} in epoch {epoch} was {known}, and is {(name, index)} for {who}"
        )

    def _resumed(self, line: Line) -> None:
        committed = self.group[line["p"]].committed
        found = line["committed"] or 0
        assert found >= committed, f"I10: committed {committed} of {line['p']}, found {found}"

    def _handed(self, line: Line) -> None:
        for partition, offset in line["records"]:
            self.group[partition].handed.add(offset)

    def _committed(self, line: Line) -> None:
        for partition, offset in line["offsets"]:
            position = self.group[partition]
            assert offset >= position.committed, f"I10: the commit of {partition} went back to {offset}"
            position.committed = offset

    def note_power_cut(self) -> None:
        """The power goes now: what is lost was appended before, and was not synced by now."""
        self.feed()
        self.cuts.append((time.monotonic_ns(), dict(self.synced_floor)))

    # ---- after a crash --------------------------------------------------------------------------

    def check_after_kill(self, found: dict[str, Any], *, writers_live: bool = False) -> None:
        """Any processes may have died, the machine lives: nothing acknowledged may be missing."""
        self._check(found, power_cut=False, writers_live=writers_live)

    def check_after_power_cut(self, found: dict[str, Any]) -> None:
        """The disk holds what was synced and perhaps more: a prefix of what was committed."""
        self._check(found, power_cut=True)

    def _check(self, found: dict[str, Any], *, power_cut: bool, writers_live: bool = False) -> None:
        records = found["records"]
        self._check_shape(found)
        for record in records:
            self._see(record, "the read-back")
        there: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for partition, offset, _, name, index, _ in records:
            there[name].append((offset, index))
            assert self.batches[name].partition == partition
        for name, places in there.items():
            self._check_batch(self.batches[name], places)
        ends = found["ends"]
        now_at = {(record[0], record[1]): record[3] for record in records}
        for batch in self.batches.values():
            if batch.name not in there and batch.name not in self.gone:
                self._check_absent(batch, ends, found["began"], now_at if power_cut else None)
                if batch.started < found["began"] and not writers_live:
                    self.gone.add(batch.name)
        if not any(found["starts"]):  # else a part may have been deleted since
            for batches in self.transactions:
                parts = [name in there for name in batches]
                assert all(parts) or not any(parts), f"of a transaction {batches} there is {parts}"
        self._check_order()
        self._check_group(found, power_cut)
        for partition, end in enumerate(ends):
            assert found["synced"][partition] <= end
            if power_cut:
                floor = self.synced_floor[partition]
                assert end >= floor, f"I1: {partition} was synced to {floor}, and ends at {end}"
                self.synced_floor[partition] = end  # recovery syncs what it serves
        seconds = found.get("probe_seconds", 0.0)
        assert seconds <= LIVENESS_SECONDS, f"I16: the probe took {seconds:.1f} s"

    def _check_shape(self, found: dict[str, Any]) -> None:
        expected = list(found["starts"])
        for partition, start in enumerate(expected):
            assert start <= self.deleting[partition], f"I1: {partition} begins at {start}, undeleted"
        for partition, offset, *_ in found["records"]:
            assert offset == expected[partition], (
                f"I3: {partition} has {offset}, due is {expected[partition]}"
            )
            expected[partition] += 1
        assert expected == found["ends"], f"I3: read up to {expected}, the ends are {found['ends']}"

    def _check_batch(self, batch: Batch, places: list[tuple[int, int]]) -> None:
        first = places[0][0]
        whole = [(first + index, index) for index in range(batch.count)]
        if len(places) != batch.count:
            kind = "I6" if len(places) > batch.count else "I4"
            raise AssertionError(f"{kind}: {batch} is there as {places}")
        assert places == whole, f"I4: {batch} is there as {places}"
        if batch.acked:
            assert first == batch.offset, f"I1: {batch} is at {first}"

    def _check_absent(
        self, batch: Batch, ends: list[int], began: int, now_at: dict[tuple[int, int], str] | None
    ) -> None:
        """A batch is missing: it was never acknowledged, or a power cut may take it.

        `now_at` names what stands at each place after a power cut, and is None after a kill.
        """
        if not batch.acked or batch.acked >= began:
            return
        assert batch.offset is not None
        if batch.offset + batch.count <= self.deleting[batch.partition]:
            return
        assert now_at is not None, f"I1: acknowledged and lost: {batch}; the ends are {ends}"
        end = ends[batch.partition]
        assert not batch.synced, f"I1: acknowledged as synced and lost: {batch}; the end is {end}"
        cut, floors = next((at, floors) for at, floors in self.cuts if at > batch.acked)
        floor = floors.get(batch.partition, 0)
        assert batch.offset + batch.count > floor, f"I1: below the synced {floor} and lost: {batch}"
        if batch.offset < end:
            later = self.batches[now_at[batch.partition, batch.offset]]
            assert later.started > cut, f"I3: a hole: {batch} is lost, {later} is there"

    def _check_order(self) -> None:
        """I5: what was acknowledged before another began has the lower offset; in each partition and life."""
        by_partition: dict[int, list[Batch]] = defaultdict(list)
        for batch in self.batches.values():
            if batch.acked and batch.name not in self.gone:
                by_partition[batch.partition].append(batch)
        for batches in by_partition.values():
            batches.sort(key=lambda batch: batch.offset or 0)
            earliest = None
            for batch in reversed(batches):
                if earliest is not None and earliest.acked < batch.started:
                    raise AssertionError(f"I5: {earliest} was acknowledged before {batch} began")
                if earliest is None or batch.acked < earliest.acked:
                    earliest = batch

    def _check_group(self, found: dict[str, Any], power_cut: bool) -> None:
        for partition, committed in enumerate(found.get("committed", [])):
            position = self.group[partition]
            end = found["ends"][partition]
            assert (committed or 0) <= end, f"I10: committed {committed} of {partition}, which ends at {end}"
            if power_cut:
                position.committed = committed or 0
                continue
            before = self.committed_before.get(partition, 0)
            assert (committed or 0) >= before, f"I10: committed {before} of {partition}, found {committed}"
            missing = set(range(found["starts"][partition], committed or 0)) - position.handed
            assert not missing, f"I10: committed {committed} of {partition}, never handed out: {missing}"


def check_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """I17: opening twice finds the same, but for what was appended between."""
    count = len(first["records"])
    later = [record for record in second["records"] if record[1] < first["ends"][record[0]]]
    assert later == first["records"], f"I17: {count} records at first, then {len(later)} others"


def check_no_leftovers(directory: Path) -> None:
    """I18: nothing half made stays behind once somebody opened the directory after a crash."""
    left = [path for path in directory.rglob("*") if path.name.endswith((".tmp", ".next"))]
    assert not left, f"I18: left behind: {left}"
