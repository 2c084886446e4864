# cython: language_level=3
"""Idempotent producers: ProducerIdentity says who holds a producer id, ProducerTable what a partition has.

Not the producer that programs use, and not the log: the table is fed with batches and decides nothing but
new, duplicate, overlap or fenced. Invariant: last_sequence never falls, so what was in is never let in twice.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cimport cython

from logcore.batch_header cimport max_timestamp_of, next_offset_of
from logcore.failpoints cimport failpoint, planted
from logcore.format cimport *
from logcore.hashing cimport header_checksum
from logcore.linux cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from logcore.processes cimport fork_count

import os

from logcore.errors import ConfigError, CorruptionError, DurabilityError, FormatError
from logcore.whole_files import (
    check_name, clear_error, locked_directory, make_directory, open_plain, place_file, remove_leftovers,
)

cdef enum:
    FIRST_WINDOW = 4
    IDENTITY_BYTES = 64
    ID_VERSION = 8           # u32
    ID_EPOCH = 12            # u32
    ID_PRODUCER_ID = 16      # u64
    ID_CHECKSUM = 56         # u64
    LAST_EPOCH = 0xFFFFFFFF


@cython.final
cdef class ProducerTable:
    """What one partition has from each idempotent producer: the answer to "is this batch in already?".

    Holds at most 4096 producers; the one that was silent for longest makes room. Of each it knows the last
    sequence and where the last 64 batches are.
    """

    def __cinit__(self):
        self.oldest = self.newest = -1

    def __dealloc__(self):
        self.clear()

    # ---- the native face ------------------------------------------------------------------------------

    cdef producer_entry_t* find(self, uint64_t producer_id) noexcept nogil:
        cdef int32_t place
        if self.buckets is NULL:
            return NULL
        place = self.buckets[find_bucket(self, producer_id)]
        return &self.entries[place - 1] if place else NULL

    cdef int check(
        self, uint64_t producer_id, uint32_t epoch, int64_t first_sequence, int64_t last_sequence,
        int64_t* offset,
    ) except -1 nogil:
        cdef producer_entry_t* entry = self.find(producer_id)
        offset[0] = -1
        if entry is NULL:
            self.make_room()
            return PRODUCER_NEW
        if epoch < entry.epoch:
            return PRODUCER_FENCED
        if first_sequence > entry.last_sequence:
            return PRODUCER_NEW
        offset[0] = window_offset(entry, first_sequence)
        return PRODUCER_DUPLICATE if last_sequence <= entry.last_sequence else PRODUCER_OVERLAP

    cdef int note(self, const uint8_t* batch) except -1 nogil:
        cdef uint32_t attributes = load32(batch + BH_ATTRIBUTES)
        cdef const uint8_t* block
        cdef produced_batch_t produced
        if not attributes & ATTR_BLOCK_PRODUCER or attributes & <uint32_t> ATTR_MARK:
            return 0
        block = batch + block_position(attributes, ATTR_BLOCK_PRODUCER)
        produced.first_sequence = loadi64(block + PB_FIRST_SEQUENCE)
        produced.last_sequence = loadi64(block + PB_LAST_SEQUENCE)
        produced.base_offset = loadi64(batch + BH_BASE_OFFSET)
        produced.last_offset = next_offset_of(batch) - 1
        remember(
            self.touch(load64(block + PB_PRODUCER_ID)), load32(block + PB_PRODUCER_EPOCH), &produced,
            max_timestamp_of(batch),
        )
        return 0

    cdef int load_footer(self, const uint8_t* footer) except -1 nogil:
        cdef uint32_t i
        cdef const uint8_t* entry
        cdef produced_batch_t produced
        for i in range(load32(footer + FT_PRODUCER_COUNT)):
            entry = footer + FOOTER_PRODUCERS + <size_t> i * PRODUCER_ENTRY_BYTES
            produced.first_sequence = loadi64(entry + PE_FIRST_SEQUENCE)
            produced.last_sequence = loadi64(entry + PE_LAST_SEQUENCE)
            produced.base_offset = -1
            produced.last_offset = loadi64(entry + PE_LAST_OFFSET)
            remember(
                self.touch(load64(entry + PE_PRODUCER_ID)), load32(entry + PE_PRODUCER_EPOCH), &produced,
                loadi64(entry + PE_LAST_TIMESTAMP),
            )
        return 0

    cdef int write_entries(self, uint8_t* out, int most) noexcept nogil:
        cdef int32_t i = self.newest
        cdef int written = 0
        cdef producer_entry_t* entry
        if self.count == 0 or most <= 0:
            return 0
        while written + 1 < most and self.entries[i].older >= 0:
            i = self.entries[i].older
            written += 1
        written = 0
        # oldest first, so that whoever loads them gets the same order of use
        while i >= 0:
            entry = &self.entries[i]
            memset(out, 0, PRODUCER_ENTRY_BYTES)
            store64(out + PE_PRODUCER_ID, entry.producer_id)
            store32(out + PE_PRODUCER_EPOCH, entry.epoch)
            storei64(out + PE_FIRST_SEQUENCE, entry.first_sequence)
            storei64(out + PE_LAST_SEQUENCE, entry.last_sequence)
            storei64(out + PE_LAST_OFFSET, entry.last_offset)
            storei64(out + PE_LAST_TIMESTAMP, entry.last_timestamp)
            out += PRODUCER_ENTRY_BYTES
            written += 1
            i = entry.newer
        return written

    cdef int64_t offset_of(self, uint64_t producer_id, int64_t sequence) noexcept nogil:
        cdef producer_entry_t* entry = self.find(producer_id)
        return window_offset(entry, sequence) if entry is not NULL else -1

    cdef void clear(self) noexcept nogil:
        cdef int32_t i
        for i in range(self.count):
            free(self.entries[i].window)
        free(self.entries)
        free(self.buckets)
        self.entries = NULL
        self.buckets = NULL
        self.count = self.capacity = 0
        self.oldest = self.newest = -1

    # ---- its parts ------------------------------------------------------------------------------------

    cdef int make_room(self) except -1 nogil:
        """Have a free entry, or be full: then the next new producer takes the oldest one's."""
        cdef int32_t capacity, i
        cdef producer_entry_t* entries = NULL
        cdef int32_t* buckets
        if self.count < self.capacity or self.capacity == MAX_PRODUCERS_PER_PARTITION:
            return 0
        capacity = self.capacity * 2 if self.capacity else 1
        buckets = <int32_t*> calloc(capacity * 2, sizeof(int32_t))
        if buckets is not NULL:
            entries = <producer_entry_t*> realloc(self.entries, capacity * sizeof(producer_entry_t))
        if entries is NULL:
            free(buckets)
            with gil:
                raise MemoryError()
        free(self.buckets)
        self.entries = entries
        self.buckets = buckets
        self.capacity = capacity
        self.bucket_mask = <uint32_t> capacity * 2 - 1
        for i in range(self.count):
            buckets[find_bucket(self, entries[i].producer_id)] = i + 1
        return 0

    cdef producer_entry_t* touch(self, uint64_t producer_id) except NULL nogil:
        """Return the producer's entry, made where there is none, as the most recently used one."""
        cdef producer_entry_t* entry = self.find(producer_id)
        cdef produced_batch_t* window = NULL
        cdef int32_t i, window_size = 0
        if entry is not NULL:
            i = <int32_t> (entry - self.entries)
            unlink_entry(self, i)
            link_newest(self, i)
            return entry
        self.make_room()
        if self.count < self.capacity:
            i = self.count
            self.count += 1
        else:
            i = self.oldest
            unlink_entry(self, i)
            forget_bucket(self, self.entries[i].producer_id)
            window = self.entries[i].window
            window_size = self.entries[i].window_size
        entry = &self.entries[i]
        memset(entry, 0, sizeof(producer_entry_t))
        entry.producer_id = producer_id
        entry.window = window
        entry.window_size = window_size
        entry.first_sequence = entry.last_sequence = entry.last_offset = -1
        self.buckets[find_bucket(self, producer_id)] = i + 1
        link_newest(self, i)
        return entry

    # ---- the Python face: for tests and tools ---------------------------------------------------------

    def note_batch(self, batch: bytes) -> None:
        """Take note of an encoded batch with a valid header."""
        cdef uint64_t size = len(batch)
        if size < BATCH_HEADER_BYTES or size < load32(<const uint8_t*> <const char*> batch + BH_TOTAL_LENGTH):
            raise ValueError("not a whole batch")
        self.note(<const uint8_t*> <const char*> batch)

    def note_footer(self, footer: bytes) -> None:
        """Take over the producer table of a valid footer."""
        cdef const uint8_t* bytes_of = <const uint8_t*> <const char*> footer
        cdef uint64_t size = len(footer)
        if size < FOOTER_PRODUCERS or size < (
            FOOTER_PRODUCERS + <uint64_t> load32(bytes_of + FT_PRODUCER_COUNT) * PRODUCER_ENTRY_BYTES
        ):
            raise ValueError("not a whole footer")
        self.load_footer(bytes_of)

    def footer_entries(self, most: int = MAX_PRODUCERS_PER_PARTITION) -> bytes:
        """Return the producer table as it stands in a footer: the `most` recent, oldest of them first."""
        cdef int room = min(<int> most, self.count)
        cdef bytearray out = bytearray(max(room, 0) * PRODUCER_ENTRY_BYTES)
        self.write_entries(<uint8_t*> <char*> out, room)
        return bytes(out)

    def verdict(
        self, producer_id: int, epoch: int, first_sequence: int, last_sequence: int
    ) -> tuple[str, int]:
        """Say `"new"`, `"duplicate"`, `"overlap"` or `"fenced"`, and the offset of first_sequence or -1."""
        cdef int64_t offset = -1
        cdef int decided = self.check(producer_id, epoch, first_sequence, last_sequence, &offset)
        return ("new", "duplicate", "overlap", "fenced")[decided], offset

    def offset(self, producer_id: int, sequence: int) -> int | None:
        """Return where a sequence of a producer is; None where that is not known (any more)."""
        cdef int64_t found = self.offset_of(producer_id, sequence)
        return None if found < 0 else found

    def last_sequence(self, producer_id: int) -> int | None:
        """Return the last sequence that is in; None for a producer that this partition does not know."""
        cdef producer_entry_t* entry = self.find(producer_id)
        return None if entry is NULL else entry.last_sequence


