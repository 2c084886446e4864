# cython: language_level=3
"""The partitions of one opened topic.

Chooses partitions, builds batches and hands them to the partitions' logs; knows nothing of configuration
files. Invariant: a value, key or partition of a wrong type or size is refused before anything is appended.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from logcore.builder cimport BatchBuilder
from logcore.control cimport (
    ControlFile, PARTITION_READY, PARTITION_UNRECOVERED, atomic_add, atomic_load32, atomic_load64,
    atomic_store32, partition_slot_t,
)
from logcore.format cimport *
from logcore.hashing cimport murmur2, xxh3
from logcore.inputs cimport NULL_LENGTH, item_bytes
from logcore.key_index cimport KeyIndex, guard_of
from logcore.linux cimport O_CLOEXEC, O_DIRECTORY, O_RDONLY, close, open as open_file
from logcore.partition_log cimport Guard, NOBODY, PartitionLog
from logcore.processes cimport Registry, fork_count
from logcore.reader cimport PartitionReader
from logcore.record_headers cimport encode_headers
from logcore.record_ids cimport RecordId, RecordIds, new_record_id
from logcore.service cimport Service
from logcore.single_batch cimport STAMP_NOW, encode_single, single_bytes
from logcore.sync cimport close_files, drop_files, is_noted, keep_files, sync_due

import os

from logcore.errors import ClosedError, ConfigError, FormatError, RecordTooLargeError

cdef enum:
    STACK_BATCH = 4096                   # a single record up to this is encoded on the stack
    BULK_BATCH_BYTES = 1 << 20           # what append_many puts into one batch
    BATCH_OVERHEAD = 512                 # header, blocks and paddings of one batch, generously

DURABILITIES = {"os": DURABILITY_OS, "interval": DURABILITY_INTERVAL, "sync": DURABILITY_SYNC}
CODECS = {"none": CODEC_NONE, "zstd": CODEC_ZSTD}
PARTITIONERS = ("murmur2", "xxh3")


cdef int durability_code(object durability) except -1:
    code = DURABILITIES.get(durability)
    if code is None:
        raise ConfigError(f"durability={durability!r} is unknown: use 'os', 'interval' or 'sync'")
    return code


cdef int64_t check_timestamp(object timestamp) except? -1:
    if timestamp is None:
        return STAMP_NOW
    if isinstance(timestamp, bool) or not isinstance(timestamp, int):
        raise TypeError(f"timestamp is an int of nanoseconds since 1970, not {type(timestamp).__name__}")
    if not -(1 << 63) < timestamp < 1 << 63:
        raise ConfigError(f"timestamp={timestamp} does not fit 64 bits of nanoseconds since 1970")
    return timestamp


@cython.no_gc_clear          # __dealloc__ needs the service and the control file
cdef class TopicLog:
    """One opened topic. Threads may share it; readers and appends of any process meet in its files.

    Args:
        directory: topics/<name> of the data directory; it exists.
        service: serves interval sync duty; None where nobody does (then only explicit syncs happen).
        lock_timeout: seconds that an append waits for a partition's lock before LockTimeoutError.
    """

    def __cinit__(
        self, directory: str, name: str, registry: Registry, service: Service | None, *, uuid: bytes,
        partitions: int, partitioner: str = "murmur2", segment_bytes: int = 64 << 20,
        durability: str = "interval", codec: str = "none", max_record_bytes: int = 1 << 20,
        sync_interval_ms: int = 100, max_unsynced_bytes: int = 64 << 20,
        lock_timeout: float = 10.0, read_only: bool = False,
    ):
        self.sync_state.directory_fd = -1
        if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES:
            raise ConfigError(
                f"segment_bytes={segment_bytes} is out of range: {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}"
            )
        self.directory, self.name, self.registry, self.service = directory, name, registry, service
        self.uuid, self.partitions, self.read_only = uuid, partitions, read_only
        self.use_xxh3 = partitioner == "xxh3"
        self.codec = CODECS[codec]
        self.durability = durability_code(durability)
        self.segment_bytes = segment_bytes
        self.max_record_bytes = min(<uint64_t> max_record_bytes, self.batch_room() // 2)
        self.max_unsynced_bytes = max_unsynced_bytes if self.durability == DURABILITY_INTERVAL else 0
        self.lock_timeout_ns = <int64_t> (lock_timeout * 1e9)
        self.logs = [None] * partitions
        self.key_indexes = {}
        self.spare_builders = []
        self.control = ControlFile(directory, registry, uuid, partitions, read_only=read_only)
        self.generation = atomic_load32(&self.control.header.config_generation)
        self.sync_state.directory_fd = open_file(os.fsencode(directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if self.sync_state.directory_fd < 0:
            raise OSError(errno, os.strerror(errno), directory)
        self.sync_state.header = self.control.header
        self.sync_state.slots = self.control.slots
        self.sync_state.dirty = self.control.dirty
        self.sync_state.partitions = partitions
        keep_files(&self.sync_state)
        if self.durability == DURABILITY_INTERVAL:
            self.sync_state.interval_ns = sync_interval_ms * 1_000_000
        if service is not None and not read_only:
            service.add_topic(&self.sync_state)
            self.served = True

    def __dealloc__(self):
        if self.served and not self.closed and self.service.forks == fork_count():
            # nobody closed it, and from now on nobody keeps its interval
            with nogil:
                sync_due(&self.sync_state, INT64_MAX)
        self.detach(False)

    cdef int detach(self, bint shared) except -1:
        if self.served and self.service is not None:
            self.service.remove_topic(&self.sync_state)
            self.served = False
        cdef int fd = self.sync_state.directory_fd
        cdef bint unused = True
        self.sync_state.directory_fd = -1
        if not shared:
            drop_files(&self.sync_state)
        elif not self.read_only and self.registry.forks == fork_count():
            with nogil:
                unused = close_files(&self.sync_state)
        if fd >= 0 and unused:
            close(fd)
        elif fd >= 0:
            self.sync_state.directory_fd = fd        # somebody syncs by it: it is closed with us
        return 0

    def close(self) -> None:
        """Sync what is unsynced here, let go of the service and the files. Readers keep what they map."""
        if self.closed:
            return
        self.closed = True
        self.closed_by = PyThread_get_thread_ident()
        for index in list(self.key_indexes.values()):
            index.close()
        try:
            if not self.read_only:
                for log in self.logs:
                    if log is not None:
                        (<PartitionLog> log).end_appends()
            if not self.read_only and not self.control.header.deleted:
                self.sync()
                self.control.close_clean(self.mark_ends)
        finally:
            self.detach(True)
            self.closed_by = NOBODY
            for log in self.logs:
                if log is not None:
                    (<PartitionLog> log).drop_writer()

    def mark_ends(self) -> None:
        """Write marks where we appended: nobody else has the topic open."""
        for log in self.logs:
            if log is not None and (<PartitionLog> log).appended_batches and (
                (<PartitionLog> log).slot.state == PARTITION_READY
            ):
                log.append_mark()

    def batch_room(self) -> int:
        """The largest batch that a segment holds."""
        return largest_batch(self.segment_bytes) - BATCH_OVERHEAD

    cdef int64_t batch_budget(self) noexcept nogil:
        cdef int64_t room = <int64_t> largest_batch(self.segment_bytes)
        room -= BATCH_OVERHEAD + <int64_t> self.max_record_bytes + 64
        return room if room < BULK_BATCH_BYTES else BULK_BATCH_BYTES

    # ---- partitions -----------------------------------------------------------------------------------

    cdef PartitionLog log(self, int partition):
        cdef PartitionLog log
        cached = self.logs[partition]
        if cached is not None:
            return <PartitionLog> cached
        directory = f"{self.directory}/{partition}"
        if os.path.islink(directory):                  # of its files only the last name is opened unfollowed
            raise FormatError(f"{directory} is a symbolic link; those in a data directory are not followed")
        cached = self.logs[partition]                  # other threads ran meanwhile; from here on none does
        if cached is not None:
            return <PartitionLog> cached
        if self.closed_by not in (0, PyThread_get_thread_ident()):
            raise ClosedError(f"topic {self.name!r} was closed")
        log = PartitionLog()
        log.closed_by = self.closed_by
        log.control = self.control
        log.slot = &self.control.slots[partition]
        log.sync = &self.sync_state
        log.service = self.service
        log.topic, log.partition = self.name, partition
        log.directory = directory
        log.uuid = self.uuid
        log.read_only = self.read_only
        log.segment_bytes = self.segment_bytes
        log.max_unsynced_bytes = self.max_unsynced_bytes
        log.lock_timeout_ns = self.lock_timeout_ns
        self.logs[partition] = log
        return log

    cdef int partition_of(self, const uint8_t* key, Py_ssize_t key_bytes) noexcept nogil:
        if self.use_xxh3:
            return <int> (xxh3(key, key_bytes) % <uint64_t> self.partitions)
        return <int> ((murmur2(key, <int32_t> key_bytes) & 0x7FFFFFFF) % <uint32_t> self.partitions)

    cdef int turn(self) noexcept nogil:
        return <int> (atomic_add(&self.next_partition, 1) % <uint32_t> self.partitions)

    def partition_for(self, key: bytes) -> int:
        """The partition of records with `key`."""
        return self.partition_of(<const uint8_t*> <const char*> key, len(key))

    cdef int check_partition(self, object partition) except -1:
        # given through signatures without `int`, by which Cython would turn 1.5 and True into 1
        if isinstance(partition, bool) or not isinstance(partition, int):
            raise TypeError(f"partition is an int, not {type(partition).__name__}")
        if not 0 <= partition < self.partitions:
            raise ConfigError(
                f"partition {partition} of topic {self.name!r}: it has 0 to {self.partitions - 1}"
            )
        return partition

    cdef int check_record(
        self, Py_ssize_t key_bytes, Py_ssize_t value_bytes, Py_ssize_t headers_bytes
    ) except -1:
        cdef uint64_t size = max(key_bytes, 0) + max(value_bytes, 0) + max(headers_bytes, 0)
        if size > self.max_record_bytes:
            raise RecordTooLargeError(
                f"a record of {size} bytes is beyond the {self.max_record_bytes} that topic "
                f"{self.name!r} takes (max_record_bytes, and at most half of what a segment holds)",
                size=size, limit=self.max_record_bytes,
            )
        return 0

    # ---- appending ------------------------------------------------------------------------------------

    cdef RecordId append_one(
        self, object value, object key, object partition, object headers, object timestamp, object durability,
        object guard
    ):
        cdef const uint8_t* key_data = NULL
        cdef const uint8_t* value_data = NULL
        cdef const uint8_t* headers_data = NULL
        cdef Py_ssize_t key_bytes = NULL_LENGTH, value_bytes = NULL_LENGTH, headers_bytes = 0
        cdef bytes encoded = None
        cdef int where
        cdef int64_t offset = -1
        cdef uint64_t end = 0
        cdef int policy = self.durability if durability is None else durability_code(durability)
        cdef uint8_t stack[STACK_BATCH]
        cdef uint8_t* batch = stack
        cdef uint32_t length, epoch
        cdef int64_t stamp = STAMP_NOW if timestamp is None else check_timestamp(timestamp)
        cdef PartitionLog log
        cdef Guard condition = None
        item_bytes(<PyObject*> value, &value_data, &value_bytes)
        if key is not None:
            item_bytes(<PyObject*> key, &key_data, &key_bytes)
        if headers is not None:
            encoded = encode_headers(headers)
            headers_data = <const uint8_t*> PyBytes_AS_STRING(encoded)
            headers_bytes = PyBytes_GET_SIZE(encoded)
        if <uint64_t> (max(key_bytes, 0) + max(value_bytes, 0) + headers_bytes) > self.max_record_bytes:
            self.check_record(key_bytes, value_bytes, headers_bytes)
        if partition is not None:
            where = self.check_partition(partition)
        elif self.partitions == 1:
            where = 0
        else:
            where = self.turn() if key_data is NULL else self.partition_of(key_data, key_bytes)
        log = self.log(where)
        if guard is not None:
            condition = guard_of(self.key_index(where), key, guard)
        if self.codec != CODEC_NONE:
            return self.append_built(
                where, key_data, key_bytes, value_data, value_bytes, headers_data, headers_bytes,
                stamp, policy, condition
            )
        length = single_bytes(key_data is not NULL, key_bytes, value_bytes, headers_bytes)
        if length > STACK_BATCH:
            batch = <uint8_t*> malloc(length)
            if batch is NULL:
                raise MemoryError()
        try:
            encode_single(
                batch, key_data, key_bytes, value_data, value_bytes, headers_data, headers_bytes, stamp
            )
            log.append(batch, length, policy == DURABILITY_SYNC, &offset, &end, condition)
            epoch = load32(batch + BH_EPOCH)
        finally:
            if batch is not stack:
                free(batch)
        if policy == DURABILITY_SYNC:
            log.sync_appended(epoch, end)
        return new_record_id(self.name, where, offset)

    cdef RecordId append_built(
        self, int partition, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value,
        Py_ssize_t value_bytes, const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp,
        int policy, Guard guard,
    ):
        cdef BatchBuilder builder = self.take_builder()
        cdef int64_t offset = -1
        builder.add(key, key_bytes, value, value_bytes, headers, headers_bytes, timestamp, -1)
        self.append_builder(builder, partition, 0, 0, False, policy, &offset, guard)
        self.give_builder(builder)
        return new_record_id(self.name, partition, offset)

    cdef int append_builder(
        self, BatchBuilder builder, int partition, uint64_t producer_id, uint32_t producer_epoch,
        bint has_producer, int durability, int64_t* base_offset, Guard guard,
    ) except -1:
        cdef uint32_t length, epoch
        cdef uint64_t end = 0
        cdef PartitionLog log = self.log(partition)
        cdef uint8_t* batch = builder.finish(
            self.codec, COMPRESSION_LEVEL, producer_id, producer_epoch, has_producer, &length
        )
        log.append(batch, length, durability == DURABILITY_SYNC, base_offset, &end, guard)
        epoch = load32(batch + BH_EPOCH)
        builder.reset()
        if durability == DURABILITY_SYNC:
            log.sync_appended(epoch, end)
        return 0

    cdef BatchBuilder take_builder(self):
        cdef BatchBuilder builder
        if self.spare_builders:
            builder = self.spare_builders.pop()
            builder.reset()
            return builder
        return BatchBuilder()

    cdef void give_builder(self, BatchBuilder builder):
        if len(self.spare_builders) < 8:
            self.spare_builders.append(builder)

    def append_many(
        self, values: object, keys: object = None, *, partition=None, timestamps: object = None,
        headers: object = None, durability: str | None = None, guard: object = None,
    ) -> RecordIds:
        """Append many values, with as many keys, timestamps or headers if given.

        Args:
            values, keys: lists of bytes or None; or columns: an Arrow array of binary, a pair
                (offsets, bytes) of numpy arrays, or a 2-D array of bytes with a record a row.
            timestamps: ns since 1970, one for each record; a list, or an array of integers.
            headers: one for each record, as append() takes them.
            guard: key -> offset of its last record, -1 where it has none. All records are then one batch in
                one partition, appended only while that holds.

        Batches are atomic one by one. Returns a list-like of RecordId in the order of the values.

        Raises:
            PartialAppendError: a later batch failed; `appended` has what is in.
            VersionConflictError: the guard does not hold; nothing was appended.
            RecordTooLargeError, TypeError, ValueError: nothing was appended.
        """
        from logcore.bulk_append import BulkAppend
        bulk = BulkAppend(self, values, keys, timestamps, headers)
        if guard is not None:
            return bulk.run_guarded(partition, durability, guard)
        return bulk.run(partition, durability)

    # ---- reading and the rest -------------------------------------------------------------------------

    def reader(self, partition, offset: int, *, synced_only: bool = False) -> PartitionReader:
        """A reader of one partition from `offset` on. Raises OffsetOutOfRangeError."""
        return PartitionReader(self.log(self.check_partition(partition)), self, offset, synced_only)

    def key_index(self, partition) -> KeyIndex:
        """Where the records of each key stand in a partition."""
        cdef int where = self.check_partition(partition)
        found = self.key_indexes.get(where)
        if found is None:
            # a thread may have been quicker: all of them use the one that it made
            found = self.key_indexes.setdefault(where, KeyIndex(self.log(where)))
        return found

    def log_start_offset(self, partition) -> int:
        """The first offset that can be read."""
        cdef PartitionLog log = self.log(self.check_partition(partition))
        log.ensure_ready()
        return log.slot.log_start_offset

    def log_end_offset(self, partition) -> int:
        """The offset that the next record will get."""
        cdef PartitionLog log = self.log(self.check_partition(partition))
        cdef uint64_t end
        cdef int64_t next_offset
        log.ensure_ready()
        log.published(&end, &next_offset)
        return next_offset

    def synced_offset(self, partition) -> int:
        """The end of what a power cut leaves."""
        cdef PartitionLog log = self.log(self.check_partition(partition))
        log.ensure_ready()
        return log.slot.synced_offset

    def epoch(self, partition) -> int:
        """The partition's epoch: raised by each cut."""
        cdef PartitionLog log = self.log(self.check_partition(partition))
        log.ensure_ready()
        return log.slot.active_epoch

    def sync(self, partition=None) -> None:
        """Return once all that is published (of one partition, or of all) is on disk."""
        cdef PartitionLog log
        cdef int i
        wanted = range(self.partitions) if partition is None else (self.check_partition(partition),)
        for i in wanted:
            if partition is None and not self.is_unsynced(i):
                continue
            log = self.log(i)
            log.ensure_ready()
            log.sync_to(atomic_load64(&log.slot.end))

    cdef bint is_unsynced(self, int partition) noexcept nogil:
        cdef partition_slot_t* slot = &self.control.slots[partition]
        return is_noted(&self.sync_state, partition) or (
            atomic_load32(&slot.state) == PARTITION_READY
            and atomic_load64(&slot.end) != atomic_load64(&slot.synced_end)
        )

    def recover(self, partition) -> None:
        """Cut a partition whose sync failed at its synced offset, and go on under a new epoch."""
        from logcore.recovery import cut_poisoned
        cut_poisoned(self.log(self.check_partition(partition)))

    def active_bytes(self, partition) -> int:
        """Bytes of the batches in the active segment."""
        cdef PartitionLog log = self.log(self.check_partition(partition))
        log.ensure_ready()
        return atomic_load64(&log.slot.end) - log.slot.active_base_byte_pos

    def partition_log(self, partition) -> PartitionLog:
        """The log of one partition, for what works on whole segments: compaction and retention."""
        return self.log(self.check_partition(partition))

    def delete_records(self, partition, before_offset: int) -> int:
        """Delete the records before an offset, on disk on return; the log start offset. See drop_before()."""
        from logcore.dropping import drop_before
        return drop_before(self.log(self.check_partition(partition)), before_offset)

    def recovery_reports(self) -> list:
        """(partition, Survey) of each partition in which recovery dropped or found something."""
        opened = [log for log in self.logs if log is not None]
        return [(log.partition, log.report) for log in opened if log.report is not None]

    def mark_waiting(self) -> None:
        """Say that this engine is about to sleep on the topic: look for records once more, then sleep."""
        self.control.mark_waiting()

    def reserve_partitions(self, partitions: int) -> None:
        """Make room for more partitions in what processes share, before topic.json says that they are there.

        Raises:
            DiskFullError: nothing was changed.
        """
        self.control.reserve(partitions)

    def mark_altered(self) -> None:
        """Tell everybody that topic.json was changed: they open the topic anew at its next use."""
        atomic_add(&self.control.header.config_generation, 1)
        self.registry.ring_all()

    def mark_deleted(self) -> None:
        """Tell everybody that the topic is gone: appends and polls raise from now on."""
        atomic_store32(&self.control.header.deleted, 1)
        self.registry.ring_all()

    @property
    def deleted(self) -> bool:
        """Whether somebody deleted the topic while we had it open."""
        return atomic_load32(&self.control.header.deleted) != 0

    @property
    def superseded(self) -> bool:
        """Read-only: whether a writer now shares what we took from the files, or from a session before."""
        cdef PartitionLog log
        if not self.read_only:
            return False
        if self.control.replaced():
            return True
        if not self.control.private:
            for opened in self.logs:
                if opened is not None:
                    log = <PartitionLog> opened
                    if log.private_slot is not NULL and (
                        atomic_load32(&self.control.slots[log.partition].state) != PARTITION_UNRECOVERED
                    ):
                        return True
        return False

    def counters(self) -> dict:
        """What this engine did in this topic: what it appended and read, and the syncs that it led."""
        cdef PartitionLog log
        appended, read = [0, 0, 0], [0, 0, 0]
        for opened in self.logs:
            if opened is not None:
                log = <PartitionLog> opened
                for i, count in enumerate((log.appended_batches, log.appended_records, log.appended_bytes)):
                    appended[i] += count
                for i, count in enumerate((log.read_batches, log.read_records, log.read_bytes)):
                    read[i] += count
        kinds = ("batches", "records", "bytes")
        counted = {f"appended_{kind}": count for kind, count in zip(kinds, appended)}
        counted |= {f"read_{kind}": count for kind, count in zip(kinds, read)}
        return counted | {"syncs": self.sync_state.syncs}
