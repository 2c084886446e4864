# cython: language_level=3
"""Commits a transaction over partitions and offset tables: all of it, or nothing (design: redo logging).

All locks are taken in one order, room is made for every part, and one file, the redo record, is put in place
by a rename: the commit point. Then the parts are applied one by one. If their owner dies on the way, whoever
is told so by a lock applies that lock's part (write_pending) and takes no second lock; the rest finishes
pylog.embedded.transactions. Invariant: before the rename nothing of the transaction is anywhere to be seen,
and after it every part is applied exactly once.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from logcore.batch_header cimport seal_batch_header
from logcore.builder cimport BatchBuilder
from logcore.control cimport PARTITION_READY, PARTITION_UNRECOVERED, atomic_loadi64, atomic_replace
from logcore.deliveries cimport DeliveryTable, Lease
from logcore.failpoints cimport failpoint, planted
from logcore.format cimport *
from logcore.hashing cimport xxh3
from logcore.key_index cimport guard_of
from logcore.offset_copies cimport offset_copy_t
from logcore.offsets cimport OffsetTable
from logcore.partition_log cimport NEEDS_ROLL, PartitionLog
from logcore.sync cimport SEALED_ONLY
from logcore.topic_log cimport COMPRESSION_LEVEL, TopicLog

import json
import os
import struct

from logcore.errors import DurabilityError, LeaseLostError, RecordTooLargeError
from logcore.partition_log import raise_os_error
from logcore.scan import parse_segment_header
from logcore.segment_files import segment_file_name
from logcore.whole_files import make_directory, place_file

REDO_DIRECTORY = "redo"
MOST_PARTS = 1000
MAGIC = b"pylogrdo"
FRONT = struct.Struct("<8sIIQQ")         # magic, version, 0, bytes of the description, checksum of the rest
VERSION = 1

cdef enum:
    TRANSACTION_BYTES = 16


@cython.final
cdef class AppendPart:
    """The records that a transaction appends to one partition, as one batch with the transaction's id.

    Raises:
        RecordTooLargeError: they do not fit a segment.
    """

    def __init__(
        self, TopicLog log, partition: int, BatchBuilder builder, transaction: bytes,
        guard: dict | None = None,
    ):
        cdef uint32_t length = 0
        cdef uint8_t* finished
        self.log = log.log(log.check_partition(partition))
        self.topic, self.partition, self.records = log.name, partition, builder.record_count
        if guard:
            self.guard = guard_of(log.key_index(partition), None, guard)
        finished = builder.finish(log.codec, COMPRESSION_LEVEL, 0, 0, False, &length)
        self.batch = with_transaction(finished, length, transaction)
        room = largest_batch(self.log.segment_bytes)
        size = max(len(self.batch), load32(<uint8_t*> <char*> self.batch + BH_RAW_BODY_BYTES))
        if size > room:
            raise RecordTooLargeError(
                f"a transaction appends {size} bytes to {self.topic}-{partition}: they go in as one batch, "
                f"and a segment has room for {room} (segment_bytes)", size=size, limit=room,
            )

    cdef bint holds(self) except -1:
        return self.guard is None or self.guard.holds(self.log)

    cdef int make_room(self) except? -1:
        self.start = self.log.slot.end
        self.position = self.start - self.log.slot.active_base_byte_pos + SEGMENT_DATA_START
        return self.log.make_room(<uint32_t> len(self.batch))

    cdef int seal(self) except -1:
        seal_batch_header(
            <uint8_t*> <char*> self.batch, self.log.slot.next_offset, self.log.slot.active_epoch,
            atomic_loadi64(&self.log.slot.synced_offset), self.log.slot.active_salt, self.position,
        )
        self.base_offset = self.log.slot.next_offset
        return 0

    cdef int apply(self) noexcept:
        cdef int64_t base = 0
        cdef uint64_t end = 0
        cdef int error = self.log.write(
            <uint8_t*> <char*> self.batch, <uint32_t> len(self.batch), True, &base, &end
        )
        if error:
            # the record stands: whoever takes the lock next finds what is missing and writes it
            atomic_replace(&self.log.slot.state, PARTITION_READY, PARTITION_UNRECOVERED)
            self.log.control.unlock(self.log.partition)
        return error

    def describe(self) -> dict:
        """What the redo record says of it."""
        return {
            "topic": self.topic, "uuid": self.log.uuid.hex(), "partition": self.partition,
            "base_offset": self.base_offset, "start": self.start, "position": self.position,
            "salt": self.log.slot.active_salt, "bytes": len(self.batch),
            "segment": segment_file_name(self.log.slot.active_base_offset, self.log.slot.active_named_epoch),
        }


@cython.final
cdef class OffsetPart:
    """An offset that a transaction commits for a group."""

    def __init__(
        self, OffsetTable table, group: str, topic: str, partition: int, offset: int, epoch: int,
        generation: int, metadata: bytes,
    ):
        self.table, self.group, self.topic, self.partition = table, group, topic, partition
        self.offset, self.epoch, self.generation, self.metadata = offset, epoch, generation, metadata

    def describe(self) -> dict:
        """What the redo record says of it."""
        return {
            "group": self.group, "topic": self.topic, "uuid": self.table.topic_uuid.hex(),
            "partition": self.partition, "offset": self.offset, "epoch": self.epoch,
            "generation": self.generation, "metadata": self.metadata.hex(), "version": self.version,
        }


@cython.final
cdef class DeliveryPart:
    """Records of a queue's partition that a transaction finishes, each by the lease that has it in flight."""

    def __init__(self, DeliveryTable table, queue: str, leases: list):
        self.table, self.queue, self.leases = table, queue, leases

    cdef int check(self) except -1:
        cdef Lease lease
        for lease in self.leases:
            if self.table.held(lease) is NULL:
                raise LeaseLostError(
                    f"nothing was committed: queue {self.queue!r}: {self.table.topic.name}-"
                    f"{self.table.partition} offset {lease.offset} is not in flight here any more",
                    topic=self.table.topic.name, partition=self.table.partition, offset=lease.offset,
                )
        return 0

    cdef int apply(self) except -1:
        cdef Lease lease
        for lease in self.leases:
            # twice the same lease is once
            if self.table.held(lease) is not NULL:
                self.woken |= self.table.finish_lease(lease)
                failpoint("transaction.delivery_finished")
        return 0

    def describe(self) -> dict:
        """What the redo record says of it."""
        cdef Lease lease
        return {
            "queue": self.queue, "topic": self.table.topic.name, "uuid": self.table.topic.uuid.hex(),
            "partition": self.table.partition, "offsets": [lease.offset for lease in self.leases],
        }


