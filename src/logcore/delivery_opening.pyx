# cython: language_level=3
"""Opening a delivery table: its file, and what of it may be believed (FORMAT.md, "Delivery tables").

Not its use. The first opener of a session finds out, under a lock of the directory, what the slots are worth:
after a kill everything, since the page cache has it all; after a reboot what the last sync brought to disk;
after damage nothing, and the queue begins again at its floor. Invariant: a record is delivered once too
often rather than not at all.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from logcore.control cimport boot_id
from logcore.delivery_file cimport DeliveryFile
from logcore.delivery_index cimport DAMAGED, NO_MEMORY, rebuild
from logcore.delivery_slots cimport *
from logcore.failpoints cimport failpoint, failpoint_errno
from logcore.linux cimport (
    CLOCK_REALTIME, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, clock_ns, mmap,
    posix_fallocate, read_all, robust_mutex_init,
)

import os
import struct

from logcore.errors import FormatError
from logcore.hashing import checksum_header
from logcore.whole_files import (
    clear_error, locked_directory, make_directory, open_plain, place_file, remove_leftovers,
)

HEADER = struct.Struct("<8sII16sQ")            # magic, version, partition, uuid of the topic, salt
MAGIC = b"pylogdlv"
VERSION = 1


def open_table(table: DeliveryFile) -> None:
    """Open or make the table's file, and see to it that what is derived is there."""
    if table.registry.read_only:
        open_copy(table)
        return
    make_directory(os.path.dirname(table.path))
    with locked_directory(os.path.dirname(table.path)) as directory:
        if not open_file(table, directory, os.O_RDWR):
            name = os.path.basename(table.path)
            remove_leftovers(directory, name)
            place_file(directory, name, fresh_file(table), table.path, durable=False)
            if not open_file(table, directory, os.O_RDWR):
                raise FormatError(f"{table.path} changed while it was made: is something else writing there?")
            table.began = "new"
        map_front(table)
        if table.table.shared.session == table.registry.session:
            table.began = "kept"
            table.remap()
        else:
            begin_session(table)
        if table.began == "new":
            os.fsync(directory)


cdef bytes fresh_file(DeliveryFile table):
    content = bytearray((FRONT_PAGES + FIRST_PAGES) * PAGE)
    salt = int.from_bytes(os.urandom(8), "little")
    front = HEADER.pack(MAGIC, VERSION, table.partition, table.topic.uuid, salt)
    content[:HEADER.size] = front
    content[HEADER.size:HEADER.size + 8] = checksum_header(front, 0, 0).to_bytes(8, "little")
    return bytes(content)


cdef bint open_file(DeliveryFile table, int directory, int flags) except -1:
    """Open the file; False where there is none, or it is of another topic or damaged in front."""
    try:
        fd = open_plain(directory, os.path.basename(table.path), table.path, flags)
    except FileNotFoundError:
        return False
    front = os.pread(fd, HEADER.size + 8, 0)
    checksum = int.from_bytes(front[HEADER.size:], "little")
    if len(front) == HEADER.size + 8 and front.startswith(MAGIC) and (
        checksum == checksum_header(front[:HEADER.size], 0, 0)
    ):
        _, version, partition, uuid, salt = HEADER.unpack(front[:HEADER.size])
        if version != VERSION:
            os.close(fd)
            raise FormatError(f"{table.path} has version {version}; this release reads {VERSION}")
        if uuid == table.topic.uuid and partition == table.partition and (
            os.fstat(fd).st_size >= (FRONT_PAGES + FIRST_PAGES) * PAGE
        ):
            table.fd = fd
            table.table.salt = salt
            return True
    os.close(fd)
    return False


cdef int map_front(DeliveryFile table) except -1:
    cdef void* mapped = mmap(NULL, FRONT_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, table.fd, 0)
    if mapped is MAP_FAILED:
        raise MemoryError(f"cannot map {table.path}")
    take_front(table, mapped)
    return 0


cdef void take_front(DeliveryFile table, void* mapped) noexcept:
    table.table.base = <uint8_t*> mapped
    table.table.shared = <delivery_shared_t*> (table.table.base + SHARED_AT)
    table.table.owners = <uint64_t*> (table.table.base + OWNERS_AT)
    table.table.in_flight = <uint32_t*> (table.table.base + IN_FLIGHT_AT)


