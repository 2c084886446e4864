# cython: language_level=3
"""Syncing a partition: group commit with one leader, interval duty, poison. No GIL, no Python objects.

Whoever holds a partition's sync lock is the leader: it syncs what is published and answers everybody who
waits, in all processes. A failed sync is never retried as if nothing had happened (reliability.md, danger
11): the partition is poisoned. Invariant: synced_end moves only after fdatasync of every segment below it,
and of the directory where a segment is new.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc

from logcore.control cimport (
    PARTITION_POISONED, PARTITION_READY, atomic_add, atomic_load32, atomic_load64, atomic_loadi64, atomic_or,
    atomic_store32, atomic_store64, atomic_storei64, full_fence, partition_slot_t,
)
from logcore.failpoints cimport failpoint, failpoint_errno, planted
from logcore.linux cimport (
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, EAGAIN, EBUSY, EINTR, EIO, EOWNERDEAD, ETIMEDOUT, O_CLOEXEC, O_DIRECTORY,
    O_NOFOLLOW, O_RDONLY, O_RDWR, clock_ns, close, fdatasync, fsync, futex_wait, futex_wake,
    mutex_lock_within, openat, pthread_mutex_consistent, pthread_mutex_trylock, pthread_mutex_unlock,
)
from logcore.segment cimport NAME_BYTES, segment_name

cdef extern from *:
    """
    #include <sched.h>
    static inline uint64_t clear_bit(uint64_t *word, uint64_t bit) {
        return __atomic_fetch_and(word, ~bit, __ATOMIC_SEQ_CST);
    }
    """
    uint64_t clear_bit(uint64_t* word, uint64_t bit) nogil
    int sched_yield() nogil

cdef enum:
    MOST_KEPT_FILES = 256           # by all topics of this process; beyond it a file is opened for each sync
    LINGER_NS = 60_000              # most that a leader waits for the writers of the last round
    SNAPSHOT_TRIES = 10_000
    CLOSE_WAIT_NS = 1_000_000_000   # most that closing waits for a sync of another process
    WAIT_NS = 50_000_000            # a waiter looks again after so long, in case the leader died

cdef struct snapshot_t:             # what of a partition belongs together at one instant
    uint64_t end
    int64_t next_offset
    int64_t active_base_offset
    uint32_t active_named_epoch
    int64_t sealed_base_offset
    uint64_t sealed_end
    uint32_t sealed_named_epoch


cdef uint32_t kept_files = 0        # descriptors that this process keeps


cdef int keep_files(topic_sync_t* topic) except -1:
    cdef int i
    topic.kept = <kept_file_t*> malloc(topic.partitions * sizeof(kept_file_t))
    if topic.kept is NULL:
        raise MemoryError()
    for i in range(topic.partitions):
        topic.kept[i].fd = -1
    return 0


cdef bint close_files(topic_sync_t* topic) noexcept nogil:
    cdef int i, error
    cdef bint unused = True
    cdef int64_t until = clock_ns(CLOCK_MONOTONIC) + CLOSE_WAIT_NS
    for i in range(topic.partitions):
        # also where nothing is kept: whoever syncs there opens files by our directory
        error = pthread_mutex_trylock(&topic.slots[i].sync_lock)
        if error == EBUSY:
            error = mutex_lock_within(&topic.slots[i].sync_lock, max(until - clock_ns(CLOCK_MONOTONIC), 0))
        if error == EOWNERDEAD:
            pthread_mutex_consistent(&topic.slots[i].sync_lock)
        elif error:                          # a stopped process leads: drop_files() will close it
            unused = False
            continue
        forget(&topic.kept[i])
        pthread_mutex_unlock(&topic.slots[i].sync_lock)
    return unused


cdef void drop_files(topic_sync_t* topic) noexcept nogil:
    cdef int i
    if topic.kept is NULL:
        return
    for i in range(topic.partitions):
        forget(&topic.kept[i])
    free(topic.kept)
    topic.kept = NULL


cdef void forget(kept_file_t* kept) noexcept nogil:
    if kept.fd >= 0:
        close(kept.fd)
        kept.fd = -1
        atomic_add(&kept_files, <uint32_t> -1)


cdef void note_unsynced(topic_sync_t* topic, int partition) noexcept nogil:
    cdef partition_slot_t* slot = &topic.slots[partition]
    if atomic_loadi64(&slot.first_unsynced_at) == 0:
        atomic_storei64(&slot.first_unsynced_at, clock_ns(CLOCK_BOOTTIME))
    failpoint("sync.noting")
    atomic_or(&topic.dirty[partition >> 6], <uint64_t> 1 << (partition & 63))


cdef void note_forgotten(topic_sync_t* topic) noexcept nogil:
    cdef int i
    for i in range(topic.partitions):
        if atomic_load32(&topic.slots[i].state) == PARTITION_READY and (
            atomic_load64(&topic.slots[i].end) != atomic_load64(&topic.slots[i].synced_end)
        ):
            note_unsynced(topic, i)


cdef bint take_snapshot(partition_slot_t* slot, snapshot_t* out) noexcept nogil:
    """Read without the append lock: `rolls` is odd while the names change, and differs after they did.

    False where they stay odd: whoever rolled is slow or dead.
    """
    cdef int _try
    cdef uint32_t rolls
    cdef uint64_t staged
    cdef int64_t staged_next, next_offset
    for _try in range(SNAPSHOT_TRIES):
        rolls = atomic_load32(&slot.rolls)
        if rolls & 1:
            sched_yield()
            continue
        out.end = atomic_load64(&slot.end)
        staged_next = atomic_loadi64(&slot.writing_next_offset)
        staged = atomic_load64(&slot.writing_end)
        next_offset = atomic_loadi64(&slot.next_offset)
        out.next_offset = staged_next if staged == out.end else next_offset
        out.active_base_offset = atomic_loadi64(&slot.active_base_offset)
        out.active_named_epoch = atomic_load32(&slot.active_named_epoch)
        out.sealed_base_offset = atomic_loadi64(&slot.sealed_base_offset)
        out.sealed_end = atomic_load64(&slot.sealed_end)
        out.sealed_named_epoch = atomic_load32(&slot.sealed_named_epoch)
        full_fence()
        if atomic_load64(&slot.end) == out.end and atomic_load32(&slot.rolls) == rolls:
            return True
    return False


cdef int sync_file(
    topic_sync_t* topic, int partition, int64_t base_offset, uint32_t named_epoch
) noexcept nogil:
    """fdatasync by a descriptor that stays: it is told of every failed writeback since it was opened, once.

    A name never comes to stand for another file that has unsynced bytes: a cut goes on under a new epoch.
    0, an errno of the sync, or a negative one where there is no descriptor to sync by.
    """
    cdef char name[NAME_BYTES]
    cdef kept_file_t* kept = &topic.kept[partition]
    cdef int error
    if kept.fd < 0 or kept.base_offset != base_offset or kept.named_epoch != named_epoch:
        forget(kept)
        segment_name(name, partition, base_offset, named_epoch)
        kept.fd = openat(topic.directory_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        if kept.fd < 0:
            return -errno
        kept.base_offset, kept.named_epoch = base_offset, named_epoch
        atomic_add(&kept_files, 1)
    error = failpoint_errno("sync.fdatasync")
    while error == 0 and fdatasync(kept.fd) != 0:
        error = errno if errno != EINTR else 0
    if error and planted("retry_failed_sync"):
        error = 0 if fdatasync(kept.fd) == 0 else errno
    if error or atomic_load32(&kept_files) > MOST_KEPT_FILES:
        forget(kept)
    return error


cdef int sync_directory(topic_sync_t* topic, int partition) noexcept nogil:
    cdef char name[NAME_BYTES]
    cdef int fd, error = 0
    if planted("no_directory_sync"):
        return 0
    snprintf(name, NAME_BYTES, "%d", partition)
    fd = openat(topic.directory_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    if fd < 0:
        return -errno
    while error == 0 and fsync(fd) != 0:
        error = errno if errno != EINTR else 0
    close(fd)
    return error


cdef int lead(topic_sync_t* topic, int partition, bint sealed_only) noexcept nogil:
    """Sync what is published now, or what is sealed of it; the sync lock is held. 0 or an errno."""
    cdef partition_slot_t* slot = &topic.slots[partition]
    cdef snapshot_t now
    cdef int error = 0
    cdef uint32_t arrivals = atomic_load32(&slot.sync_arrivals)     # all of these published before they came
    if not take_snapshot(slot, &now):
        return EAGAIN
    failpoint("sync.begin")
    if now.sealed_base_offset >= 0 and not planted("seal_not_synced"):
        error = sync_file(topic, partition, now.sealed_base_offset, now.sealed_named_epoch)
        if error == 0:
            error = sync_directory(topic, partition)
    failpoint("sync.sealed")
    if error == 0 and not sealed_only:
        error = sync_file(topic, partition, now.active_base_offset, now.active_named_epoch)
    if error:
        # not where none was tried, nor where another thread closed the topic: the disk did not fail
        if error > 0 and topic.directory_fd >= 0 and not planted("poison_forgotten"):
            atomic_store32(&slot.state, PARTITION_POISONED)
        return error
    failpoint("sync.done")
    topic.syncs += 1
    if sealed_only:
        # what is unsynced now is younger than first_unsynced_at says: it is synced too early, never too late
        if now.sealed_base_offset >= 0:
            atomic_storei64(&slot.synced_offset, now.active_base_offset)
            atomic_store64(&slot.synced_end, now.sealed_end)
            failpoint("sync.sealed_stated")
            atomic_storei64(&slot.sealed_base_offset, -1)
        return 0
    expect_writers(slot, arrivals)
    if now.sealed_base_offset >= 0:         # a roll waits until this is -1, so nobody else changes it
        atomic_storei64(&slot.sealed_base_offset, -1)
    atomic_storei64(&slot.synced_offset, now.next_offset)
    atomic_store64(&slot.synced_end, now.end)
    failpoint("sync.stated")
    # an append that still saw the bit set is found by looking again; if we die before that, by the living,
    # who look at all partitions then
    clear_bit(&topic.dirty[partition >> 6], <uint64_t> 1 << (partition & 63))
    atomic_storei64(&slot.first_unsynced_at, 0)
    failpoint("sync.cleared")
    full_fence()
    if atomic_load64(&slot.end) != now.end:
        note_unsynced(topic, partition)
    return 0


cdef void expect_writers(partition_slot_t* slot, uint32_t arrivals) noexcept nogil:
    """Note how many came since the last sync began, and that those are answered who came before this one.

    The expectation rises at once and falls one by one, since a writer that was late is mostly there again.
    """
    cdef uint32_t came = atomic_load32(&slot.sync_arrivals) - slot.sync_answered
    if came >= slot.sync_writers:
        slot.sync_writers = came
    else:
        slot.sync_writers -= 1
    slot.sync_answered = arrivals


cdef void linger(partition_slot_t* slot) noexcept nogil:
    """Give the writers of the last round, in all processes, a moment to be part of this one."""
    cdef int64_t until
    if slot.sync_writers <= 1:
        return
    until = clock_ns(CLOCK_MONOTONIC) + LINGER_NS
    while atomic_load32(&slot.sync_arrivals) - slot.sync_answered < slot.sync_writers:
        if clock_ns(CLOCK_MONOTONIC) >= until:
            return
        sched_yield()


cdef bint is_synced(partition_slot_t* slot, uint64_t target) noexcept nogil:
    if target == SEALED_ONLY:
        return atomic_loadi64(&slot.sealed_base_offset) < 0
    return atomic_load64(&slot.synced_end) >= target


cdef int sync_partition(
    topic_sync_t* topic, int partition, uint64_t target, int64_t timeout_ns
) noexcept nogil:
    cdef partition_slot_t* slot = &topic.slots[partition]
    cdef int64_t until = 0
    cdef uint32_t seen_round
    cdef bint led, came = False
    cdef int error
    while True:
        if is_synced(slot, target):
            return 0
        if atomic_load32(&slot.state) == PARTITION_POISONED:
            return EIO
        if not came and target != SEALED_ONLY:
            atomic_add(&slot.sync_arrivals, 1)
            came = True
        seen_round = atomic_load32(&slot.sync_round)
        failpoint("sync.arrived")
        error = pthread_mutex_trylock(&slot.sync_lock)
        if error == EBUSY:
            if until == 0:
                until = clock_ns(CLOCK_MONOTONIC) + timeout_ns
            if clock_ns(CLOCK_MONOTONIC) >= until:
                return ETIMEDOUT
            atomic_add(&slot.sync_waiters, 1)
            if not is_synced(slot, target):
                futex_wait(&slot.sync_round, seen_round, WAIT_NS)
            atomic_add(&slot.sync_waiters, <uint32_t> -1)
            continue
        if error == EOWNERDEAD:
            pthread_mutex_consistent(&slot.sync_lock)
            atomic_store32(&slot.sync_waiters, 0)
        elif error:
            return error
        error = 0
        led = not is_synced(slot, target)
        if led and atomic_load32(&slot.state) == PARTITION_POISONED:
            error = EIO            # by the leader before us: a sync would succeed now, and prove nothing
        elif led:
            if target != SEALED_ONLY:
                linger(slot)
            error = lead(topic, partition, target == SEALED_ONLY)
        pthread_mutex_unlock(&slot.sync_lock)
        atomic_add(&slot.sync_round, 1)
        if atomic_load32(&slot.sync_waiters):
            futex_wake(&slot.sync_round, 0x7FFFFFFF)
        if led or error:
            return error


cdef int64_t sync_due(topic_sync_t* topic, int64_t now) noexcept nogil:
    cdef int word, bit, partition
    cdef uint64_t dirty
    cdef int64_t since, age, next_due = -1
    if atomic_load32(&topic.header.deleted):
        return -1
    for word in range((topic.partitions + 63) // 64):
        dirty = atomic_load64(&topic.dirty[word])
        for bit in range(64):
            if dirty == 0:
                break
            if not dirty & 1:
                dirty >>= 1
                continue
            dirty >>= 1
            partition = word * 64 + bit
            if partition >= topic.partitions:       # of a topic that grew: who opened it since serves it
                break
            if atomic_load32(&topic.slots[partition].state) != PARTITION_READY:
                continue
            if atomic_loadi64(&topic.slots[partition].sealed_base_offset) >= 0:
                # the next roll waits for it
                sync_partition(topic, partition, SEALED_ONLY, 0)
            if topic.interval_ns == 0:
                continue
            since = atomic_loadi64(&topic.slots[partition].first_unsynced_at)
            age = now - since if since else topic.interval_ns
            if age >= topic.interval_ns:
                sync_partition(topic, partition, atomic_load64(&topic.slots[partition].end), 0)
                age = 0
                if atomic_loadi64(&topic.slots[partition].first_unsynced_at) == 0:
                    continue
            if next_due < 0 or topic.interval_ns - age < next_due:
                next_due = topic.interval_ns - age
    return next_due
