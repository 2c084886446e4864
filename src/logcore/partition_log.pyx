# cython: language_level=3
"""The ordered segments of one partition: append, sync, and the states in which it refuses.

The append section holds the partition's robust lock and makes no Python call: stage the new end, write,
publish the end by one release store. A batch below PWRITE_FROM is copied into the mapping, a larger one and
one that is synced at once go by pwrite (faults cost more than the call: a first touch, or the first after a
sync), and all of them where the file system copies on write, since only a call can say that the disk is full.
Invariant: what `end` covers is whole, and an errno on the way leaves `end` and everything below it as they
were.
"""

from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from logcore.batch_header cimport max_timestamp_of, next_offset_of, seal_batch_header
from logcore.control cimport (
    PARTITION_DELETED, PARTITION_POISONED, PARTITION_READY, PARTITION_UNRECOVERED, atomic_load32,
    atomic_load64, atomic_loadi64, atomic_replace, atomic_store64, atomic_storei64,
    full_fence, partition_slot_t, program_order,
)
from logcore.failpoints cimport failpoint, failpoint_errno, planted
from logcore.format cimport *
from logcore.hashing cimport xxh3
from logcore.linux cimport (
    CLOCK_BOOTTIME, CLOCK_REALTIME, EAGAIN, EBUSY, EDQUOT, EFBIG, EINTR, ENOSPC, EOWNERDEAD, ETIMEDOUT,
    MAP_FAILED, MAP_SHARED, O_CLOEXEC, O_NOFOLLOW, O_RDWR, PROT_READ, PROT_WRITE, clock_ns, close,
    fallocate, mmap, munmap, openat, write_all,
)
from logcore.registry_slots cimport FUTEX_TID_MASK, mutex_word
from logcore.segment cimport LARGEST_STEP, NAME_BYTES, segment_name
from logcore.sync cimport SEALED_ONLY, is_noted, note_unsynced, sync_partition

import os
from weakref import ref

from logcore.errors import (
    ClosedError, DiskFullError, DurabilityError, LockTimeoutError, PylogError, ReadOnlyError,
    RecordTooLargeError,
)

cdef extern from *:
    """
    #include <linux/magic.h>
    #include <sys/statfs.h>

    #define PYLOG_ZFS 0x2fc12fc1
    #define PYLOG_BCACHEFS 0xca451a4e

    static int stores_need_space(int fd) {
        struct statfs found;
        if (fstatfs(fd, &found) != 0) return 0;
        switch ((unsigned int) found.f_type) {
            case BTRFS_SUPER_MAGIC: case PYLOG_ZFS: case PYLOG_BCACHEFS: return 1;
            default: return 0;
        }
    }
    """
    bint stores_need_space(int fd) nogil     # copied on write: a store into a full disk is a SIGBUS

cdef enum:
    PWRITE_FROM = 32 << 10       # below, large folios made ahead are stored into twice as fast
    PAGES_BITS = 18              # of the blocks of pages that write() makes at once for small batches
    PAGE = 4 << 10
    MOST_WRITTEN_TWICE = 32 << 10  # bytes of a synced batch whose space is written before
    ROLL_AT_OFFSETS = 0x7FFFFFFF  # offsets of a segment, so that they and one more batch of them fit u32
    LOOK_AGAIN_NS = 50_000_000   # how often end_appends() looks who holds the append lock
    LATE_SYNCS = 20              # intervals that the oldest unsynced byte waits before an append syncs itself


cdef uint8_t zeros[1 << PAGES_BITS]
cdef list open_writers = []      # weak references to the PartitionLogs that hold a file, first opened first


cdef int keep_writers(int most) except -1:
    """Close the writers that were opened first, so that 10,000 partitions need no 10,000 files."""
    while len(open_writers) > most and close_oldest_writer():
        pass
    return 0