cdef int begin_session(DeliveryFile table) except -1:
    """Nobody else lives: find out what the file is worth. Repeated where somebody dies on the way."""
    cdef delivery_shared_t* shared = table.table.shared
    cdef bytes boot = boot_id()
    cdef bint same_boot = memcmp(shared.boot_id, <const char*> boot, 16) == 0
    cdef bint usable = shared.poisoned == 0      # else the page cache may show what the disk never got
    cdef delivery_slot_t undo = shared.undo
    cdef uint32_t undo_index = shared.undo_index
    cdef delivery_mark_t mark
    cdef uint64_t end
    cdef int64_t next_offset
    cdef int result = DAMAGED
    shared.durable_version = mark.version if newest_mark(&table.table, DURABLE, &mark) else 0
    usable = usable and newest_mark(&table.table, LIVE if same_boot else DURABLE, &mark)
    allocate(table, mark.used if usable else 0)
    if usable and same_boot and undo_index and undo_index <= table.table.room:
        memcpy(slot_at(&table.table, undo_index - 1), &undo, CHECKED_BYTES)
    if usable and same_boot:
        table.undo_move()
    failpoint("deliveries.session_undone")
    shared.moving = 0
    memset(table.table.owners, 0, REGISTRY_SLOTS * 8)
    shared.undo_index = 0
    if usable:
        table.take_mark(&mark)
        shared.finished = mark.finished
        result = rebuild(&table.table)
    if result == NO_MEMORY:
        raise MemoryError()
    if result == DAMAGED:
        if table.began is None:
            table.began = "damaged"
        table.reset(table.floor_offset, table.floor_epoch)
    elif table.began is None:
        table.began = "kept" if same_boot else "rebooted"
    if not same_boot:
        # what was live under another boot is void, in both places
        table.write_mark(LIVE)
        table.write_mark(LIVE)
    table.log.published(&end, &next_offset)
    if shared.scanned > next_offset:
        # a log from somewhere else, shorter than ours was: what it appends from now on is new
        table.cut(next_offset, shared.epoch)
        table.write_mark(LIVE)
        rebuild(&table.table)
    end_all_leases(table, not same_boot)
    failpoint("deliveries.leases_ended")
    memcpy(shared.boot_id, <const char*> boot, 16)
    shared.token = max(largest_token(table), <uint64_t> clock_ns(CLOCK_REALTIME))
    shared.holder = shared.poisoned = shared.broken = 0
    shared.log_start = 0
    memset(&shared.lock, 0, sizeof(shared.lock))
    robust_mutex_init(&shared.lock)
    shared.session = table.registry.session
    return 0


cdef int allocate(DeliveryFile table, uint32_t used) except -1:
    """Map so many slots and some more; all of them have blocks on the disk, or a store would be a SIGBUS."""
    cdef int64_t there = os.fstat(table.fd).st_size // PAGE - FRONT_PAGES
    cdef int64_t pages = min(there, <int64_t> (used // SLOTS_PER_PAGE + FIRST_PAGES))
    cdef int error = failpoint_errno("deliveries.open_allocate")
    if not error:
        error = posix_fallocate(table.fd, 0, (FRONT_PAGES + pages) * PAGE)
    if error:
        raise clear_error(OSError(error, os.strerror(error)), table.path)
    table.table.shared.pages = <uint32_t> pages
    table.remap()
    return 0


cdef void end_all_leases(DeliveryFile table, bint ghosts) noexcept:
    """Nobody of an earlier session lives. After a reboot a ghost may be all that is left of a record."""
    cdef uint32_t i
    cdef delivery_slot_t* slot
    cdef int state
    for i in range(table.table.shared.used):
        slot = slot_at(&table.table, i)
        state = state_of(slot)
        if state == SLOT_LEASED:
            table.end_lease(i)
        elif state == SLOT_GHOST and ghosts:
            state = SLOT_DELAYED if slot.when else SLOT_READY
            set_state(&table.table, i, slot.when, 0, slot.meta & ~<uint32_t> STATE_MASK | state)
    if ghosts and table.table.shared.ghosts:
        rebuild(&table.table)


cdef uint64_t largest_token(DeliveryFile table) noexcept:
    cdef uint32_t i
    cdef uint64_t largest = table.table.shared.token
    for i in range(table.table.shared.used):
        largest = max(largest, slot_at(&table.table, i).token)
    return largest


# ---- read-only ----------------------------------------------------------------------------------------

cdef int open_copy(DeliveryFile table) except -1:
    """Look at a copy in memory of our own; one that somebody is changing just now may be off by a record."""
    cdef void* mapped
    cdef size_t size = (FRONT_PAGES + FIRST_PAGES) * PAGE
    cdef delivery_mark_t mark
    cdef int code = 0
    cdef bint found = False
    table.private = True
    try:
        directory = os.open(os.path.dirname(table.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        directory = -1
    if directory >= 0:
        try:
            found = open_file(table, directory, os.O_RDONLY)
        finally:
            os.close(directory)
    if found:
        size = os.fstat(table.fd).st_size // PAGE * PAGE
    mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if mapped is MAP_FAILED:
        raise MemoryError()
    take_front(table, mapped)
    table.table.slots = table.table.base + FRONT_PAGES * PAGE
    table.table.pages = <uint32_t> (size // PAGE - FRONT_PAGES)
    table.table.room = table.table.pages * SLOTS_PER_PAGE
    if found:
        code = read_all(table.fd, mapped, size, 0)
    if found and code == 0 and newest_mark(&table.table, LIVE, &mark):
        table.take_mark(&mark)
        table.began = "kept"
        if rebuild(&table.table) == 0:
            return 0
    table.began = "new" if not found else "damaged"
    table.reset(table.floor_offset, table.floor_epoch)
    return 0
