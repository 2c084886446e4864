# cython: language_level=3
"""What a transaction is made of: batches for partitions, offsets of groups, finished records of queues.

Each describes itself to the redo record, and is applied by transactions.pyx once that is in place.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from logcore.batch_header cimport seal_batch_header
from logcore.builder cimport BatchBuilder
from logcore.control cimport PARTITION_READY, PARTITION_UNRECOVERED, atomic_loadi64, atomic_replace
from logcore.deliveries cimport DeliveryTable, Lease
from logcore.failpoints cimport failpoint, failpoint_errno
from logcore.format cimport *
from logcore.key_index cimport guard_of
from logcore.offsets cimport OffsetTable
from logcore.record_headers cimport encode_headers
from logcore.topic_log cimport COMPRESSION_LEVEL, TopicLog

from logcore.errors import LeaseLostError, RecordTooLargeError
from logcore.segment_files import segment_file_name

MOST_PARTS = 1000

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