cdef bint close_oldest_writer() except -1:
    """False where all are in use just now."""
    cdef PartitionLog oldest
    cdef int i, error
    for i in range(len(open_writers)):
        oldest = <PartitionLog> open_writers[i]()
        if oldest is None:                           # going away just now, with its topic
            continue
        if oldest.control.header is NULL:            # its topic was closed
            del open_writers[i]
            return True
        error = oldest.control.try_lock(oldest.partition)
        if error == EBUSY:                           # in use just now: take the next
            continue
        if error == EOWNERDEAD:
            atomic_replace(&oldest.slot.state, PARTITION_READY, PARTITION_UNRECOVERED)
            oldest.control.lock_mended(oldest.partition)
        oldest.close_writer()
        oldest.control.unlock(oldest.partition)
        del open_writers[i]
        if is_noted(oldest.sync, oldest.partition) and oldest.sync.interval_ns:
            # else nobody would see an error of its writeback. One now is not our caller's: it poisons the
            # partition, which tells its own; and where somebody else is syncing it, that one sees it
            with nogil:
                sync_partition(oldest.sync, oldest.partition, atomic_load64(&oldest.slot.end), 0)
        return True
    return False


cdef int allocate_file(int fd, uint64_t start, uint64_t size) noexcept nogil:
    """Room for a file's bytes, on disk and not only in its size; 0 or an errno."""
    while fallocate(fd, 0, start, size) != 0:
        if errno != EINTR:
            return errno
    return 0


