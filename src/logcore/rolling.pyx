# cython: language_level=3
"""Seals the active segment of a partition and begins the next.

The footer that seals is written before the successor's name: a death in between leaves a sealed segment from
which recovery goes on. Readers look at `rolls`, which is odd while the fields of the slot change.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from logcore.control cimport (
    PARTITION_READY, PARTITION_UNRECOVERED, atomic_replace, atomic_store32, full_fence, partition_slot_t,
)
from logcore.failpoints cimport failpoint
from logcore.format cimport *
from logcore.linux cimport CLOCK_REALTIME, clock_ns, write_all
from logcore.partition_log cimport PartitionLog
from logcore.segment cimport fill_footer

from logcore.partition_log import raise_os_error
from logcore.recovery import begin_segment, producer_entries


def roll(PartitionLog log) -> None:
    """Seal the active segment and begin the next. The append lock is held and stays so."""
    cdef partition_slot_t* slot = log.slot
    cdef uint64_t position = slot.end - slot.active_base_byte_pos + SEGMENT_DATA_START
    cdef bytes entries = producer_entries(log) if slot.producers else b""
    cdef uint32_t count = len(entries) // PRODUCER_ENTRY_BYTES
    cdef uint8_t* footer
    cdef uint32_t length = FOOTER_PRODUCERS + count * PRODUCER_ENTRY_BYTES
    cdef int error = 0
    if position + length > slot.active_allocated:
        error = log.allocate(position + length)
        if error:
            raise_os_error(error, log.directory)
    unfinished = begin_segment(log, slot.next_offset, slot.active_epoch, slot.end, slot.synced_offset)
    failpoint("roll.prepared")
    footer = <uint8_t*> malloc(length)
    if footer is NULL:
        raise MemoryError()
    try:
        memcpy(footer + FOOTER_PRODUCERS, <const char*> entries, len(entries))
        fill_footer(
            footer, log.map, slot.next_offset, position, 0, slot.max_timestamp, slot.synced_offset, 0,
            slot.active_epoch, clock_ns(CLOCK_REALTIME), count,
        )
        error = write_all(log.fd, footer, length, position)
    finally:
        free(footer)
    # from here on a failure or a death leaves a sealed segment without a successor: recovery goes on
    # from there
    atomic_replace(&slot.state, PARTITION_READY, PARTITION_UNRECOVERED)     # never over a poison
    if error:
        raise_os_error(error, log.directory)
    failpoint("roll.footer")
    log.unsaved_index = (f"{log.directory}/{segment_file(slot)}", slot.active_named_epoch, position)
    salt, allocated = unfinished.publish()
    failpoint("roll.renamed")
    atomic_store32(&slot.rolls, slot.rolls + 1)
    full_fence()
    failpoint("roll.odd")
    slot.sealed_base_offset = slot.active_base_offset
    slot.sealed_named_epoch = slot.active_named_epoch
    slot.sealed_end = slot.end
    slot.active_base_offset = slot.next_offset
    slot.active_named_epoch = 0
    slot.active_base_byte_pos = slot.end
    slot.active_allocated = allocated
    slot.active_salt = salt
    slot.producers = count
    failpoint("roll.fields")
    full_fence()
    atomic_store32(&slot.rolls, slot.rolls + 1)
    atomic_replace(&slot.state, PARTITION_UNRECOVERED, PARTITION_READY)
    failpoint("roll.done")


cdef str segment_file(partition_slot_t* slot):
    """File name of the active segment."""
    if slot.active_named_epoch:
        return f"{slot.active_base_offset:020d}-{slot.active_named_epoch}.log"
    return f"{slot.active_base_offset:020d}.log"
