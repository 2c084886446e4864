# cython: language_level=3
"""Syncing a partition: group commit with one leader, interval duty, poison. No GIL, no Python objects."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from logcore.control cimport atomic_load64, control_header_t, partition_slot_t

cdef struct kept_file_t:                    # the descriptor by which this process syncs a partition
    int64_t base_offset                     # of its segment
    uint32_t named_epoch
    int fd                                  # -1: none

cdef struct topic_sync_t:                   # one per opened topic and engine; owned by its TopicLog
    control_header_t* header
    partition_slot_t* slots
    uint64_t* dirty                         # the control file's bitmap of partitions with unsynced bytes
    int directory_fd                        # of topics/<topic>
    int partitions
    int64_t interval_ns                     # 0: no interval duty (durability "os")
    uint64_t syncs                          # fdatasyncs led by this engine, for metrics
    kept_file_t* kept                       # one per partition; whoever holds its sync lock may use it

cdef enum:
    SEALED_ONLY = 0                         # as a target: the sealed segment, not the one that is appended to

cdef int sync_partition(
    topic_sync_t* topic, int partition, uint64_t target, int64_t timeout_ns
) noexcept nogil
# returns when byte_pos `target` is on disk: 0; EAGAIN where a roller died (take the append lock, which mends,
# and try again); ETIMEDOUT where another has led for so long; a negative errno where no sync was tried; else
# an errno after poisoning the partition for everybody

cdef int64_t sync_due(topic_sync_t* topic, int64_t now) noexcept nogil
# syncs each dirty partition whose oldest unsynced byte is interval_ns old; returns ns until the next is due,
# or -1

cdef int keep_files(topic_sync_t* topic) except -1
cdef bint close_files(topic_sync_t* topic) noexcept nogil
cdef void drop_files(topic_sync_t* topic) noexcept nogil
# makes room for `kept`; closes what is kept (True: no thread syncs now); frees it, when none can any more

cdef void note_unsynced(topic_sync_t* topic, int partition) noexcept nogil
# after publishing and a full fence, unless is_noted(): starts the clock of the oldest unsynced byte and sets
# the dirty bit

cdef void note_forgotten(topic_sync_t* topic) noexcept nogil
# somebody died: note what it published or left unsynced and could not note

cdef inline bint is_noted(topic_sync_t* topic, int partition) noexcept nogil:
    """Whether the dirty bit is set: somebody will sync what was published before this look."""
    return atomic_load64(&topic.dirty[partition >> 6]) >> (partition & 63) & 1