def process_of_thread(int thread) -> int:
    """The process that a kernel thread id belongs to, -1 where it has gone."""
    try:
        with open(f"/proc/{thread}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
    except (OSError, StopIteration):
        return -1


def raise_os_error(int code, str path):
    """Raise what a user shall see for the errno of a call on `path`."""
    if code in (ENOSPC, EDQUOT, EFBIG):
        raise DiskFullError(f"no room to write {path}: {os.strerror(code)}; nothing was appended", code)
    raise OSError(code, os.strerror(code), path)


cdef class Guard:
    """A condition under which an append happens; see key_index.pyx."""

    cdef int look(self) except -1:
        return 0

    cdef bint holds(self, PartitionLog log) except -1:
        return True


cdef class PartitionLog:
    """One partition of an opened topic. Made by TopicLog, which owns `sync` and outlives it."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        self.close_writer()
        free(self.private_slot)

    # ---- the append lock ------------------------------------------------------------------------------

    cdef int take_lock(self) except -1:
        """Take the append lock of a partition ready for an append, mending and recovering on the way."""
        cdef int error = self.control.try_lock(self.partition)
        if error == EBUSY:
            with nogil:
                error = self.control.lock(self.partition, self.lock_timeout_ns)
        if error == EOWNERDEAD:
            # its owner died inside: what it left is told by the files, so recover from them
            if not planted("owner_death_ignored"):
                atomic_replace(&self.slot.state, PARTITION_READY, PARTITION_UNRECOVERED)
            failpoint("lock.owner_dead")
            self.control.lock_mended(self.partition)
        elif error == 0:
            if (
                atomic_load32(&self.slot.state) == PARTITION_READY and not self.control.header.deleted
                and self.rolls_seen == self.slot.rolls and self.map is not NULL and self.closed_by == 0
            ):
                return 0
        elif error == ETIMEDOUT:
            if not planted("living_lock_broken"):
                self.raise_lock_timeout()
        else:
            raise OSError(error, os.strerror(error), self.directory)
        try:
            if self.closed_by not in (0, PyThread_get_thread_ident()):
                raise ClosedError(f"topic {self.topic!r} was closed")
            self.check_state()
            if self.rolls_seen != self.slot.rolls or self.map is NULL:
                self.open_writer()
        except BaseException:
            self.control.unlock(self.partition)
            raise
        return 0

    def raise_lock_timeout(self):
        cdef int holder = self.slot.holder - 1
        pid = self.control.registry.slots[holder].pid if holder >= 0 else -1
        raise LockTimeoutError(
            f"process {pid} has held the append lock of {self.topic}-{self.partition} for "
            f"{self.lock_timeout_ns / 1e9:g} s: it is stopped or very slow; a living process's lock is "
            f"never broken",
            pid=pid,
        )

    def raise_sync_timeout(self):
        pid = process_of_thread(mutex_word(&self.slot.sync_lock)[0] & FUTEX_TID_MASK)
        raise LockTimeoutError(
            f"process {pid} has been syncing {self.topic}-{self.partition} for "
            f"{self.lock_timeout_ns / 1e9:g} s: it is stopped, or the disk is very slow. What was appended "
            f"is published, and not certain to be on disk",
            pid=pid,
        )

    cdef int check_state(self) except -1:
        """Raise where nothing may be appended; recover where nobody has. The append lock is held."""
        cdef uint32_t state
        if self.control.header.deleted or self.slot.state == PARTITION_DELETED:
            raise ClosedError(f"topic {self.topic!r} was deleted")
        if self.slot.state == PARTITION_UNRECOVERED:
            from logcore.recovery import recover_partition
            recover_partition(self)
        state = atomic_load32(&self.slot.state)
        if state == PARTITION_POISONED:
            raise DurabilityError(
                f"a sync of {self.topic}-{self.partition} failed: nothing above offset "
                f"{self.slot.synced_offset} is "
                f"certain to be on disk; engine.recover({self.topic!r}, {self.partition}) cuts it there "
                f"and goes on"
            )
        return 0

    cdef int ensure_ready(self) except -1:
        if atomic_load32(&self.slot.state) != PARTITION_UNRECOVERED or self.control.header.deleted:
            return 0
        if self.read_only:
            from logcore.recovery import survey_partition
            survey_partition(self)
            return 0
        try:
            self.take_lock()
        except (DurabilityError, ClosedError):
            return 0
        self.control.unlock(self.partition)
        return 0

    # ---- the writer -----------------------------------------------------------------------------------

    cdef int open_writer(self) except -1:
        """Open and map the active segment. The append lock is held."""
        cdef char name[NAME_BYTES]
        cdef int fd
        cdef void* mapping
        if self.map is NULL:
            keep_writers(MOST_WRITERS - 1)
            if ref(self) not in open_writers:
                # weak, since nothing may be asked of a log whose topic is gone, be it without a close()
                open_writers.append(ref(self, open_writers.remove))
        self.close_writer()
        segment_name(name, self.partition, self.slot.active_base_offset, self.slot.active_named_epoch)
        path = f"{self.directory}/{os.path.basename(os.fsdecode(name))}"
        fd = openat(self.sync.directory_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        if fd < 0:
            raise OSError(errno, os.strerror(errno), path)
        mapping = mmap(NULL, self.segment_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if mapping is MAP_FAILED:
            error = errno
            close(fd)
            raise OSError(error, f"cannot map: {os.strerror(error)}", path)
        self.fd = fd
        self.pwrite_from = 0 if stores_need_space(fd) else PWRITE_FROM
        self.map = <uint8_t*> mapping
        self.map_bytes = self.segment_bytes
        self.rolls_seen = self.slot.rolls
        return 0

    cdef void close_writer(self) noexcept nogil:
        if self.map is not NULL:
            munmap(self.map, self.map_bytes)
            self.map = NULL
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    cdef int end_appends(self) except -1:
        """From now on only this thread appends. On return no other thread of this process is inside of an
        append, and what they published is known to be unsynced.
        """
        cdef int error = ETIMEDOUT
        self.closed_by = PyThread_get_thread_ident()
        while error == ETIMEDOUT:
            with nogil:
                error = self.control.lock(self.partition, LOOK_AGAIN_NS)
            if error == ETIMEDOUT:
                holder = mutex_word(&self.slot.append_lock)[0] & FUTEX_TID_MASK
                if not os.path.exists(f"/proc/self/task/{holder}"):
                    return 0                         # it is another process, which may be stopped
        if error == EOWNERDEAD:
            atomic_replace(&self.slot.state, PARTITION_READY, PARTITION_UNRECOVERED)
            self.control.lock_mended(self.partition)
        elif error:
            return 0
        if atomic_load32(&self.slot.state) == PARTITION_READY and (
            self.slot.end != atomic_load64(&self.slot.synced_end)
        ):
            note_unsynced(self.sync, self.partition)
        self.control.unlock(self.partition)
        return 0

    cdef int drop_writer(self) except -1:
        """Close the writer for good, after end_appends()."""
        self.closed_by = NOBODY
        self.close_writer()
        if ref(self) in open_writers:
            open_writers.remove(ref(self))
        return 0

    cdef int make_room(self, uint32_t length) noexcept nogil:
        """Have room for a batch behind the end, and for a footer behind that: 0, NEEDS_ROLL or an errno.

        The append lock is held.
        """
        cdef partition_slot_t* slot = self.slot
        cdef uint64_t behind = slot.end - slot.active_base_byte_pos + SEGMENT_DATA_START + length
        cdef uint32_t producers
        # this batch may be of a producer that the table does not have yet
        producers = min(slot.producers + 1, most_producers(self.segment_bytes))
        behind += FOOTER_PRODUCERS + <uint64_t> producers * PRODUCER_ENTRY_BYTES
        if behind > self.segment_bytes or slot.next_offset - slot.active_base_offset > ROLL_AT_OFFSETS:
            return NEEDS_ROLL
        return self.allocate(behind) if behind > slot.active_allocated else 0

    cdef int allocate(self, uint64_t bytes_needed) noexcept nogil:
        """Make the active file at least so long, in doubling steps; 0 or an errno."""
        cdef uint64_t have = self.slot.active_allocated
        cdef uint64_t step = have
        cdef int error
        if step > LARGEST_STEP:
            step = LARGEST_STEP
        if have + step < bytes_needed:
            step = bytes_needed - have
        if have + step > self.segment_bytes:
            step = self.segment_bytes - have
        error = failpoint_errno("append.fallocate")
        if error:
            return error
        error = allocate_file(self.fd, have, step)
        if error == ENOSPC:                # a small disk may have room for just this batch
            step = bytes_needed - have
            error = allocate_file(self.fd, have, step)
        if error:
            return error
        self.slot.active_allocated = have + step
        return 0

    cdef void make_pages(self, uint64_t block) noexcept nogil:
        """Write zeros where zeros stand: one large folio costs a third of a fault for each page of it.

        `block` begins behind the tail. Not where each append is synced, which would then write all of it; and
        no error matters, since what is stored through the mapping is the same.
        """
        cdef uint64_t start = block << PAGES_BITS
        cdef uint64_t size = min(<uint64_t> 1 << PAGES_BITS, self.slot.active_allocated - start)
        if self.slot.end - atomic_load64(&self.slot.synced_end) >= <uint64_t> 1 << PAGES_BITS:
            write_all(self.fd, zeros, size, start)

    cdef void make_written(self, uint64_t tail, uint64_t stop) noexcept nogil:
        """Write zeros where zeros stand, behind the tail: a sync of bytes in space that was written before
        need not wait for the file system's journal, and so for what others of the machine write.

        Page by page, since a sync may write whole folios. No error matters: it is slower without.
        """
        cdef uint64_t at = (tail + PAGE - 1) // PAGE * PAGE
        stop = min(stop, self.slot.active_allocated)
        while at < stop and write_all(self.fd, zeros, min(<uint64_t> PAGE, stop - at), at) == 0:
            at += PAGE

    cdef int write(
        self, uint8_t* batch, uint32_t length, bint synced, int64_t* base_offset, uint64_t* end
    ) noexcept nogil:
        """The append section: 0 and the lock released, or NEEDS_ROLL or an errno and the lock still held."""
        cdef partition_slot_t* slot = self.slot
        cdef uint64_t position = slot.end - slot.active_base_byte_pos + SEGMENT_DATA_START
        cdef uint64_t behind_batch = position + length
        cdef uint8_t* place
        cdef int64_t newest
        cdef bint by_pwrite = synced or length >= self.pwrite_from
        cdef uint64_t allocated = slot.active_allocated
        cdef uint64_t block = (behind_batch - 1) >> PAGES_BITS
        cdef bint entered = block != (position - 1) >> PAGES_BITS
        cdef int error = self.make_room(length)
        if error:
            return error
        if synced and length <= MOST_WRITTEN_TWICE and self.pwrite_from:
            if entered or allocated != slot.active_allocated or position == SEGMENT_DATA_START:
                self.make_written(position, (block + 1) << PAGES_BITS)
        elif entered and not by_pwrite:
            self.make_pages(block)
        failpoint("append.locked")
        base_offset[0] = slot.next_offset
        seal_batch_header(
            batch, slot.next_offset, slot.active_epoch, atomic_loadi64(&slot.synced_offset), slot.active_salt,
            position
        )
        if planted("publish_before_write"):
            atomic_store64(&slot.end, slot.end + length)
        atomic_store64(&slot.writing_end, slot.active_base_byte_pos + position - SEGMENT_DATA_START + length)
        failpoint("append.staged_end")
        atomic_storei64(&slot.writing_next_offset, next_offset_of(batch))
        failpoint("append.staged")
        program_order()
        if by_pwrite:
            error = write_all(self.fd, batch, length, position)
            if error:
                # what is staged stays: nobody believes it before `end` gets there
                write_all(self.fd, zeros, 8, position)
                return error
        else:
            place = self.map + position
            memcpy(place + 8, batch + 8, length - 8)
            failpoint("append.body")
            # magic and length last: until then nothing stands here
            atomic_store64(<uint64_t*> place, load64(batch))
        failpoint("append.written")
        newest = max_timestamp_of(batch)
        if newest > slot.max_timestamp and load32(batch + BH_RECORD_COUNT):
            slot.max_timestamp = newest
        end[0] = slot.writing_end
        if load32(batch + BH_ATTRIBUTES) & ATTR_BLOCK_PRODUCER:
            slot.producers += slot.producers < <uint32_t> MAX_PRODUCERS_PER_PARTITION
        atomic_store64(&slot.end, slot.writing_end)              # published
        failpoint("append.published")
        atomic_storei64(&slot.next_offset, slot.writing_next_offset)
        failpoint("append.next_offset")
        self.control.unlock(self.partition)
        failpoint("append.unlocked")
        full_fence()                                      # pairs with mark_waiting() and with the sync leader
        if not is_noted(self.sync, self.partition):
            note_unsynced(self.sync, self.partition)
            if self.service is not None and self.sync.interval_ns:
                self.service.wake_within(self.sync.interval_ns)
        if atomic_load32(&self.control.header.waiting):
            self.control.ring()
        return 0

    cdef int append(
        self, uint8_t* batch, uint32_t length, bint synced, int64_t* base_offset, uint64_t* end, Guard guard
    ) except -1:
        """Append one encoded batch; `base_offset` and `end` (byte_pos behind it) are then its place.

        Raises what the `guard` raises where that is given and does not hold. The caller's buffer gets its
        header completed. Visible on return; `synced` says that the caller syncs it at once: this does not.
        """
        if self.read_only:
            raise ReadOnlyError("the engine was opened with read_only=True")
        # a reader allocates no more than segment_bytes for the body of a compressed batch
        cdef uint64_t size = max(length, load32(batch + BH_RAW_BODY_BYTES))
        if size > largest_batch(self.segment_bytes):
            raise RecordTooLargeError(
                f"a batch of {length} bytes does not fit a segment of {self.segment_bytes} (segment_bytes)",
                size=length, limit=largest_batch(self.segment_bytes),
            )
        self.hold_back()
        self.append_locked(batch, length, synced, base_offset, end, guard)
        self.appended_batches += 1
        self.appended_records += load32(batch + BH_RECORD_COUNT)
        self.appended_bytes += length
        if self.unsaved_index is not None:
            self.save_index()
        return 0

    cdef int append_locked(
        self, uint8_t* batch, uint32_t length, bint synced, int64_t* base_offset, uint64_t* end, Guard guard
    ) except -1:
        cdef int result
        if guard is not None:
            guard.look()
        while True:
            self.take_lock()
            if guard is not None and not self.guard_holds(guard):
                guard.look()
                continue
            if length >= self.pwrite_from:
                with nogil:
                    result = self.write(batch, length, synced, base_offset, end)
            else:
                result = self.write(batch, length, synced, base_offset, end)
            if result == 0:
                return 0
            if result == NEEDS_ROLL and self.slot.sealed_base_offset < 0:
                try:
                    from logcore.rolling import roll     # rolling.pyx and recovery.pyx stand above us
                    roll(self)
                    self.open_writer()   # unmaps what is sealed: syncing mapped pages interrupts us for each
                finally:
                    self.control.unlock(self.partition)
                if self.service is not None:
                    self.service.nudge()           # so that the seal is on disk before the next roll needs it
                continue
            self.control.unlock(self.partition)
            if result != NEEDS_ROLL:
                raise_os_error(result, self.directory)
            self.sync_to(SEALED_ONLY)          # two segments may not be unsynced at once

    cdef bint guard_holds(self, Guard guard) except -1:
        """Whether the guard holds; where it does not the append lock is let go of."""
        cdef bint held = False
        try:
            held = guard.holds(self)
        finally:
            if not held:
                self.control.unlock(self.partition)
        return held

    cdef int hold_back(self) except -1:
        """Wait for a sync where too much, or something too old, is not on disk yet ("interval")."""
        cdef partition_slot_t* slot = self.slot
        cdef int64_t since
        if self.max_unsynced_bytes == 0:
            return 0
        since = atomic_loadi64(&slot.first_unsynced_at)
        if since == 0 or atomic_load32(&slot.state) != PARTITION_READY:
            return 0
        if atomic_load64(&slot.end) - atomic_load64(&slot.synced_end) > self.max_unsynced_bytes or (
            clock_ns(CLOCK_BOOTTIME) - since > LATE_SYNCS * self.sync.interval_ns
        ):
            self.sync_to(atomic_load64(&slot.end))
        return 0

    cdef int sync_to(self, uint64_t end) except -1:
        """Return once byte_pos `end`, or what is sealed, is on disk. Raises DurabilityError: poisoned."""
        cdef int error
        if planted("ack_before_sync"):
            return 0
        while True:
            if atomic_load32(&self.slot.state) == PARTITION_UNRECOVERED:
                self.ensure_ready()
            with nogil:
                error = sync_partition(self.sync, self.partition, end, self.lock_timeout_ns)
            if error == 0:
                # others appended meanwhile, and the service may just have looked when it was clean
                if self.sync.interval_ns and self.service is not None and (
                    is_noted(self.sync, self.partition)
                ):
                    self.service.wake_within(self.sync.interval_ns)
                return 0
            if error < 0:                          # nothing was tried: the same call may work later
                raise OSError(-error, f"cannot sync: {os.strerror(-error)}", self.directory)
            if error == ETIMEDOUT:
                self.raise_sync_timeout()
            if error != EAGAIN:
                raise DurabilityError(
                    f"cannot sync {self.topic}-{self.partition}: {os.strerror(error)}; it takes no appends "
                    f"until engine.recover({self.topic!r}, {self.partition})"
                )
            self.take_lock()                       # mends what a dead roller left
            self.control.unlock(self.partition)

    cdef int sync_appended(self, uint32_t epoch, uint64_t end) except -1:
        """sync_to() for what was appended in `epoch`. Raises DurabilityError also where it was cut since."""
        self.sync_to(end)
        if atomic_load32(&self.slot.active_epoch) != epoch:
            raise DurabilityError(
                f"{self.topic}-{self.partition} was cut after a failed sync before this append was on disk"
            )
        return 0

    def append_mark(self) -> None:
        """State the synced offset in a header-only batch: damage below it is never taken for a torn tail."""
        cdef uint8_t mark[BATCH_HEADER_BYTES]
        cdef int64_t offset
        cdef uint64_t end
        memset(mark, 0, BATCH_HEADER_BYTES)
        store32(mark + BH_MAGIC, BATCH_MAGIC)
        store32(mark + BH_TOTAL_LENGTH, BATCH_HEADER_BYTES)
        store32(mark + BH_ATTRIBUTES, <uint32_t> ATTR_MARK)
        storei64(mark + BH_BASE_TIMESTAMP, clock_ns(CLOCK_REALTIME))
        store64(mark + BH_BODY_CHECKSUM, xxh3(mark, 0))
        self.append_locked(mark, BATCH_HEADER_BYTES, True, &offset, &end, None)
        self.sync_to(end)

    # ---- the index of what was sealed -----------------------------------------------------------------

    def save_index(self):
        """Write the .index of the segment just sealed; it is a cache, so no error of it is ours."""
        from logcore.segment import Segment
        path, named_epoch, position = self.unsaved_index
        self.unsaved_index = None
        try:
            Segment(path, named_epoch).save_index(position)
        except (OSError, PylogError):
            pass

    # ---- what readers ask -----------------------------------------------------------------------------

    cdef void published(self, uint64_t* end, int64_t* next_offset) noexcept nogil:
        if self.private_slot is not NULL and self.slot is self.private_slot:
            end[0] = self.slot.end
            next_offset[0] = self.slot.next_offset
        else:
            self.control.ends(self.partition, end, next_offset)

    cdef void synced(self, uint64_t* end, int64_t* next_offset) noexcept nogil:
        """A pair (synced byte_pos, synced offset): the leader states the offset first, so read it last."""
        cdef uint64_t before
        while True:
            before = atomic_load64(&self.slot.synced_end)
            next_offset[0] = atomic_loadi64(&self.slot.synced_offset)
            if atomic_load64(&self.slot.synced_end) == before:
                end[0] = before
                return
