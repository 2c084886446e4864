"""Committed transactions that are not yet done: those that wait for the disk, and those whose owners died.

Looks for every part before it does it again, so that this may die anywhere and be repeated. Invariant: a redo
record is removed only when every part of it is applied and as durable as the transaction promised.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from logcore.deliveries import DeliveryTable
from logcore.lease_feed import LeaseFeed
from logcore.offsets import OffsetTable
from logcore.redo import append_again, commit_again, mend, transaction_of
from logcore.redo_file import REDO_DIRECTORY, decode_owner, decode_record
from logcore.scan import ScannedBatch, SegmentScan
from logcore.segment_files import list_segments, read_start
from logcore.topic_log import TopicLog
from logcore.whole_files import locked_directory, remove_leftovers
from pylog.embedded.cleaned import read_cleaned
from pylog.embedded.queue_files import QueueFiles
from pylog.errors import ClosedError, DurabilityError, PylogError, UnknownTopicError
from pylog.queue_options import DUE_HEADER

if TYPE_CHECKING:
    from pylog.embedded.opened import OpenDirectory

logger = logging.getLogger("pylog")


# ---- what waits for the disk --------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a batch of a transaction went: in a later epoch a cut may have taken it away again."""

    log: TopicLog
    partition: int
    epoch: int


class Unsettled(NamedTuple):
    """A transaction of which every part is applied: its redo record stays until all are on disk."""

    record: str
    places: list[Place]
    tables: list[tuple[TopicLog, OffsetTable]]
    deliveries: list[DeliveryTable]


def settle(engine: OpenDirectory, waiting: Iterable[Unsettled]) -> list[Unsettled]:
    """Sync what they wait for, each once, and remove the records of what is on disk; return the rest."""
    tried: dict[object, bool] = {}

    def synced(key: object, sync: Callable[[], object]) -> bool:
        if key not in tried:
            try:
                sync()
                tried[key] = True
            except (PylogError, OSError) as error:
                logger.warning("redo records stay until the next opening: %s", error)
                tried[key] = False
        return tried[key]

    left = []
    for each in waiting:
        found = [synced((at.log.uuid, at.partition, at.epoch), partial(_sync_log, at)) for at in each.places]
        found += [synced(table.path, partial(_sync_table, engine, log, table)) for log, table in each.tables]
        found += [synced(table.path, table.sync) for table in each.deliveries]  # closing one syncs it
        if all(found):
            Path(each.record).unlink(missing_ok=True)
        else:
            left.append(each)
    return left


def _sync_log(place: Place) -> None:
    if not place.log.deleted:
        place.log.sync(place.partition)
        if place.log.epoch(place.partition) != place.epoch:
            raise DurabilityError(f"{place.log.name}-{place.partition} was cut meanwhile")


def _sync_table(engine: OpenDirectory, log: TopicLog, table: OffsetTable) -> None:
    """Sync a table, by another descriptor where its consumer was closed meanwhile."""
    try:
        table.sync()
    except ClosedError:
        if _topic(engine, log.name, log.uuid) is not None:
            again = OffsetTable(table.path, log.uuid, log.partitions, engine._registry)
            try:
                again.sync()
            finally:
                again.close()


