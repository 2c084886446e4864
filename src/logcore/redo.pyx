# cython: language_level=3
"""Commits a transaction over partitions and offset tables: all of it, or nothing (design: redo logging).

All locks are taken in one order, room is made for every part, and one file, the redo record, is put in place
by a rename: the commit point. Then the parts are applied one by one, and no Python code runs between, so that
no signal handler can raise there. If their owner dies on the way, whoever is told so by a lock applies that
lock's part (write_pending, store_pending) and takes no second lock; pylog.embedded.unfinished does the rest.
Invariant: before the rename nothing of the transaction is anywhere to be seen, and after it every part is
applied exactly once.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from logcore.batch_header cimport seal_batch_header
from logcore.builder cimport BatchBuilder
from logcore.control cimport PARTITION_READY, PARTITION_UNRECOVERED, atomic_loadi64, atomic_replace
from logcore.deliveries cimport DeliveryTable, Lease
from logcore.failpoints cimport failpoint, failpoint_errno, planted
from logcore.format cimport *
from logcore.hashing cimport xxh3
from logcore.key_index cimport guard_of
from logcore.linux cimport EINTR, EIO, close, fsync, renameat, unlinkat
from logcore.offset_copies cimport offset_copy_t
from logcore.offsets cimport OffsetTable
from logcore.partition_log cimport MOST_WRITERS, NEEDS_ROLL, PartitionLog, keep_writers
from logcore.record_headers cimport encode_headers
from logcore.sync cimport SEALED_ONLY
from logcore.topic_log cimport COMPRESSION_LEVEL, TopicLog

import json
import os
import struct

from logcore.errors import CorruptionError, DurabilityError, LeaseLostError, RecordTooLargeError
from logcore.partition_log import raise_os_error
from logcore.scan import parse_segment_header
from logcore.segment_files import segment_file_name
from logcore.whole_files import make_directory, write_unfinished

REDO_DIRECTORY = "redo"
MOST_PARTS = 1000
MOST_DESCRIBED = 64 << 20
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
        self.epoch = self.log.slot.active_epoch
        seal_batch_header(
            <uint8_t*> <char*> self.batch, self.log.slot.next_offset, self.epoch,
            atomic_loadi64(&self.log.slot.synced_offset), self.log.slot.active_salt, self.position,
        )
        self.base_offset = self.log.slot.next_offset
        return 0

    cdef int apply(self) noexcept:
        cdef int64_t base = 0
        cdef uint64_t end = 0
        cdef int error = failpoint_errno("transaction.append")
        if error == 0:
            error = self.log.write(
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
            "base_offset": self.base_offset, "epoch": self.epoch, "start": self.start,
            "position": self.position, "salt": self.log.slot.active_salt, "bytes": len(self.batch),
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


def check_record(TopicLog log, key: object, value: object, headers: object) -> None:
    """Raise RecordTooLargeError for a record beyond its topic's max_record_bytes.

    Where that is cut to half a segment, since producers collect several records: the segment decides.
    """
    if log.max_record_bytes < <uint64_t> log.batch_room() // 2:
        log.check_record(
            len(key or b""), len(value or b""), 0 if headers is None else len(encode_headers(headers))
        )


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


# ---- the record ---------------------------------------------------------------------------------------

@cython.final
cdef class RedoFile:
    """The file of a redo record: written, then put in place by one call that no signal can part in two."""

    cdef int directory
    cdef bytes temporary, name
    cdef readonly str path

    def __cinit__(self, str root, bytes transaction):
        self.directory = -1
        self.name = f"{transaction.hex()}.redo".encode()
        self.temporary = b"." + self.name + b".tmp"
        self.path = f"{root}/{REDO_DIRECTORY}/{transaction.hex()}.redo"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.directory = os.open(f"{root}/{REDO_DIRECTORY}", flags)
        except FileNotFoundError:
            make_directory(f"{root}/{REDO_DIRECTORY}")
            self.directory = os.open(f"{root}/{REDO_DIRECTORY}", flags)

    def __dealloc__(self):
        if self.directory >= 0:
            close(self.directory)

    def write(
        self, tuple owner, bytes transaction, list appends, list offsets, list deliveries, bint durable
    ):
        """Write what is to be put in place, on disk if it is to be durable. Raises DiskFullError, OSError."""
        description = json.dumps({
            "transaction": transaction.hex(), "owner": list(owner), "durable": durable != 0,
            "appends": [part.describe() for part in appends],
            "offsets": [part.describe() for part in offsets],
            "deliveries": [part.describe() for part in deliveries],
        }).encode()
        rest = b"".join([description, *[bytes((<AppendPart> part).batch) for part in appends]])
        checksum = xxh3(<const uint8_t*> <const char*> rest, len(rest))
        front = FRONT.pack(MAGIC, VERSION, 0, len(description), checksum)
        if planted("redo_not_synced"):
            durable = False
        write_unfinished(self.directory, self.temporary.decode(), front + rest, self.path, durable=durable)

    cdef int place(self) noexcept:
        """The commit point: 0 or an errno."""
        cdef int error = failpoint_errno("transaction.place")
        if error == 0 and renameat(self.directory, self.temporary, self.directory, self.name) != 0:
            error = errno
        return error

    cdef int sync(self) noexcept nogil:
        """Bring the name to disk: 0 or an errno."""
        while not planted("redo_not_synced") and fsync(self.directory) != 0:
            if errno != EINTR:
                return errno
        return 0

    cdef int discard(self) except -1:
        unlinkat(self.directory, self.temporary, 0)
        return 0


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


def decode_owner(path: object) -> tuple | None:
    """The registry slot and incarnation of a record's owner, without its batches; None where not whole."""
    with open(path, "rb") as file:
        front = file.read(FRONT.size)
        if len(front) < FRONT.size:
            return None
        magic, version, _, described, _ = FRONT.unpack(front)
        if magic != MAGIC or version != VERSION or described > MOST_DESCRIBED:
            return None
        described = file.read(described)
    try:
        slot, incarnation = json.loads(described)["owner"]
    except (ValueError, KeyError, TypeError):
        return None
    return slot, incarnation


