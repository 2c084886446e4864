# cython: language_level=3
"""A topic's control file: what the living processes share about its partitions, in mapped memory.

It is volatile: valid only for one session of the registry (as long as anybody lives). The first opener of a
session makes it anew under an flock of the topic's directory and leaves every partition UNRECOVERED, so that
nothing in it outlives the processes that wrote it. Whoever opens a topic that got more partitions adds their
slots at its end, where nobody looks before `header.partitions` says so. Invariant: `end` moves last, by one
release store.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from logcore.failpoints cimport failpoint
from logcore.format cimport MAX_PARTITIONS
from logcore.linux cimport (
    EOWNERDEAD, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, O_CLOEXEC, O_CREAT, O_EXCL,
    O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, PROT_READ, PROT_WRITE, close as close_file, file_bytes, mmap,
    munmap, mutex_lock_within, open as open_file, posix_fallocate, pthread_mutex_consistent,
    pthread_mutex_trylock, pthread_mutex_unlock, robust_mutex_init,
)
from logcore.processes cimport REGISTRY_SLOTS, Registry

import os
import secrets
from pathlib import Path

from logcore.errors import DiskFullError, FormatError
from logcore.whole_files import clear_error, locked_directory, place_file, remove_leftovers

CLEAN_MARKER = "clean"

cdef enum:
    CONTROL_VERSION = 2
    HEADER_BYTES = sizeof(control_header_t)
    SLOT_BYTES = sizeof(partition_slot_t)
    # the bitmap has room for as many partitions as a topic may ever get
    SLOTS_AT = (HEADER_BYTES + (MAX_PARTITIONS + 63) // 64 * 8 + SLOT_BYTES - 1) // SLOT_BYTES * SLOT_BYTES


cdef bytes boot_id():
    """The kernel's id of this boot, 16 bytes."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


def control_bytes(partitions: int) -> int:
    """Size of the control file of a topic."""
    return SLOTS_AT + partitions * SLOT_BYTES


