# cython: language_level=3
"""OffsetTable: the committed offsets of one consumer group for one topic, mapped and shared by all processes.

Not the coordinator: who may commit is decided there and checked here by one number, the generation. A commit
writes two checked copies one after the other, the older one first. Invariant: at every instant, for a killed
writer as for a reader who takes no lock, one of the two copies of a partition is whole.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

cimport cython

from logcore.failpoints cimport failpoint, planted
from logcore.format cimport MAX_PARTITIONS
from logcore.hashing cimport xxh3
from logcore.linux cimport (
    EBUSY, EIO, EOWNERDEAD, ETIMEDOUT, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, close,
    fdatasync, mmap, munmap, mutex_lock_within, pthread_mutex_consistent, pthread_mutex_trylock,
    pthread_mutex_unlock, robust_mutex_init, write_all,
)
from logcore.offset_copies cimport (
    COPY_BYTES, COPY_EMPTY, COPY_WHOLE, OFFSETS_BLOCK_PARTITIONS, copy_position, metadata_position,
    offset_copy_t, read_copy, write_copy,
)
from logcore.processes cimport Registry, fork_count

import os

from logcore.errors import (
    ClosedError, ConfigError, CorruptionError, DurabilityError, FencedError, LockTimeoutError, ReadOnlyError,
)
from logcore.offsets_file import (
    HEADER_PLACES, blocks_for, check_metadata, empty_table, encode_header, file_bytes, metadata_path,
    read_header,
)
from logcore.whole_files import (
    LOCK_SECONDS, clear_error, locked_directory, make_directory, open_plain, place_file, remove_leftovers,
)

cdef enum:
    SHARED_PAGE = 4096           # file position of offsets_shared_t
    READ_TRIES = 1000
    METADATA_TRIES = 50
    NEITHER = -1


@cython.final
cdef class OffsetTable:
    """Committed offsets of a group for a topic: what its consumers read next after a restart.

    Args:
        path: of the file, `groups/<group>/<topic>.offsets`; made where it is not there. Commit metadata goes
            to `<topic>.metadata` beside it.
        topic_uuid: 16 bytes. Offsets of a topic of that name with another uuid are void and replaced.
        partitions: of the topic; the file grows where it has fewer. Open it anew when the topic got more.
        registry: of the engine; read-only there is read-only here.

    Raises:
        CorruptionError: the file is damaged: its offsets cannot be told, and are not guessed.
        FormatError: another release's file, or no plain file.
        LockTimeoutError, DiskFullError, ReadOnlyError
    """

    def __cinit__(self):
        self.fd = self.metadata_fd = -1
        self.closed = True

    def __init__(self, path: str, topic_uuid: bytes, partitions: int, registry: Registry):
        if self.mapping is not NULL or self.fd >= 0:
            raise ConfigError("an OffsetTable is opened once")
        if len(topic_uuid) != 16:
            raise ConfigError("a topic's uuid has 16 bytes")
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigError(f"{partitions} partitions: 1 to {MAX_PARTITIONS} are possible")
        self.path, self.topic_uuid, self.partitions = path, topic_uuid, partitions
        self.registry = registry
        self.forks = fork_count()
        self.closed = False
        try:
            if registry.read_only:
                self._open_read_only()
            else:
                self._open()
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        close_descriptors(self)
        if self.mapping is not NULL:
            munmap(self.mapping, self.mapping_bytes)

    # ---- what a group does ----------------------------------------------------------------------------

    def commit(
        self, partition: int, offset: int, epoch: int, generation: int, metadata: bytes = b""
    ) -> None:
        """Commit `offset`, the next one to read, for a partition: seen by all processes on return.

        Args:
            epoch: of the partition where that record was read.
            generation: of the group when the caller got the partition; 0 for who is in no group.
            metadata: up to 4096 bytes, kept with the offset.

        Raises:
            FencedError: somebody of a newer generation has the partition; nothing was changed.
            ConfigError: no such partition, or a number out of its range.
            LockTimeoutError: a stopped process holds the table.
            DiskFullError: no room for the metadata; nothing was changed.
            DurabilityError: a sync of this table failed.
        """
        self.check_numbers(partition, generation)
        if not 0 <= offset < 1 << 63 or not 0 <= epoch < 1 << 32:
            raise ConfigError(f"cannot commit offset {offset} in epoch {epoch}")
        if metadata:
            check_metadata(metadata)
        self.lock()
        try:
            self.check_generation(partition, generation)
            self.store(partition, offset, epoch, generation, metadata)
        finally:
            self.unlock()

    def fence(self, partition: int, generation: int) -> None:
        """Take a partition over for `generation`: older ones can commit to it no more. The offset stays.

        Raises:
            FencedError: a newer generation has it.
        """
        cdef offset_copy_t found
        self.check_numbers(partition, generation)
        self.lock()
        try:
            self.check_generation(partition, generation)
            if self.newest(partition, &found) == NEITHER:
                found.offset, found.epoch, found.generation, found.metadata_bytes = -1, 0, 0, 0
            if (found.generation != generation or found.version == 0) and not planted("takeover_not_fenced"):
                metadata = self.metadata_of(partition, &found)
                self.store(partition, found.offset, found.epoch, generation, metadata or b"")
        finally:
            self.unlock()

    def forget(self, partition: int, generation: int = 0) -> None:
        """Drop what is committed for a partition, also where it is damaged; `generation` as in fence()."""
        self.check_numbers(partition, generation)
        self.lock()
        try:
            try:
                self.check_generation(partition, generation)
            except CorruptionError:
                memset(self.mapping + copy_position(partition, 0), 0, COPY_BYTES)
                memset(self.mapping + copy_position(partition, 1), 0, COPY_BYTES)
            self.store(partition, -1, 0, generation, b"")
        finally:
            self.unlock()

    def committed(self, partition: int) -> tuple[int, int, bytes | None] | None:
        """Return (offset, epoch, metadata) of the last commit, None where there is none. Takes no lock.

        The metadata is None where a power cut took it from a commit that was not synced.

        Raises:
            CorruptionError: both copies are damaged.
        """
        cdef offset_copy_t found
        self.check_open()
        self.check_partition(partition)
        if self.mapping is NULL:
            return None
        for _ in range(METADATA_TRIES):
            if self.newest(partition, &found) == NEITHER or found.offset < 0:
                return None
            metadata = self.metadata_of(partition, &found)
            if metadata is not None:       # else a writer may have passed between the two looks: look again
                break
        return found.offset, found.epoch, metadata

    def generation(self, partition: int) -> int:
        """Return the generation that last committed or fenced the partition; 0 where there was none."""
        cdef offset_copy_t found
        self.check_open()
        self.check_partition(partition)
        if self.mapping is NULL or self.newest(partition, &found) == NEITHER:
            return 0
        return found.generation

    def sync(self) -> None:
        """Return when all that was committed before is on disk.

        Raises:
            DurabilityError: it could not be; the table takes no commits until all engines were closed.
        """
        cdef int code = 0
        self.check_writable()
        self.users += 1
        try:
            with nogil:
                # metadata before what names it
                if self.metadata_fd >= 0 and fdatasync(self.metadata_fd) != 0:
                    code = EIO
                elif not planted("commit_not_synced") and fdatasync(self.fd) != 0:
                    code = EIO
                if code:
                    self.shared.poisoned = code
        finally:
            self._leave()
        if code:
            self.check_poison()

    def close(self) -> None:
        """Close the file; commits stay, and are on disk as far as sync() or the kernel brought them."""
        self.closed = True
        if self.users == 0:
            close_descriptors(self)

    # ---- under the lock -------------------------------------------------------------------------------

    cdef int lock(self) except -1:
        cdef int code
        self.check_writable()
        code = pthread_mutex_trylock(&self.shared.lock)
        if code == EBUSY:
            self.users += 1
            with nogil:
                code = mutex_lock_within(&self.shared.lock, 10_000_000_000)
            self.users -= 1
        if code == ETIMEDOUT:
            raise LockTimeoutError(
                f"{self.path}: process {self.shared.holder} has held the table for {LOCK_SECONDS:g} s",
                pid=self.shared.holder,
            )
        if code == EOWNERDEAD:
            # It may have left one copy half written: its checksum says so, and the next commit mends it. And
            # its transaction may have an offset for us: noted first, for who comes if we die as well.
            self.shared.unsettled = 1
            pthread_mutex_consistent(&self.shared.lock)
        elif code != 0:
            raise CorruptionError(
                f"{self.path}: the page that living processes share is damaged ({os.strerror(code)}): close "
                "all engines of this directory and open again", path=self.path, position=SHARED_PAGE,
            )
        self.shared.holder = self.registry.pid
        if self.closed or self.shared.poisoned:
            self.unlock()
            self.check_writable()
        if self.shared.unsettled:
            try:
                self.settle()
            except BaseException:
                self.unlock()
                raise
        return 0

    cdef int settle(self) except -1:
        directory = f"{self.path.rsplit('/', 3)[0]}/redo"
        if os.path.isdir(directory) and not planted("redo_offset_not_stored"):
            from logcore import redo             # redo.pyx stands above us
            redo.store_pending(self, directory)
        self.shared.unsettled = 0
        return 0

    cdef int unlock(self) except -1:
        self.shared.holder = 0
        pthread_mutex_unlock(&self.shared.lock)
        if self.closed and self.users == 0:
            close_descriptors(self)
        return 0

    cdef int check_generation(self, int partition, uint32_t generation) except -1:
        cdef offset_copy_t found
        if self.newest(partition, &found) != NEITHER and generation < found.generation and (
            not planted("commit_not_fenced")
        ):
            raise FencedError(
                f"partition {partition} belongs to generation {found.generation} of its group: {generation} "
                "is over"
            )
        return 0

    cdef int store(
        self, int partition, int64_t offset, uint32_t epoch, uint32_t generation, bytes metadata
    ) except -1:
        cdef offset_copy_t newest
        cdef int kept = self.newest(partition, &newest)
        cdef uint64_t version = newest.version + 1 if kept != NEITHER else 1
        return self.put(partition, kept, version, offset, epoch, generation, metadata)

    cdef int make_room(self, int partition, bytes metadata) except -1:
        cdef offset_copy_t newest
        if metadata:
            self.write_metadata(partition, 1 if self.newest(partition, &newest) == 0 else 0, metadata)
        return 0

    cdef int put(
        self, int partition, int kept, uint64_t version, int64_t offset, uint32_t epoch, uint32_t generation,
        bytes metadata,
    ) except -1:
        cdef offset_copy_t fresh
        cdef int first
        memset(&fresh, 0, COPY_BYTES)
        fresh.version = version
        fresh.offset = offset
        fresh.epoch = epoch
        fresh.generation = generation
        if metadata:
            fresh.metadata_bytes = <uint32_t> len(metadata)
            fresh.metadata_checksum = xxh3(<const char*> metadata, len(metadata))
        # the older or damaged copy first: the newest one stays whole until this one is
        first = 1 - kept if kept != NEITHER else 0
        if metadata:
            self.write_metadata(partition, first, metadata)
        failpoint("offsets.metadata")
        write_copy(self.mapping, self.salt, partition, first, &fresh)
        failpoint("offsets.first_copy")
        if metadata:
            try:
                self.write_metadata(partition, 1 - first, metadata)
            except (OSError, MemoryError):
                return 0        # committed already; the second copy stays as it was
        write_copy(self.mapping, self.salt, partition, 1 - first, &fresh)
        failpoint("offsets.second_copy")
        return 0

    cdef int newest(self, int partition, offset_copy_t* found) except -2:
        """Copy out the newest whole copy and say which it is; NEITHER where nothing was written yet."""
        cdef offset_copy_t other
        cdef int which, _tries
        cdef int state[2]
        for _tries in range(READ_TRIES):
            for which in range(2):
                state[which] = read_copy(
                    self.mapping, self.salt, partition, which, found if which == 0 else &other
                )
            if state[0] == COPY_WHOLE or state[1] == COPY_WHOLE:
                if state[0] != COPY_WHOLE or (state[1] == COPY_WHOLE and other.version > found.version):
                    found[0] = other
                    return 1
                return 0
            if state[0] == COPY_EMPTY or state[1] == COPY_EMPTY:
                memset(found, 0, COPY_BYTES)      # a first commit may be on its way, or died on it
                return NEITHER
            # a writer passed between our two looks, or both are damaged
        raise CorruptionError(
            f"{self.path}: both copies of partition {partition}'s offset are damaged; forget() drops them",
            path=self.path, position=copy_position(partition, 0),
        )

    # ---- metadata -------------------------------------------------------------------------------------

    cdef int write_metadata(self, int partition, int which, bytes metadata) except -1:
        """No Python code runs here once the file is open: a signal handler may not raise in a commit."""
        cdef int error
        if self.metadata_fd < 0:
            self._open_metadata(os.O_RDWR | os.O_CREAT)
        error = write_all(
            self.metadata_fd, <const char*> metadata, len(metadata), metadata_position(partition, which)
        )
        if error:
            failure = OSError(error, os.strerror(error), metadata_path(self.path))
            raise clear_error(failure, metadata_path(self.path))
        return 0

    cdef object metadata_of(self, int partition, const offset_copy_t* copy):
        """The metadata of a copy, from either place that fits it; None where neither does."""
        cdef int which
        cdef bytes stored
        if copy.metadata_bytes == 0:
            return b""
        if self.metadata_fd < 0:
            try:
                self._open_metadata(os.O_RDONLY if self.registry.read_only else os.O_RDWR)
            except FileNotFoundError:
                return None
        for which in range(2):
            stored = os.pread(self.metadata_fd, copy.metadata_bytes, metadata_position(partition, which))
            if len(stored) != copy.metadata_bytes:
                continue
            if xxh3(<const char*> stored, len(stored)) == copy.metadata_checksum:
                return stored
        return None

    def _open_metadata(self, flags):
        directory = open_directory_of(self.path)
        try:
            path = metadata_path(self.path)
            self.metadata_fd = open_plain(directory, os.path.basename(path), path, flags)
        finally:
            os.close(directory)

    # ---- opening --------------------------------------------------------------------------------------

    def _open(self):
        directory = os.path.dirname(self.path) or "."
        make_directory(directory)
        name = os.path.basename(self.path)
        with locked_directory(directory) as directory_fd:
            blocks = self._open_file(directory_fd, name)
            if not blocks:
                self._make(directory_fd, name)
                blocks = self._open_file(directory_fd, name)
            wanted = blocks_for(self.partitions)
            if blocks < wanted:
                self._grow(wanted)
                blocks = wanted
            self._map(blocks, PROT_READ | PROT_WRITE)
            if self.shared.session != self.registry.session:
                memset(self.shared, 0, sizeof(offsets_shared_t))
                robust_mutex_init(&self.shared.lock)
                self.shared.unsettled = 1
                self.shared.session = self.registry.session

    def _open_read_only(self):
        try:
            directory = open_directory_of(self.path)
        except FileNotFoundError:
            return
        try:
            blocks = self._open_file(directory, os.path.basename(self.path))
        finally:
            os.close(directory)
        if blocks:
            # the rest was never committed to
            self.partitions = min(self.partitions, blocks * OFFSETS_BLOCK_PARTITIONS)
            self._map(blocks, PROT_READ)

    def _open_file(self, directory_fd, name):
        """Open the file; return its blocks, 0 where there is none or it is of another topic."""
        flags = os.O_RDONLY if self.registry.read_only else os.O_RDWR
        try:
            self.fd = open_plain(directory_fd, name, self.path, flags)
        except FileNotFoundError:
            return 0
        blocks, uuid, self.salt = read_header(self.fd, self.path)
        if uuid != self.topic_uuid:
            os.close(self.fd)
            self.fd = -1
            return 0
        return blocks

    def _make(self, directory_fd, name):
        remove_leftovers(directory_fd, name)
        salt = int.from_bytes(os.urandom(8), "little")
        try:
            os.unlink(os.path.basename(metadata_path(self.path)), dir_fd=directory_fd)
        except FileNotFoundError:
            pass
        fresh = empty_table(blocks_for(self.partitions), self.topic_uuid, salt)
        place_file(directory_fd, name, fresh, self.path)

    def _grow(self, blocks):
        """Allocate, then say so in one header after the other: a kill leaves the old size or the new one."""
        try:
            os.posix_fallocate(self.fd, 0, file_bytes(blocks))
            os.fsync(self.fd)
            for at in reversed(HEADER_PLACES):
                os.pwrite(self.fd, encode_header(blocks, self.topic_uuid, self.salt, at), at)
                os.fsync(self.fd)
        except OSError as error:
            raise clear_error(error, self.path) from None

    def _map(self, blocks, int protection):
        cdef size_t size = file_bytes(blocks)
        cdef void* mapped = mmap(NULL, size, protection, MAP_SHARED, self.fd, 0)
        if mapped is MAP_FAILED:
            raise MemoryError(f"cannot map {self.path}")
        self.mapping = <uint8_t*> mapped
        self.mapping_bytes = size
        self.shared = <offsets_shared_t*> (self.mapping + SHARED_PAGE)

    # ---- checks ---------------------------------------------------------------------------------------

    def _leave(self):
        self.users -= 1
        if self.closed and self.users == 0:
            close_descriptors(self)

    cdef int check_open(self) except -1:
        if self.forks != fork_count():
            raise ClosedError("this offset table was opened before a fork: the child must open its own")
        if self.closed:
            raise ClosedError("the offset table is closed")
        return 0

    cdef int check_writable(self) except -1:
        self.check_open()
        if self.registry.read_only:
            raise ReadOnlyError("an engine opened with read_only=True commits nothing")
        return self.check_poison()

    cdef int check_poison(self) except -1:
        if self.shared.poisoned:
            raise DurabilityError(
                f"a sync of {self.path} failed: what was committed since the last one may be lost. Close all "
                "engines of this directory and open again"
            )
        return 0

    cdef int check_partition(self, int64_t partition) except -1:
        if not 0 <= partition < self.partitions:
            raise ConfigError(f"no partition {partition}: the table has {self.partitions}")
        return 0

    cdef int check_numbers(self, int64_t partition, int64_t generation) except -1:
        self.check_partition(partition)
        if not 0 <= generation < <int64_t> 1 << 32:
            raise ConfigError(f"a group has no generation {generation}")
        return 0


cdef void close_descriptors(OffsetTable table) noexcept:
    if table.fd >= 0:
        close(table.fd)
    if table.metadata_fd >= 0:
        close(table.metadata_fd)
    table.fd = table.metadata_fd = -1


cdef object open_directory_of(path):
    return os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