def pending_records(directory: str):
    """Yield the description and the batches of each redo record that is whole."""
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
            yield found


def write_pending(PartitionLog log) -> None:
    """Before a partition is recovered: write what a committed transaction has for just its end.

    The append lock is held. Only while `end` is known, that is in the session, or at least on the boot, in
    which the owner died; recovery then finds a whole batch there and takes it in.
    """
    if planted("redo_not_applied") or not log.slot.recovered:
        return
    for description, batches in pending_records(f"{log.directory.rsplit('/', 3)[0]}/{REDO_DIRECTORY}"):
        write_parts_of(log, description, batches)


cdef int write_parts_of(PartitionLog log, dict description, bytes batches) except -1:
    cdef int at = 0
    for part in description["appends"]:
        batch = batches[at:at + part["bytes"]]
        at += part["bytes"]
        if part["uuid"] != log.uuid.hex() or part["partition"] != log.partition:
            continue
        # a cut gives positions out anew: then another segment is active, and the part goes in at the next
        # opening
        if part["start"] != log.slot.end or part["salt"] != log.slot.active_salt:
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


def store_pending(OffsetTable table, directory: str) -> None:
    """Store what committed transactions have for a table whose lock, which is held, had a dead owner."""
    for description, _ in pending_records(directory):
        for part in description["offsets"]:
            path = f"{directory.rsplit('/', 1)[0]}/groups/{part['group']}/{part['topic']}.offsets"
            if path != table.path or part["uuid"] != table.topic_uuid.hex():
                continue
            try:
                store_again(table, part)
            except CorruptionError:              # told to whoever asks for that partition
                pass


cdef bint store_again(OffsetTable table, dict part) except -1:
    """Store an offset of a committed transaction, unless it or a newer one is; whether it was done.

    Under the version that it has, so that of several transactions the last one counts in whatever order they
    come here.
    """
    cdef offset_copy_t found
    cdef int kept
    table.check_partition(part["partition"])
    kept = table.newest(part["partition"], &found)
    if kept >= 0 and found.version > <uint64_t> part["version"]:
        return False
    table.put(
        part["partition"], kept, <uint64_t> part["version"] + 1, part["offset"], part["epoch"],
        part["generation"], bytes.fromhex(part["metadata"]),
    )
    return True


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
    table.lock()
    try:
        return store_again(table, part)
    finally:
        table.unlock()