cdef class ControlFile:
    """The mapped control file of one topic, made or made anew where it is not of this session.

    Read-only opening never makes one: where there is none of this session it takes memory of its own in its
    place, and replaced() tells when somebody has made one. Raises FormatError, DiskFullError, OSError.
    """

    def __cinit__(
        self, directory: str, registry: Registry, uuid: bytes, partitions: int, *, read_only: bool = False,
    ):
        self.seen_fd = -1
        assert HEADER_BYTES == 512 and SLOT_BYTES == 256 and len(uuid) == 16
        self.path = directory + "/control"
        self.registry = registry
        self.partitions = partitions
        self.read_only = read_only
        self.mapping_bytes = control_bytes(partitions)
        if read_only:
            self.look()
            if not self.map_current(uuid):
                self.map_private()
            return
        self.directory = directory
        try:
            with locked_directory(directory) as fd:
                if not self.map_current(uuid):
                    remove_leftovers(fd, "control.")
                    remove_leftovers(fd, f"{CLEAN_MARKER}.")
                    self.make_new(uuid, self.take_clean_marker(fd))
                    if not self.map_current(uuid):
                        raise FormatError(
                            f"{self.path} changed while it was made: is something else writing there?"
                        )
        finally:
            self.let_go_of_older()

    def __dealloc__(self):
        self.close()
        if self.seen_fd >= 0:
            close_file(self.seen_fd)

    cpdef int close(self) except -1:
        """Unmap. Nobody may hold a lock of it."""
        if self.header is not NULL:
            munmap(self.header, self.mapping_bytes)
            self.header = NULL
            self.slots = NULL
            self.dirty = NULL
        return 0

    cdef int look(self) except -1:
        """Note which file stands at our path, before anything is taken from it."""
        self.seen_fd = open_file(os.fsencode(self.path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        if self.seen_fd >= 0:
            stat = os.fstat(self.seen_fd)
            self.seen = (stat.st_dev, stat.st_ino)
        return 0

    cdef bint replaced(self) except -1:
        """Read-only: whether another file stands at our path by now, or none any more."""
        try:
            stat = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return self.seen is not None
        return self.seen != (stat.st_dev, stat.st_ino)

    cdef int map_private(self) except -1:
        """Take memory of our own: every partition is then surveyed privately."""
        cdef void* mapping = mmap(
            NULL, self.mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
        )
        self.private = True
        if mapping is MAP_FAILED:
            raise OSError(errno, f"cannot map: {os.strerror(errno)}", self.path)
        self.adopt(mapping)
        return 0

    cdef void adopt(self, void* mapping) noexcept:
        self.header = <control_header_t*> mapping
        self.slots = <partition_slot_t*> (<uint8_t*> mapping + SLOTS_AT)
        self.dirty = <uint64_t*> (<uint8_t*> mapping + HEADER_BYTES)

    cdef bint map_current(self, bytes uuid) except -1:
        """Map the file if it is of this session, with more slots where the topic got more partitions.

        Else keep it as `older` if of this boot, and say False.
        """
        cdef int fd = open_file(
            os.fsencode(self.path),
            (O_RDONLY if self.read_only else O_RDWR) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
        )
        cdef control_header_t* header
        if fd < 0:
            return False
        try:
            if file_bytes(fd) < SLOTS_AT:
                return False
            header = <control_header_t*> self.mapped(fd, HEADER_BYTES)
            try:
                if not self.belongs(header, os.fstat(fd), uuid):
                    return False
                if file_bytes(fd) < <int64_t> control_bytes(header.partitions):
                    return False
                if header.session != self.registry.session:
                    if self.older is NULL and not self.read_only:
                        self.older_partitions = header.partitions
                        self.older = self.mapped(fd, control_bytes(header.partitions))
                    return False
                if header.partitions < <uint32_t> self.partitions:
                    if not self.read_only:
                        self.grow(fd, header)
                    elif file_bytes(fd) < <int64_t> self.mapping_bytes:
                        return False
            finally:
                munmap(header, HEADER_BYTES)
            self.adopt(self.mapped(fd, self.mapping_bytes))
        finally:
            close_file(fd)
        return True

    cdef bint belongs(self, control_header_t* header, object stat, bytes uuid) except -1:
        """Whether it is this topic's, of this boot, and no copy."""
        cdef bytes boot = boot_id()
        return (
            memcmp(header.magic, b"pylogctl", 8) == 0
            and header.version == CONTROL_VERSION
            and 0 < header.partitions <= MAX_PARTITIONS
            and memcmp(header.uuid, <const char*> uuid, 16) == 0
            and header.device == <uint64_t> stat.st_dev
            and header.inode == <uint64_t> stat.st_ino
            and memcmp(header.boot_id, <const char*> boot, 16) == 0
        )

    cdef void* mapped(self, int fd, size_t size) except NULL:
        cdef int protection = PROT_READ if self.read_only else PROT_READ | PROT_WRITE
        cdef void* mapping = mmap(NULL, size, protection, MAP_SHARED, fd, 0)
        if mapping is MAP_FAILED:
            raise OSError(errno, f"cannot map: {os.strerror(errno)}", self.path)
        return mapping

    cdef int reserve(self, int partitions) except -1:
        """Make room for the slots of more partitions, so that a full disk is told before anything changed."""
        cdef int error
        cdef int fd = open_file(os.fsencode(self.path), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        if fd < 0:
            raise OSError(errno, os.strerror(errno), self.path)
        try:
            error = posix_fallocate(fd, 0, control_bytes(partitions))
        finally:
            close_file(fd)
        if error:
            raise DiskFullError(f"no space for {self.path}: {os.strerror(error)}", error)
        failpoint("grow.reserved")
        return 0

    cdef int grow(self, int fd, control_header_t* header) except -1:
        """Add the slots that are missing, then say so: who dies in between is followed by the next opener."""
        cdef int known = header.partitions
        cdef void* mapping
        self.reserve(self.partitions)
        mapping = self.mapped(fd, self.mapping_bytes)
        init_slots(
            <partition_slot_t*> (<uint8_t*> mapping + SLOTS_AT) + known, self.partitions - known, NULL, 0,
            False,
        )
        munmap(mapping, self.mapping_bytes)
        failpoint("grow.slots")
        # who follows finds that it has to do this first, under our lock
        atomic_add(&header.config_generation, 1)
        failpoint("grow.told")
        atomic_store32(&header.partitions, self.partitions)
        self.registry.ring_all()
        return 0

    cdef void let_go_of_older(self) noexcept:
        if self.older is not NULL:
            munmap(self.older, SLOTS_AT + self.older_partitions * SLOT_BYTES)
            self.older = NULL

    def take_clean_marker(self, directory: int) -> bool:
        """True where the last writer left all on disk; the marker is gone, durably, before we go on."""
        try:
            os.unlink(CLEAN_MARKER, dir_fd=directory)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise clear_error(error, f"{self.directory}/{CLEAN_MARKER}") from None
        os.fsync(directory)
        return True

    def close_clean(self, mark_ends: object) -> None:
        """If nobody else lives, leave the marker that all is on disk and make the file void.

        Whoever opens the topic next, in this session or a later one, then makes a new control file. Without
        the marker an opener on another boot must think that records which somebody has read are gone, and
        goes on under a new epoch.
        """
        with locked_directory(self.directory) as fd:
            if len(self.registry.members()) > 1 or self.header.session != self.registry.session:
                return
            if self.header.partitions != <uint32_t> self.partitions:
                return                       # of those that came later nothing is known here
            mark_ends()
            if not all(self.left_clean(i) for i in range(self.partitions)):
                return
            self.header.session = 0
            place_file(fd, CLEAN_MARKER, b"", f"{self.directory}/{CLEAN_MARKER}")

    def left_clean(self, partition: int) -> bool:
        """Whether everything of a partition is on disk, and nothing of it can have been lost on this boot."""
        cdef partition_slot_t* slot = &self.slots[partition]
        if slot.state == PARTITION_UNRECOVERED:
            return slot.same_boot or not os.path.exists(f"{self.directory}/{partition}")
        return slot.state == PARTITION_READY

    cdef int make_new(self, bytes uuid, bint clean) except -1:
        """Write a fresh control file under a temporary name and rename it into place."""
        cdef bytes name = os.fsencode(self.path)
        cdef bytes temporary = os.fsencode(f"{self.directory}/.control.{secrets.token_hex(8)}.tmp")
        cdef int fd = open_file(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        cdef void* mapping = MAP_FAILED
        cdef control_header_t* header
        cdef bytes boot = boot_id()
        cdef int error
        if fd < 0:
            raise OSError(errno, os.strerror(errno), os.fsdecode(temporary))
        try:
            stat = os.fstat(fd)
            error = posix_fallocate(fd, 0, self.mapping_bytes)   # a store into a hole would be a SIGBUS
            if error:
                raise DiskFullError(f"no space for {self.path}: {os.strerror(error)}", error)
            mapping = mmap(NULL, self.mapping_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
            if mapping is MAP_FAILED:
                raise OSError(errno, f"cannot map: {os.strerror(errno)}", self.path)
            header = <control_header_t*> mapping
            memcpy(header.magic, b"pylogctl", 8)
            header.version = CONTROL_VERSION
            header.partitions = self.partitions
            header.session = self.registry.session
            memcpy(header.uuid, <const char*> uuid, 16)
            memcpy(header.boot_id, <const char*> boot, 16)
            header.device = stat.st_dev
            header.inode = stat.st_ino
            init_slots(
                <partition_slot_t*> (<uint8_t*> mapping + SLOTS_AT), self.partitions,
                NULL if self.older is NULL else <partition_slot_t*> (<uint8_t*> self.older + SLOTS_AT),
                self.older_partitions, clean,
            )
            failpoint("control.made")
            try:
                os.rename(temporary, name)
            except OSError as failure:
                raise clear_error(failure, self.path) from None
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            if mapping is not MAP_FAILED:
                munmap(mapping, self.mapping_bytes)
            close_file(fd)
        return 0

    # ---- the append lock ------------------------------------------------------------------------------

    cdef int try_lock(self, int partition) noexcept nogil:
        cdef partition_slot_t* slot = &self.slots[partition]
        cdef int error = pthread_mutex_trylock(&slot.append_lock)
        if error == 0 or error == EOWNERDEAD:
            slot.holder = self.registry.slot + 1
        return error

    cdef int lock(self, int partition, int64_t timeout_ns) noexcept nogil:
        cdef partition_slot_t* slot = &self.slots[partition]
        cdef int error = mutex_lock_within(&slot.append_lock, timeout_ns)
        if error == 0 or error == EOWNERDEAD:
            slot.holder = self.registry.slot + 1
        return error

    cdef void lock_mended(self, int partition) noexcept nogil:
        pthread_mutex_consistent(&self.slots[partition].append_lock)

    cdef void unlock(self, int partition) noexcept nogil:
        self.slots[partition].holder = 0
        pthread_mutex_unlock(&self.slots[partition].append_lock)

    # ---- waking ---------------------------------------------------------------------------------------

    cdef void mark_waiting(self) noexcept nogil:
        """Say that our registry slot sleeps on this topic. Look at the ends again before sleeping."""
        cdef int slot = self.registry.slot
        if slot < 0:
            return
        atomic_or(&self.header.waiters[slot >> 6], <uint64_t> 1 << (slot & 63))
        atomic_store32(&self.header.waiting, 1)
        full_fence()

    cdef void ring(self) noexcept nogil:
        """Wake whoever marked itself since the last ring."""
        cdef int i, bit
        cdef uint64_t word
        full_fence()
        if atomic_load32(&self.header.waiting) == 0:
            return
        atomic_exchange32(&self.header.waiting, 0)
        for i in range(REGISTRY_SLOTS // 64):
            if atomic_load64(&self.header.waiters[i]) == 0:
                continue
            word = atomic_exchange64(&self.header.waiters[i], 0)
            for bit in range(64):
                if word >> bit & 1:
                    self.registry.ring(i * 64 + bit)

    cdef void ends(self, int partition, uint64_t* end, int64_t* next_offset) noexcept nogil:
        """A pair (end, log_end_offset) that belongs together, without the lock.

        `writing_next_offset` belongs to `end` once `writing_end` equals it; the order of the loads pairs with
        the order of the stores in the append section (ARCHITECTURE.md, "Publishing").
        """
        cdef partition_slot_t* slot = &self.slots[partition]
        cdef uint64_t seen, staged
        cdef int64_t staged_next, next_offset_now
        while True:
            seen = atomic_load64(&slot.end)
            staged_next = atomic_loadi64(&slot.writing_next_offset)
            staged = atomic_load64(&slot.writing_end)
            next_offset_now = atomic_loadi64(&slot.next_offset)
            if atomic_load64(&slot.end) == seen:
                end[0] = seen
                next_offset[0] = staged_next if staged == seen else next_offset_now
                return


cdef void init_slots(
    partition_slot_t* slots, int partitions, partition_slot_t* older_slots, int older_partitions, bint clean
) noexcept:
    """Fresh locks, everything to be recovered. On the same boot the page cache still holds all that was
    written, so the ends published before say which bytes were never acknowledged; nothing else is taken over.

    But a partition whose sync failed stays as it was until recover(): the page cache shows bytes that the
    disk never got, and a further sync would call them safe.
    """
    cdef int i
    cdef partition_slot_t* older
    for i in range(partitions):
        older = &older_slots[i] if older_slots is not NULL and i < older_partitions else NULL
        if older is not NULL and older.state == PARTITION_POISONED:
            slots[i] = older[0]
            slots[i].rolls = (older.rolls | 1) + 1
            slots[i].holder = slots[i].sync_waiters = 0
        memset(&slots[i].append_lock, 0, sizeof(pthread_mutex_t))
        memset(&slots[i].sync_lock, 0, sizeof(pthread_mutex_t))
        robust_mutex_init(&slots[i].append_lock)
        robust_mutex_init(&slots[i].sync_lock)
        if slots[i].state == PARTITION_POISONED:
            continue
        slots[i].state = PARTITION_UNRECOVERED
        slots[i].sealed_base_offset = -1
        slots[i].same_boot = clean
        if older is not NULL:
            slots[i].same_boot |= older.same_boot       # else what a power cut took was not looked for yet
            slots[i].recovered = older.recovered
            slots[i].end = older.end
            slots[i].writing_end = older.writing_end
            slots[i].active_epoch = older.active_epoch
            slots[i].active_salt = older.active_salt
            slots[i].next_offset = older.next_offset
            slots[i].writing_next_offset = older.writing_next_offset
