# cython: language_level=3
"""Commits a transaction over partitions and offset tables: all of it, or nothing (design: redo logging).

All locks are taken in one order, room is made for every part, and one file, the redo record, is put in place
by a rename: the commit point. Then the parts are applied one by one, and no Python code runs between, so that
no signal handler can raise there. What an owner that dies on the way leaves is finished by redo.pyx.
Invariant: before the rename nothing of the transaction is anywhere to be seen, and after it every part is
applied exactly once.
"""

from logcore.deliveries cimport DeliveryTable
from logcore.failpoints cimport failpoint, failpoint_errno, planted
from logcore.linux cimport EIO
from logcore.offset_copies cimport offset_copy_t
from logcore.offsets cimport OffsetTable
from logcore.partition_log cimport MOST_WRITERS, NEEDS_ROLL, PartitionLog, keep_writers
from logcore.redo_file cimport RedoFile
from logcore.sync cimport SEALED_ONLY
from logcore.transaction_parts cimport AppendPart, DeliveryPart, OffsetPart

import os

from logcore.errors import DurabilityError
from logcore.partition_log import raise_os_error
from logcore.rolling import roll


def commit_parts(
    root: str, owner: tuple, transaction: bytes, appends: list, offsets: list, deliveries: list, durable: bool
) -> str:
    """Commit; on return every part is visible, and the path of the redo record is returned.

    Args:
        root: the data directory.
        owner: registry slot and incarnation.
        transaction: 16 bytes.
        durable: the record is on disk before the first part.

    Raises:
        FencedError: an offset belongs to a newer generation; nothing was done.
        VersionConflictError: the guard of a part does not hold; nothing was done.
        LeaseLostError: a record is not in flight here any more; nothing was done.
        LockTimeoutError, DiskFullError, OSError: nothing was done.
        DurabilityError: committed, but the record is not surely on disk or a part could not be written: who
            uses its partition next writes it.
    """
    cdef list locked = [], tables = []
    cdef AppendPart part
    cdef DeliveryPart delivery
    cdef int failed
    appends = sorted(appends, key=order_of_append)
    offsets = sorted(offsets, key=order_of_offset)
    deliveries = sorted(deliveries, key=order_of_delivery)
    for part in appends:
        part.log.hold_back()
    cdef RedoFile record = RedoFile(root, transaction)
    try:
        for part in appends:
            if part.guard is not None:
                part.guard.look()
        lock_appends(appends, locked)
        failpoint("transaction.locked")
        lock_tables(offsets, tables)
        for delivery in deliveries:
            delivery.table.lock()
            tables.append(delivery.table)
            delivery.check()
        for part in appends:
            part.seal()
        record.write(owner, transaction, appends, offsets, deliveries, durable)
        failpoint("transaction.sealed")
        failed = record.place()
        if failed:
            raise_os_error(failed, record.path)
    except BaseException:
        unlock_all(locked, tables)
        record.discard()
        keep_writers(MOST_WRITERS)
        raise
    # committed: from here on nothing is raised before all that can be applied is
    failpoint("transaction.committed")
    failed = failpoint_errno("transaction.sync")
    if durable and failed == 0:
        with nogil:
            failed = record.sync()
    failed = apply_all(appends, offsets, deliveries, tables) or failed
    for part in appends:
        count_appended(part)
    try:
        keep_writers(MOST_WRITERS)
    except (DurabilityError, OSError):               # told to whoever uses that partition next
        pass
    if failed:
        raise DurabilityError(
            f"the transaction is committed, but not all of it could be written: {os.strerror(failed)}; who "
            "uses its partitions next, or opens the directory, writes the rest", committed=True
        )
    return record.path


cdef int apply_all(list appends, list offsets, list deliveries, list tables) except -1:
    """Make each part visible, and let go of its lock; the last errno of one that could not be, or 0."""
    cdef AppendPart part
    cdef OffsetPart offset
    cdef DeliveryPart delivery
    cdef int failed = 0
    for part in appends:
        failed = part.apply() or failed
        failpoint("transaction.appended")
    for offset in offsets:
        try:
            offset.table.store(
                offset.partition, offset.offset, offset.epoch, offset.generation, offset.metadata
            )
        except BaseException:                        # no lock may stay taken, whatever comes
            offset.table.shared.unsettled = 1        # whoever takes the table's lock next stores it
            failed = EIO
        failpoint("transaction.offset_stored")
    for delivery in deliveries:
        delivery.apply()
    unlock_tables(tables)
    for delivery in deliveries:
        if delivery.woken:
            delivery.table.log.control.ring()
    failpoint("transaction.applied")
    return failed


cdef int count_appended(AppendPart part) except -1:
    """What an append does behind its section."""
    cdef PartitionLog log = part.log
    log.appended_batches += 1
    log.appended_records += part.records
    log.appended_bytes += len(part.batch)
    if log.unsaved_index is not None:
        log.save_index()
        if log.service is not None:
            log.service.nudge()                      # the seal is on disk before the next roll needs it
    return 0


def order_of_append(AppendPart part) -> tuple:
    return part.log.uuid, part.partition


def order_of_offset(OffsetPart part) -> tuple:
    return part.table.path, part.table.topic_uuid, part.partition


def order_of_delivery(DeliveryPart part) -> str:
    return part.table.path


cdef int lock_tables(list offsets, list tables) except -1:
    """Hold the table of every offset, which may be committed. `tables` has what is held, also on an error."""
    cdef OffsetPart offset
    cdef OffsetTable table = None
    cdef offset_copy_t found
    for offset in offsets:
        if table is None or (table.path, table.topic_uuid) != (offset.table.path, offset.table.topic_uuid):
            table = offset.table
            table.lock()
            tables.append(table)
        offset.table = table             # another consumer of the group has mapped the same file once more
        if not planted("commit_not_fenced"):
            table.check_generation(offset.partition, offset.generation)
        offset.version = 0 if table.newest(offset.partition, &found) < 0 else found.version
        table.make_room(offset.partition, offset.metadata)
    return 0


cdef int lock_appends(list appends, list locked) except -1:
    """Hold the append lock of every part with room for it. `locked` has what is held, also on an error."""
    cdef AppendPart part, blocked
    cdef int result
    while True:
        for part in appends:
            part.log.take_lock()
            locked.append(part)
        blocked = None
        for part in appends:
            result = part.make_room()
            if result == NEEDS_ROLL and part.log.slot.sealed_base_offset < 0:
                roll(part.log)
                part.log.open_writer()
                result = part.make_room()
            if result == NEEDS_ROLL:
                blocked = part
                break
            if result:
                raise_os_error(result, part.log.directory)
        if blocked is None:
            for part in appends:
                if not part.holds():
                    blocked = part
                    break
            else:
                return 0
            unlock_all(locked, [])
            blocked.guard.look()
            continue
        unlock_all(locked, [])
        blocked.log.sync_to(SEALED_ONLY)     # two segments may not be unsynced at once


cdef int unlock_all(list locked, list tables) except -1:
    cdef AppendPart part
    unlock_tables(tables)
    for part in locked:
        part.log.control.unlock(part.log.partition)
    locked.clear()
    return 0


cdef int unlock_tables(list tables) except -1:
    for table in tables:
        if isinstance(table, OffsetTable):
            (<OffsetTable> table).unlock()
        else:
            (<DeliveryTable> table).unlock()
    return 0
