# cython: language_level=3
"""One append_many on its way: values from lists or columns, into batches, into partitions.

Where no record can go another way than its neighbours (one partition, or no keys) whole stretches go into
each batch; else each record is dealt to its key's partition. Invariant: types, sizes and counts are checked
before the first batch is appended, and `ids` always tells exactly what is in.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Check
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport malloc

from logcore.binary_columns cimport is_columns, record_columns
from logcore.builder cimport BatchBuilder
from logcore.control cimport atomic_load64
from logcore.format cimport MAX_RECORDS_PER_BATCH
from logcore.key_index cimport guard_of
from logcore.inputs cimport NULL_LENGTH, check_list, fast_items, item_bytes
from logcore.partition_log cimport PartitionLog
from logcore.record_headers cimport encode_headers
from logcore.record_ids cimport RecordIds, new_record_ids
from logcore.single_batch cimport STAMP_NOW
from logcore.topic_log cimport DURABILITY_OS, DURABILITY_SYNC, TopicLog, check_timestamp, durability_code

from collections.abc import Mapping

from logcore.errors import ConfigError, PartialAppendError, RecordTooLargeError


cdef class BulkAppend:
    """What TopicLog.append_many was given, checked. Raises TypeError, ValueError, RecordTooLargeError."""

    def __cinit__(self, TopicLog topic, values: object, keys: object, timestamps: object, headers: object):
        self.topic = topic
        if is_columns(values):
            self.columns = record_columns(values, keys)
            self.count = self.columns.count
        else:
            check_list(values, keys)
            self.values, self.keys = values, keys
            self.count = len(values)
        for name, given in (("timestamps", timestamps), ("headers", headers)):
            if given is None:
                continue
            if not PySequence_Check(given):
                raise TypeError(f"{name} are a list, one for each value, not {type(given).__name__}")
            if len(given) != self.count:
                raise ValueError(f"{len(given)} {name} for {self.count} values: one for each is needed")
        if timestamps is not None:
            if hasattr(timestamps, "tolist"):    # an array: numbers of Python's own
                timestamps = timestamps.tolist()
            self.timestamps = [check_timestamp(timestamp) for timestamp in timestamps]
        if headers is not None:
            self.headers = [encode_headers(one) for one in headers]
        self.check_sizes()
        self.ids = new_record_ids(topic.name)
        self.touched = {}

    cdef int check_sizes(self) except -1:
        cdef Py_ssize_t i, key_bytes = NULL_LENGTH, value_bytes = NULL_LENGTH
        cdef const uint8_t* data = NULL
        cdef PyObject** values
        cdef PyObject** keys
        cdef uint64_t limit = self.topic.max_record_bytes
        if self.headers is not None:
            for i in range(self.count):
                self.record(i, &data, &key_bytes, &data, &value_bytes)
                self.topic.check_record(key_bytes, value_bytes, PyBytes_GET_SIZE(<bytes> self.headers[i]))
            return 0
        if self.columns is not None:
            return self.topic.check_record(NULL_LENGTH, self.columns.largest(), 0)
        values = fast_items(self.values)
        keys = NULL if self.keys is None else fast_items(self.keys)
        for i in range(self.count):
            item_bytes(values[i], &data, &value_bytes)
            if keys is not NULL:
                item_bytes(keys[i], &data, &key_bytes)
            if <uint64_t> (max(value_bytes, 0) + max(key_bytes, 0)) > limit:
                self.topic.check_record(key_bytes, value_bytes, 0)
        return 0

    def run(self, partition, durability: str | None) -> RecordIds:
        """Append everything, to `partition` if given, and return the ids. Raises PartialAppendError."""
        cdef int policy = self.topic.durability if durability is None else durability_code(durability)
        cdef int where = -1 if partition is None else self.topic.check_partition(partition)
        cdef bint keyless = (self.keys is None) if self.columns is None else self.columns.keys is None
        cdef PartitionLog log
        try:
            if self.timestamps is None and self.headers is None and (
                where >= 0 or self.topic.partitions == 1 or keyless
            ):
                self.run_in_order(where)
            else:
                self.run_scattered(where)
            if policy == DURABILITY_SYNC:
                for touched, epoch in self.touched.items():
                    log = self.topic.log(touched)
                    log.sync_appended(epoch, atomic_load64(&log.slot.end))
        except Exception as error:
            if self.appended:
                raise PartialAppendError(
                    f"{self.appended} of {self.count} records are in, then: {error}", appended=self.ids
                ) from error
            raise
        return self.ids

    def run_guarded(self, partition, durability: str | None, guard: object) -> RecordIds:
        """Append everything as one batch to one partition, while the guard holds, and return the ids."""
        cdef int policy = self.topic.durability if durability is None else durability_code(durability)
        cdef int where = -1 if partition is None else self.topic.check_partition(partition)
        cdef const uint8_t* key = NULL
        cdef const uint8_t* value = NULL
        cdef const uint8_t* headers = NULL
        cdef Py_ssize_t key_bytes = NULL_LENGTH, value_bytes = 0, headers_bytes = 0, i
        cdef int64_t stamp = STAMP_NOW, offset = -1
        cdef BatchBuilder builder = self.topic.take_builder()
        if not isinstance(guard, Mapping):
            raise TypeError(f"append_many() takes a guard as a mapping of keys, not {type(guard).__name__}")
        if self.count > MAX_RECORDS_PER_BATCH:
            raise RecordTooLargeError(
                f"{self.count} records with a guard: a batch has {MAX_RECORDS_PER_BATCH}",
                size=self.count, limit=MAX_RECORDS_PER_BATCH,
            )
        for i in range(self.count):
            self.record(i, &key, &key_bytes, &value, &value_bytes)
            if where < 0:
                if key_bytes == NULL_LENGTH:
                    raise ConfigError("append_many() with a guard needs a partition, or keys that say which")
                where = self.topic.partition_of(key, key_bytes)
            elif partition is None and self.topic.partition_of(key, key_bytes) != where:
                raise ConfigError("append_many() with a guard: all records belong into one partition")
            if self.timestamps is not None:
                stamp = self.timestamps[i]
            if self.headers is not None:
                headers = <const uint8_t*> PyBytes_AS_STRING(<bytes> self.headers[i])
                headers_bytes = PyBytes_GET_SIZE(<bytes> self.headers[i])
            builder.add(key, key_bytes, value, value_bytes, headers, headers_bytes, stamp, -1)
        if self.count:
            self.topic.append_builder(
                builder, where, 0, 0, False, policy, &offset,
                guard_of(self.topic.key_index(where), None, guard),
            )
            self.ids.add_run(where, offset, self.count)
        self.topic.give_builder(builder)
        return self.ids

    cdef int flush(self, BatchBuilder builder, int partition) except -1:
        cdef int64_t offset = -1
        cdef int records = builder.record_count
        self.touched.setdefault(partition, self.topic.epoch(partition))
        self.topic.append_builder(builder, partition, 0, 0, False, DURABILITY_OS, &offset, None)
        self.ids.add_run(partition, offset, records)
        self.appended += records
        return 0

    cdef int run_in_order(self, int where) except -1:
        """All to one partition, or each batch to the next."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t budget = self.topic.batch_budget()
        cdef BatchBuilder builder = self.topic.take_builder()
        while start < self.count:
            if self.columns is not None:
                start += self.columns.add(builder, start, budget)
            else:
                start += builder.add_list(self.values, self.keys, start, self.count, budget)
            if (
                builder.body_bytes >= budget
                or builder.record_count == MAX_RECORDS_PER_BATCH
                or start == self.count
            ):
                self.flush(builder, where if where >= 0 else self.topic.turn())
        self.topic.give_builder(builder)
        return 0

    cdef int record(
        self, Py_ssize_t i, const uint8_t** key, Py_ssize_t* key_bytes, const uint8_t** value,
        Py_ssize_t* value_bytes,
    ) except -1:
        if self.columns is not None:
            return self.columns.record(i, key, key_bytes, value, value_bytes)
        item_bytes(fast_items(self.values)[i], value, value_bytes)
        if self.keys is not None:
            item_bytes(fast_items(self.keys)[i], key, key_bytes)
        return 0

    cdef int run_scattered(self, int where) except -1:
        """Each record to its key's partition; records without a key share one partition per call."""
        cdef int32_t* partition_of = <int32_t*> malloc(max(self.count, 1) * sizeof(int32_t))
        cdef const uint8_t* key = NULL
        cdef const uint8_t* value = NULL
        cdef const uint8_t* headers = NULL
        cdef Py_ssize_t key_bytes = NULL_LENGTH, value_bytes = 0, headers_bytes = 0, i
        cdef Py_ssize_t budget = self.topic.batch_budget()
        cdef int64_t stamp = STAMP_NOW
        cdef int32_t partition
        cdef int keyless = where if where >= 0 else self.topic.turn()
        cdef list builders = [None] * self.topic.partitions
        cdef BatchBuilder builder
        cdef bytes encoded
        if partition_of is NULL:
            raise MemoryError()
        self.ids.scatter(partition_of, self.count)      # owns it from here on
        for i in range(self.count):
            self.record(i, &key, &key_bytes, &value, &value_bytes)
            partition = keyless
            if where < 0 and key_bytes != NULL_LENGTH:
                partition = self.topic.partition_of(key, key_bytes)
            partition_of[i] = partition
            if self.timestamps is not None:
                stamp = self.timestamps[i]
            if self.headers is not None:
                encoded = self.headers[i]
                headers = <const uint8_t*> PyBytes_AS_STRING(encoded)
                headers_bytes = PyBytes_GET_SIZE(encoded)
            builder = <BatchBuilder> builders[partition]
            if builder is None:
                builder = builders[partition] = self.topic.take_builder()
            builder.add(key, key_bytes, value, value_bytes, headers, headers_bytes, stamp, -1)
            if builder.body_bytes >= budget or builder.record_count == MAX_RECORDS_PER_BATCH:
                self.flush(builder, partition)
        for i in range(self.topic.partitions):
            builder = <BatchBuilder> builders[i]
            if builder is not None:
                if builder.record_count:
                    self.flush(builder, <int> i)
                self.topic.give_builder(builder)
        return 0