cdef inline uint32_t find_bucket(ProducerTable table, uint64_t producer_id) noexcept nogil:
    """The bucket that holds the producer, or the free one where it would go."""
    cdef uint32_t b = <uint32_t> (producer_id * <uint64_t> 0x9E3779B97F4A7C15 >> 32) & table.bucket_mask
    while table.buckets[b] and table.entries[table.buckets[b] - 1].producer_id != producer_id:
        b = (b + 1) & table.bucket_mask
    return b


cdef void forget_bucket(ProducerTable table, uint64_t producer_id) noexcept nogil:
    cdef uint32_t hole = find_bucket(table, producer_id), b, home
    cdef int32_t place
    table.buckets[hole] = 0
    b = (hole + 1) & table.bucket_mask
    # what stands behind the hole without a gap may have been pushed over it: put it in again
    while table.buckets[b]:
        place = table.buckets[b]
        table.buckets[b] = 0
        home = find_bucket(table, table.entries[place - 1].producer_id)
        table.buckets[home] = place
        b = (b + 1) & table.bucket_mask


cdef void unlink_entry(ProducerTable table, int32_t i) noexcept nogil:
    cdef int32_t older = table.entries[i].older, newer = table.entries[i].newer
    if older >= 0:
        table.entries[older].newer = newer
    else:
        table.oldest = newer
    if newer >= 0:
        table.entries[newer].older = older
    else:
        table.newest = older


