# cython: language_level=3
"""The partitions of one opened topic."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from logcore.builder cimport BatchBuilder
from logcore.control cimport ControlFile
from logcore.partition_log cimport Guard, PartitionLog
from logcore.processes cimport Registry
from logcore.record_ids cimport RecordId, RecordIds
from logcore.service cimport Service
from logcore.sync cimport topic_sync_t

cdef enum durability_policy:
    DURABILITY_OS = 0
    DURABILITY_INTERVAL = 1
    DURABILITY_SYNC = 2

cdef enum:
    COMPRESSION_LEVEL = 3                    # of zstd, for whoever encodes batches of a topic

cdef int durability_code(object durability) except -1        # ConfigError for an unknown name

cdef int64_t check_timestamp(object timestamp) except? -1     # ns since 1970; STAMP_NOW for None

cdef class TopicLog:
    cdef ControlFile control
    cdef Registry registry
    cdef Service service
    cdef topic_sync_t sync_state             # what the sync thread sees of this topic
    cdef bint served                         # the service holds sync_state
    cdef list logs                           # PartitionLog, None where not opened yet
    cdef list spare_builders
    cdef dict key_indexes                    # partition -> KeyIndex, opened on demand
    cdef readonly str name
    cdef readonly str directory
    cdef readonly bytes uuid
    cdef readonly int partitions
    cdef readonly bint read_only
    cdef readonly bint closed
    cdef unsigned long closed_by             # as in PartitionLog
    cdef bint use_xxh3
    cdef int codec
    cdef readonly int durability             # durability_policy
    cdef uint64_t segment_bytes, max_record_bytes, max_unsynced_bytes
    cdef int64_t lock_timeout_ns
    cdef uint32_t generation                 # of the configuration that we were opened with
    cdef uint32_t next_partition             # round robin for batches without keys

    cdef PartitionLog log(self, int partition)               # opened on demand
    cdef int partition_of(self, const uint8_t* key, Py_ssize_t key_bytes) noexcept nogil
    cdef bint is_unsynced(self, int partition) noexcept nogil
    cdef int turn(self) noexcept nogil                       # the partition of the next batch without keys
    cdef int check_partition(self, object partition) except -1
    cdef int check_record(
        self, Py_ssize_t key_bytes, Py_ssize_t value_bytes, Py_ssize_t headers_bytes
    ) except -1
    cdef int64_t batch_budget(self) noexcept nogil           # a builder that reaches it is flushed
    cdef RecordId append_one(
        self, object value, object key, object partition, object headers, object timestamp, object durability,
        object guard
    )
    cdef int append_builder(
        self, BatchBuilder builder, int partition, uint64_t producer_id, uint32_t producer_epoch,
        bint has_producer, int durability, int64_t* base_offset, Guard guard,
    ) except -1
    # one batch; the builder keeps its records where this raises, and is reset where it returns
    cdef RecordId append_built(
        self, int partition, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value,
        Py_ssize_t value_bytes, const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp,
        int policy, Guard guard,
    )
    cdef int detach(self, bint shared) except -1             # shared: other threads may be in a call of ours
    cdef BatchBuilder take_builder(self)
    cdef void give_builder(self, BatchBuilder builder)