cdef bytearray with_transaction(const uint8_t* batch, uint32_t length, bytes transaction):
    """The batch with the header block of a transaction put in; its body and the body's checksum stay."""
    cdef uint32_t attributes = load32(batch + BH_ATTRIBUTES) | ATTR_BLOCK_TRANSACTION
    cdef uint32_t place = block_position(attributes, ATTR_BLOCK_TRANSACTION)
    cdef bytearray out = bytearray(length + TRANSACTION_BYTES)
    cdef uint8_t* to = <uint8_t*> <char*> out
    memcpy(to, batch, place)
    memcpy(to + place, <const char*> transaction, TRANSACTION_BYTES)
    memcpy(to + place + TRANSACTION_BYTES, batch + place, length - place)
    store32(to + BH_ATTRIBUTES, attributes)
    store32(to + BH_TOTAL_LENGTH, length + TRANSACTION_BYTES)
    return out


# ---- committing ---------------------------------------------------------------------------------------

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
        DurabilityError: committed, but a part could not be written: who uses its partition next writes it.
    """
    cdef list locked = [], tables = []
    cdef AppendPart part
    cdef OffsetPart offset
    cdef DeliveryPart delivery
    cdef OffsetTable table = None            # the last one that is locked
    cdef int error, failed = 0
    appends = sorted(appends, key=order_of_append)
    offsets = sorted(offsets, key=order_of_offset)
    deliveries = sorted(deliveries, key=order_of_delivery)
    for part in appends:
        part.log.hold_back()
    try:
        for part in appends:
            if part.guard is not None:
                part.guard.look()
        lock_appends(appends, locked)
        failpoint("transaction.locked")
        for offset in offsets:
            if offset.table is not table:
                offset.table.lock()
                table = offset.table
                tables.append(table)
            offset.version = version_under_lock(offset)
        for delivery in deliveries:
            delivery.table.lock()
            tables.append(delivery.table)
            delivery.check()
        for part in appends:
            part.seal()
        failpoint("transaction.sealed")
        path = write_record(root, owner, transaction, appends, offsets, deliveries, durable)
    except BaseException:
        unlock_all(locked, tables)
        raise
    # committed: from here on nothing is raised before all that can be applied is
    failpoint("transaction.committed")
    for part in appends:
        error = part.apply()
        failpoint("transaction.appended")
        failed = failed or error
    for offset in offsets:
        try:
            offset.table.store(
                offset.partition, offset.offset, offset.epoch, offset.generation, offset.metadata
            )
        except Exception:
            failed = failed or 5
        failpoint("transaction.offset_stored")
    for delivery in deliveries:
        delivery.apply()
    unlock_tables(tables)
    for delivery in deliveries:
        if delivery.woken:
            delivery.table.log.control.ring()
    failpoint("transaction.applied")
    if failed:
        raise DurabilityError(
            f"the transaction is committed, but a part could not be written: {os.strerror(failed)}; it is "
            "written by whoever uses that partition next"
        )
    return path


def order_of_append(AppendPart part) -> tuple:
    return part.log.uuid, part.partition


def order_of_offset(OffsetPart part) -> tuple:
    return part.table.path, part.partition


def order_of_delivery(DeliveryPart part) -> str:
    return part.table.path


cdef uint64_t version_under_lock(OffsetPart part) except? 0:
    cdef offset_copy_t found
    if not planted("commit_not_fenced"):
        part.table.check_generation(part.partition, part.generation)
    return 0 if part.table.newest(part.partition, &found) < 0 else found.version


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
                part.log.roll()
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


cdef str write_record(
    str root, tuple owner, bytes transaction, list appends, list offsets, list deliveries, bint durable
):
    """Put the redo record in place: the commit point."""
    directory = f"{root}/{REDO_DIRECTORY}"
    name = f"{transaction.hex()}.redo"
    description = json.dumps({
        "transaction": transaction.hex(), "owner": list(owner), "durable": durable != 0,
        "appends": [part.describe() for part in appends], "offsets": [part.describe() for part in offsets],
        "deliveries": [part.describe() for part in deliveries],
    }).encode()
    rest = b"".join([description, *[bytes((<AppendPart> part).batch) for part in appends]])
    checksum = xxh3(<const uint8_t*> <const char*> rest, len(rest))
    front = FRONT.pack(MAGIC, VERSION, 0, len(description), checksum)
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        make_directory(directory)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        place_file(fd, name, front + rest, f"{directory}/{name}", durable=durable)
    finally:
        os.close(fd)
    return f"{directory}/{name}"


# ---- finishing what a dead owner began ----------------------------------------------------------------

def decode_record(content: bytes) -> tuple | None:
    """The description and the batches of a redo record; None where it is not whole."""
    if len(content) < FRONT.size:
        return None
    magic, version, _, described, checksum = FRONT.unpack_from(content)
    rest = content[FRONT.size:]
    if magic != MAGIC or version != VERSION or described > len(rest):
        return None
    if xxh3(<const uint8_t*> <const char*> rest, len(rest)) != checksum:
        return None
    description = json.loads(rest[:described])
    batches = rest[described:]
    if sum(part["bytes"] for part in description["appends"]) != len(batches):
        return None
    return description, batches


def write_pending(PartitionLog log) -> None:
    """Before a partition is recovered: write what a committed transaction has for just its end.

    The append lock is held. Only while `end` is known, that is in the session, or at least on the boot, in
    which the owner died; recovery then finds a whole batch there and takes it in.
    """
    if planted("redo_not_applied") or not log.slot.recovered:
        return
    root = log.directory.rsplit("/", 3)[0]
    directory = f"{root}/{REDO_DIRECTORY}"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if not name.endswith(".redo"):
            continue
        try:
            with open(f"{directory}/{name}", "rb") as file:
                found = decode_record(file.read())
        except FileNotFoundError:                # finished just now
            continue
        if found is not None:
            write_parts_of(log, found[0], found[1])


cdef int write_parts_of(PartitionLog log, dict description, bytes batches) except -1:
    cdef int at = 0
    for part in description["appends"]:
        batch = batches[at:at + part["bytes"]]
        at += part["bytes"]
        if part["uuid"] != log.uuid.hex() or part["partition"] != log.partition:
            continue
        if part["start"] != log.slot.end:
            continue
        fd = os.open(f"{log.directory}/{part['segment']}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            header = parse_segment_header(os.pread(fd, SEGMENT_HEADER_BYTES, 0))
            if header is not None and header.salt == part["salt"]:
                written = os.pwrite(fd, batch, part["position"])
                if written != len(batch):
                    raise OSError(28, "written in part", part["segment"])
        finally:
            os.close(fd)
    return 0


def mend(TopicLog topic, partition: int) -> None:
    """Take the append lock once: where its holder died, the partition is recovered and its part written."""
    cdef PartitionLog log = topic.log(topic.check_partition(partition))
    log.take_lock()
    log.control.unlock(log.partition)


def append_again(TopicLog topic, partition: int, batch: bytes) -> int:
    """Append a batch whose transaction is committed and which the log does not have; its base offset."""
    cdef PartitionLog log = topic.log(topic.check_partition(partition))
    cdef bytearray copy = bytearray(batch)
    cdef int64_t base = 0
    cdef uint64_t end = 0
    log.append(<uint8_t*> <char*> copy, <uint32_t> len(copy), True, &base, &end, None)
    return base


def commit_again(OffsetTable table, part: dict) -> bool:
    """Commit an offset of a committed transaction, unless it or a newer one is; whether it was done."""
    cdef offset_copy_t found
    cdef uint64_t version
    table.lock()
    try:
        version = 0 if table.newest(part["partition"], &found) < 0 else found.version
        if version > <uint64_t> part["version"]:
            return False
        table.store(
            part["partition"], part["offset"], part["epoch"], part["generation"],
            bytes.fromhex(part["metadata"]),
        )
        return True
    finally:
        table.unlock()