cdef void link_newest(ProducerTable table, int32_t i) noexcept nogil:
    table.entries[i].older = table.newest
    table.entries[i].newer = -1
    if table.newest >= 0:
        table.entries[table.newest].newer = i
    else:
        table.oldest = i
    table.newest = i


cdef void remember(
    producer_entry_t* entry, uint32_t epoch, const produced_batch_t* produced, int64_t timestamp
) noexcept nogil:
    if epoch > entry.epoch:
        entry.epoch = epoch
    if produced.last_sequence <= entry.last_sequence:    # read once more, or a footer that repeats it
        return
    entry.first_sequence = produced.first_sequence
    entry.last_sequence = produced.last_sequence
    entry.last_offset = produced.last_offset
    entry.last_timestamp = timestamp
    if entry.window_count == entry.window_size and entry.window_size < PRODUCER_WINDOW:
        grow_window(entry)
    if entry.window_size == 0:      # no memory: duplicates are still found, only their offsets are not told
        return
    entry.window[entry.window_next] = produced[0]
    entry.window_next = (entry.window_next + 1) % entry.window_size
    if entry.window_count < entry.window_size:
        entry.window_count += 1


cdef void grow_window(producer_entry_t* entry) noexcept nogil:
    """Double the ring, oldest batch first; where there is no memory it stays as it is."""
    cdef int32_t size = entry.window_size * 2 if entry.window_size else FIRST_WINDOW
    cdef int32_t behind = entry.window_size - entry.window_next
    cdef produced_batch_t* window = <produced_batch_t*> malloc(size * sizeof(produced_batch_t))
    if window is NULL:
        return
    if entry.window_size:
        memcpy(window, entry.window + entry.window_next, behind * sizeof(produced_batch_t))
        memcpy(window + behind, entry.window, entry.window_next * sizeof(produced_batch_t))
    free(entry.window)
    entry.window = window
    entry.window_next = entry.window_size
    entry.window_size = size