class Settling:
    """The transactions of an engine that wait for the interval of their topics: one sync for many of them."""

    def __init__(self, engine: OpenDirectory) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: list[Unsettled] = []

    def add(self, unsettled: Unsettled) -> None:
        """Settle it within the interval of the topics."""
        with self._lock:
            self._waiting.append(unsettled)
            first = len(self._waiting) == 1
        if first:
            self._engine._flush_after(self, 0.1)

    def flush_lingering(self) -> bool:
        """Settle all that wait; where a sync fails the records stay for the next opening."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for left in settle(self._engine, waiting):
            self._engine._leave_unfinished(bytes.fromhex(Path(left.record).stem))
        return True


# ---- what dead owners left ----------------------------------------------------------------------------


class _Redo(NamedTuple):
    path: Path
    description: dict[str, Any]
    batches: bytes


def finish_transactions(engine: OpenDirectory, left: set[bytes]) -> int:
    """Finish the committed transactions whose owners are dead; how many there were.

    One of which a part cannot be done, since its partition is poisoned or damaged, is left for the next time.

    Args:
        left: transactions of this engine that it could not finish itself.

    Raises:
        LockTimeoutError: another process does the same and is stopped.
    """
    directory = Path(engine.path, REDO_DIRECTORY)
    if not any(_of_dead_owners(engine, directory, left)) and not any(directory.glob(".*.tmp")):
        return 0
    with locked_directory(str(directory)) as fd:
        unsettled = []
        try:
            for redo in _in_order(_whole(_of_dead_owners(engine, directory, left))):
                if (applied := _apply(engine, redo)) is not None:
                    unsettled.append(applied)
            finished = len(unsettled) - len(settle(engine, unsettled))
        finally:
            for each in unsettled:
                _close(each)
        if not engine._registry.others_live():
            remove_leftovers(fd)
    return finished


def _records(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.suffix == ".redo"]
    except FileNotFoundError:
        return []


def _of_dead_owners(engine: OpenDirectory, directory: Path, left: set[bytes]) -> Iterator[Path]:
    """Yield the records that nobody else will finish."""
    for path in _records(directory):
        try:
            owner = decode_owner(path)
        except FileNotFoundError:  # its owner finished it just now
            continue
        if owner is not None and engine._registry.lives(*owner):
            ours = owner == (engine._registry.slot, engine._registry.incarnation)
            if not ours or bytes.fromhex(path.stem) not in left:
                continue
        yield path


def _whole(paths: Iterable[Path]) -> list[_Redo]:
    """Return the records; what is damaged is set aside."""
    found = []
    for path in paths:
        record = decode_record(path.read_bytes())
        if record is None:
            # a rename shows a whole file, unless the power went right behind one that was not synced ("os")
            logger.error("%s is damaged: a part of its transaction may be missing; it is set aside", path)
            path.rename(path.with_suffix(".damaged"))
        else:
            found.append(_Redo(path, *record))
    return found


def _in_order(found: list[_Redo]) -> list[_Redo]:
    """Sort so that each comes behind those that were in one of its partitions before it."""
    order: TopologicalSorter[Path] = TopologicalSorter({redo.path: () for redo in found})
    places: dict[tuple[str, int], list[tuple[tuple[int, int], Path]]] = defaultdict(list)
    for redo in found:
        for part in redo.description["appends"]:
            at = part["epoch"], part["start"]
            places[part["uuid"], part["partition"]].append((at, redo.path))
    for history in places.values():
        for (_, before), (_, after) in pairwise(sorted(history)):
            order.add(after, before)
    by_path = {redo.path: redo for redo in found}
    try:
        return [by_path[path] for path in order.static_order()]
    except CycleError:
        logger.warning("the order of the transactions in %s cannot be told", found[0].path.parent)
        return found


def _apply(engine: OpenDirectory, redo: _Redo) -> Unsettled | None:
    """Do what is missing of a transaction; None where a part of it cannot be done now."""
    transaction = bytes.fromhex(redo.description["transaction"])
    done = Unsettled(str(redo.path), [], [], [])
    at, whole = 0, True
    for part in redo.description["appends"]:
        batch = redo.batches[at : at + part["bytes"]]
        at += part["bytes"]
        try:
            log = _topic(engine, part["topic"], bytes.fromhex(part["uuid"]))
            if log is None:
                continue
            place = Place(log, part["partition"], log.epoch(part["partition"]))
            if not _is_in(log, part, transaction):
                append_again(log, place.partition, batch)
            done.places.append(place)
        except (PylogError, OSError) as error:
            logger.warning("%s is not finished yet: %s", redo.path, error)
            whole = False
    for part in redo.description["offsets"]:
        try:
            log = _topic(engine, part["topic"], bytes.fromhex(part["uuid"]))
            if log is None:
                continue
            path = f"{engine.path}/groups/{part['group']}/{part['topic']}.offsets"
            table = OffsetTable(path, log.uuid, log.partitions, engine._registry)
            done.tables.append((log, table))
            commit_again(table, part)
        except (PylogError, OSError) as error:
            logger.warning("%s is not finished yet: %s", redo.path, error)
            whole = False
    for part in redo.description["deliveries"]:
        try:
            log = _topic(engine, part["topic"], bytes.fromhex(part["uuid"]))
            if log is not None:
                done.deliveries.extend(_finish_deliveries(engine, log, part))
        except (PylogError, OSError) as error:
            logger.warning("%s is not finished yet: %s", redo.path, error)
            whole = False
    if whole and redo.description["durable"]:
        return done
    _close(done)
    return Unsettled(str(redo.path), [], [], []) if whole else None


def _close(done: Unsettled) -> None:
    for _, table in done.tables:
        table.close()
    for deliveries in done.deliveries:
        deliveries.close()


def _finish_deliveries(engine: OpenDirectory, log: TopicLog, part: dict[str, Any]) -> list[DeliveryTable]:
    """Finish the records of a part, also in a table that a power cut left without their leases."""
    files = QueueFiles(engine, part["queue"])
    document = files.load()
    if document is None or document.topic != log.name:
        return []
    floors = files.floors(log)
    try:
        table = files.table(log, part["partition"], document.config, floors)
    finally:
        floors.close()
    LeaseFeed(table, DUE_HEADER.encode()).finish_again(part["offsets"], engine._clock.time_ns())
    return [table]


def _topic(engine: OpenDirectory, name: str, uuid: bytes) -> TopicLog | None:
    """Return the topic of a part, None where it was deleted."""
    with suppress(UnknownTopicError):
        log = engine._log(name)
        if log.uuid == uuid:
            return log
    return None


def _is_in(log: TopicLog, part: dict[str, Any], transaction: bytes) -> bool:
    """Return whether the partition has, or had and dropped, the transaction's batch."""
    partition, base_offset = part["partition"], part["base_offset"]
    directory = f"{log.directory}/{partition}"
    mend(log, partition)
    end = log.log_end_offset(partition)
    start = read_start(directory)
    # a cut may have taken it: whoever was here before us put it in where the newer epoch began, or behind
    since = min(base_offset, *(first for epoch, first in start.epochs if epoch > part["epoch"]), end)
    if since == base_offset < max(start.log_start_offset, read_cleaned(directory).cleaned_to):
        return True
    segments = list_segments(directory)
    first = max((s.base_offset for s in segments if s.base_offset <= since), default=0)
    for segment in segments:
        if segment.base_offset < first:
            continue
        scan = SegmentScan(segment.path)
        try:
            for entry in scan.entries(verify_bodies=False):
                if isinstance(entry, ScannedBatch) and transaction_of(scan, entry) == transaction:
                    return entry.base_offset < end
        finally:
            scan.close()
    return False