cdef int64_t window_offset(const producer_entry_t* entry, int64_t sequence) noexcept nogil:
    """Offset of the record with `sequence`, or -1: beyond the window, or in a batch with gaps."""
    cdef int32_t i
    cdef const produced_batch_t* produced
    for i in range(entry.window_count):
        produced = &entry.window[i]
        if produced.first_sequence <= sequence <= produced.last_sequence:
            if sequence == produced.last_sequence:
                return produced.last_offset
            if produced.base_offset < 0:
                return -1
            if sequence == produced.first_sequence:
                return produced.base_offset
            # a difference of i64 may not fit one: compare modulo 2^64
            if (
                <uint64_t> produced.last_offset - <uint64_t> produced.base_offset
                == <uint64_t> produced.last_sequence - <uint64_t> produced.first_sequence
            ):
                return produced.base_offset + (sequence - produced.first_sequence)
            return -1
    return -1


@cython.final
cdef class ProducerIdentity:
    """The exclusive holder of a producer id: opening it raises the epoch, which fences the older holder.

    Args:
        data_dir: the data directory; `producers/<producer_id>` is made where it is not there.
        producer_id: a name of 1 to 200 letters, digits, `.`, `_` or `-`.

    Raises:
        ConfigError: not a name, or its 2^32 epochs are used up.
        CorruptionError: its file is damaged. Nothing is guessed: an epoch that falls would let a fenced
            producer write again.
        LockTimeoutError: another process has been opening producers for 10 seconds.
        DiskFullError, DurabilityError: the raised epoch cannot be kept.
    """

    def __cinit__(self):
        self.closed = True

    def __init__(self, data_dir: str, producer_id: str):
        if self.mapped_epoch is not NULL:
            raise ConfigError("a ProducerIdentity is opened once")
        self.producer_id = check_name(producer_id, "producer id")
        directory = os.path.join(data_dir, "producers")
        self.path = os.path.join(directory, producer_id)
        make_directory(directory)
        with locked_directory(directory) as directory_fd:
            fd = self._open(directory_fd)
            try:
                self._raise_epoch(fd)
                self._map(fd)
            finally:
                os.close(fd)
        self.forks = fork_count()
        self.closed = False

    def __dealloc__(self):
        if self.mapped_epoch is not NULL:
            munmap(<void*> (<const uint8_t*> self.mapped_epoch - ID_EPOCH), IDENTITY_BYTES)

    cpdef bint fenced(self) noexcept nogil:
        """Say whether this object may no longer write as its producer: fenced, closed or inherited."""
        return self.closed or (<const volatile uint32_t*> self.mapped_epoch)[0] != self.epoch \
            or self.forks != fork_count()

    def close(self) -> None:
        """Stop being the holder; the id and its epoch stay on disk."""
        self.closed = True

    def _open(self, directory_fd):
        try:
            return open_plain(directory_fd, self.producer_id, self.path)
        except FileNotFoundError:
            pass
        remove_leftovers(directory_fd)
        fresh = encode_identity(0, int.from_bytes(os.urandom(8), "little"))
        place_file(directory_fd, self.producer_id, fresh, self.path)
        return open_plain(directory_fd, self.producer_id, self.path)

    def _raise_epoch(self, fd):
        cdef bytes stored = os.pread(fd, IDENTITY_BYTES + 1, 0)
        cdef const uint8_t* p = <const uint8_t*> <const char*> stored
        if len(stored) == IDENTITY_BYTES and stored[:8] == b"pylogprd" and load32(p + ID_VERSION) > 1:
            raise FormatError(f"{self.path} has version {load32(p + ID_VERSION)}; this release reads 1")
        if (
            len(stored) != IDENTITY_BYTES
            or stored[:8] != b"pylogprd"
            or load64(p + ID_CHECKSUM) != header_checksum(p, ID_CHECKSUM, 0, 0)
        ):
            raise CorruptionError(
                f"{self.path} is damaged: its sequences cannot be told any more. Give the producer another "
                "id, or remove the file where no producer of this id lives",
                path=self.path, position=0,
            )
        if load32(p + ID_EPOCH) == <uint32_t> LAST_EPOCH:
            raise ConfigError(f"producer id {self.producer_id!r} was opened 2^32 times; use another one")
        self.id = load64(p + ID_PRODUCER_ID)
        self.epoch = load32(p + ID_EPOCH) + (0 if planted("producer_not_fenced") else 1)
        try:
            # one write inside one sector: whoever is killed here leaves the old bytes or the new ones
            if os.pwrite(fd, encode_identity(self.epoch, self.id), 0) != IDENTITY_BYTES:
                raise DurabilityError(f"{self.path}: the raised epoch was written in part")
        except OSError as error:
            raise clear_error(error, self.path) from None
        try:
            os.fdatasync(fd)
        except OSError as error:
            raise DurabilityError(f"{self.path}: the epoch cannot be synced: {error.strerror}") from None
        failpoint("producer.epoch_raised")

    def _map(self, fd):
        cdef void* mapped = mmap(NULL, IDENTITY_BYTES, PROT_READ, MAP_SHARED, <int> fd, 0)
        if mapped is MAP_FAILED:
            raise MemoryError(f"cannot map {self.path}")
        self.mapped_epoch = <const uint32_t*> (<const uint8_t*> mapped + ID_EPOCH)


cdef bytes encode_identity(uint32_t epoch, uint64_t producer_id):
    cdef uint8_t out[IDENTITY_BYTES]
    memset(out, 0, IDENTITY_BYTES)
    memcpy(out, b"pylogprd", 8)
    store32(out + ID_VERSION, 1)
    store32(out + ID_EPOCH, epoch)
    store64(out + ID_PRODUCER_ID, producer_id)
    store64(out + ID_CHECKSUM, header_checksum(out, ID_CHECKSUM, 0, 0))
    return out[:IDENTITY_BYTES]
