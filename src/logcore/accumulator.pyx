# cython: language_level=3
"""RecordAccumulator: the native part of a producer, which turns single sends into batches.

Not a thread: nothing is written but inside of a call. One caller writes at a time, and while he does nobody
touches a buffer; between such calls the GIL alone guards them. Invariant: a record is taken or refused by the
call that brings it, and one that was taken leaves the buffer only when its batch is in the log, when its
topic is deleted, or in a forked child, whose parent writes it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t

from logcore.builder cimport EMPTY_BYTES, BatchBuilder
from logcore.format cimport MAX_RECORDS_PER_BATCH
from logcore.inputs cimport NULL_LENGTH, item_bytes
from logcore.processes cimport fork_count
from logcore.producers cimport ProducerIdentity
from logcore.record_headers cimport encode_headers
from logcore.record_ids cimport RecordIds, new_record_ids
from logcore.single_batch cimport STAMP_NOW
from logcore.topic_buffer cimport TopicBuffer, progress_t
from logcore.topic_log cimport TopicLog, check_timestamp, durability_code
from logcore.writer_turn cimport WriterTurn

import time

from logcore.errors import (
    BufferFullError, ClosedError, ConfigError, FencedError, LockTimeoutError, ReadOnlyError, UnknownTopicError
)


@cython.auto_pickle(False)
cdef class RecordAccumulator:
    """Collects records by topic and partition and writes each batch that is full. Threads may share it.

    Args:
        engine: whose topics it writes to.
        batch_bytes: a batch that has grown to this is written by the `send` that did it.
        buffer_bytes: the most that all records together take before `send` writes all, or raises.
        raise_when_full: BufferFullError there instead of writing.
        durability: "os", "interval" or "sync" for every batch; None takes the topic's.
        identity: makes the producer idempotent: every send then has a sequence.
        on_delivery: called with the RecordIds of each batch and None, or with none and the exception.
        on_buffering: called where the buffer was empty and now is not, to flush it in time.
    """

    def __cinit__(self, *args, **options):
        self.topics = {}
        self.turn = WriterTurn()
        self.closed = self.unusual = True
        self.forks = fork_count()

    def __init__(
        self, LogDirectory engine not None, *, long long batch_bytes=256 << 10,
        long long buffer_bytes=32 << 20, bint raise_when_full=False, durability=None,
        ProducerIdentity identity=None, on_delivery=None, on_buffering=None,
    ):
        if batch_bytes < 1 or buffer_bytes < 1:
            raise ConfigError("batch_bytes and buffer_bytes are at least 1")
        self.engine = engine
        self.batch_bytes = batch_bytes
        self.most_bytes = buffer_bytes
        self.raise_when_full = raise_when_full
        self.durability = -1 if durability is None else durability_code(durability)
        self.identity = identity
        self.on_delivery = on_delivery
        self.on_buffering = on_buffering
        self.closed = self.unusual = False

    # ---- sending --------------------------------------------------------------------------------------

    @cython.binding(False)
    def send(self, topic, value, key=None, partition=None, headers=None, timestamp=None, sequence=None):
        """Put one record into the buffer; on return it is taken, which is no acknowledgement.

        A batch that is full is written at once. Where that fails its records are kept, and the next call of
        send, flush or close raises; a send that raises has not taken its record.

        Args:
            value: bytes; None is a tombstone.
            key: bytes or None; chooses the partition where none is given. Without both, all records of a
                batch go to one partition, and batches take turns.
            headers: dict or pairs of (str, bytes | None).
            timestamp: ns since 1970, stored as given; the time of the batch where left out.
            sequence: of an idempotent producer, rising; a record that is in the log already is dropped. With
                neither key nor partition it chooses the partition.

        Raises:
            UnknownTopicError, TypeError, ConfigError, RecordTooLargeError, BufferFullError, ClosedError,
            FencedError, and whatever the writing of an earlier batch raised.
        """
        cdef const uint8_t* key_data = NULL
        cdef const uint8_t* value_data = NULL
        cdef Py_ssize_t key_bytes = NULL_LENGTH, value_bytes = NULL_LENGTH
        cdef TopicBuffer buffer
        cdef int where
        if self.unusual or self.forks != fork_count():
            self.attend()
        if topic is self.last_name:
            buffer = self.last
        else:
            buffer = self.turn_to(topic)
        item_bytes(<PyObject*> value, &value_data, &value_bytes)
        item_bytes(<PyObject*> key, &key_data, &key_bytes)
        if (
            partition is not None or headers is not None or timestamp is not None or sequence is not None
            or self.identity is not None
        ):
            self.send_more(
                buffer, key_data, key_bytes, value_data, value_bytes, partition, headers, timestamp, sequence
            )
            return
        if key_bytes + value_bytes > buffer.max_record_bytes:
            buffer.log.check_record(key_bytes, value_bytes, 0)
        if buffer.partitions == 1:
            where = 0
        elif key_bytes >= 0:
            where = buffer.log.partition_of(key_data, key_bytes)
        else:
            where = buffer.keyless()
        self.put(buffer, where, key_data, key_bytes, value_data, value_bytes, NULL, 0, STAMP_NOW, -1)

    cdef int send_more(
        self, TopicBuffer buffer, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value,
        Py_ssize_t value_bytes, object partition, object headers, object timestamp, object sequence,
    ) except -1:
        """The rarer ways of `send`."""
        cdef bytes encoded = encode_headers(headers)
        cdef int64_t stamp = check_timestamp(timestamp)
        cdef int64_t number = -1
        cdef int where
        if sequence is not None or self.identity is not None:
            number = self.check_sequence(sequence)
        buffer.log.check_record(key_bytes, value_bytes, PyBytes_GET_SIZE(encoded))
        if partition is not None:
            where = buffer.log.check_partition(partition)
        elif key_bytes >= 0:
            where = buffer.log.partition_of(key, key_bytes)
        elif number >= 0:
            where = <int> (number % buffer.partitions)
        else:
            where = buffer.keyless()
        if number >= 0 and not buffer.progress[where].asked:
            self.begin()
            try:
                self.ask_log(buffer, where)
            finally:
                self.end()
        return self.put(
            buffer, where, key, key_bytes, value, value_bytes, <const uint8_t*> PyBytes_AS_STRING(encoded),
            PyBytes_GET_SIZE(encoded), stamp, number,
        )

    cdef int64_t check_sequence(self, object sequence) except -1:
        if self.identity is None:
            raise ConfigError("a sequence needs a producer opened with producer_id=")
        if sequence is None:
            raise ConfigError("every record of a producer with a producer_id has a sequence")
        if isinstance(sequence, bool) or not isinstance(sequence, int):
            raise TypeError(f"sequence is an int, not {type(sequence).__name__}")
        if not 0 <= sequence < (1 << 63) - 1:
            raise ConfigError(f"sequence={sequence} is out of range: 0 to 2**63 - 2")
        return sequence

    cdef int put(
        self, TopicBuffer buffer, int partition, const uint8_t* key, Py_ssize_t key_bytes,
        const uint8_t* value, Py_ssize_t value_bytes, const uint8_t* headers, Py_ssize_t headers_bytes,
        int64_t timestamp, int64_t sequence,
    ) except -1:
        """Take one record. From here on no Python code runs but in attend() and in what writes."""
        cdef BatchBuilder builder
        cdef int64_t before
        if self.unusual:
            self.attend()
        if buffer.gone:
            raise ClosedError(f"topic {buffer.name!r} was deleted")
        builder = buffer.builder(partition)
        if sequence >= 0 and sequence <= buffer.progress[partition].taken:
            self.duplicates += 1
            return 0
        if builder.body_bytes >= buffer.budget or self.buffered_bytes >= self.most_bytes:
            self.make_room(buffer)
        before = builder.body_bytes
        builder.add(key, key_bytes, value, value_bytes, headers, headers_bytes, timestamp, sequence)
        if sequence >= 0:
            buffer.progress[partition].taken = sequence
        self.buffered_bytes += builder.body_bytes - before
        self.buffered_records += 1
        self.sent += 1
        if builder.body_bytes >= buffer.budget or builder.record_count == MAX_RECORDS_PER_BATCH:
            self.write_full(buffer, partition)
        elif self.buffered_records == 1 and self.on_buffering is not None:
            self.on_buffering()
        return 0

    cdef TopicBuffer turn_to(self, object topic):
        """The buffer of a topic, which the next send finds by the identity of the name."""
        cdef TopicBuffer buffer
        if not isinstance(topic, str):
            raise TypeError(f"a topic is named by a str, not {type(topic).__name__}")
        buffer = <TopicBuffer> self.topics.get(topic)
        if buffer is None:
            buffer = TopicBuffer.__new__(TopicBuffer)
            buffer.attach(self.engine.topic_log(topic), self.batch_bytes)
            if buffer.log.read_only:
                raise ReadOnlyError("the engine was opened with read_only=True")
            buffer = <TopicBuffer> self.topics.setdefault(topic, buffer)     # a thread may have been quicker
        self.last_name = topic
        self.last = buffer
        return buffer

    cdef int make_room(self, TopicBuffer buffer) except -1:
        """Write before a record is taken: its batch is full since a failure, or the buffer is."""
        cdef bint full = self.buffered_bytes >= self.most_bytes
        if full and self.raise_when_full:
            raise BufferFullError(
                f"{self.buffered_records} records with {self.buffered_bytes} bytes are waiting, and "
                f"buffer_bytes={self.most_bytes}"
            )
        self.flush_now(-1.0)
        if buffer.gone:
            raise ClosedError(f"topic {buffer.name!r} was deleted")
        return 0

    cdef int write_full(self, TopicBuffer buffer, int partition) except -1:
        """Write a batch that has just become full; what fails is raised by the next call."""
        cdef list delivered = None if self.on_delivery is None else []
        self.begin()
        try:
            if buffer.builder(partition).record_count:       # else who had the turn before us wrote it
                self.write_batch(buffer, partition, delivered)
        except Exception as error:
            self.note_failure(error, buffer.builder(partition).record_count != 0)
        finally:
            self.end()
        try:
            self.tell(delivered)
        except Exception as error:
            self.note_failure(error, False)
        return 0

    cdef void note_failure(self, object error, bint kept) noexcept:
        self.failure = error
        self.failure_kept = kept
        self.unusual = True

    # ---- one at a time ----------------------------------------------------------------------------------

    cdef int attend(self) except -1:
        """Something is unusual: a fork, the end, a failure to raise, or another thread that writes."""
        if self.forks != fork_count():
            self.begin_anew()
        if self.closed:
            raise ClosedError("the producer was closed")
        while self.turn.busy:
            self.turn.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            self.unusual = self.turn.busy or self.closed
            raise failure
        return 0

    cdef int begin(self) except -1:
        """Become the one who writes."""
        self.turn.take()
        self.unusual = True
        return 0

    cdef void end(self) noexcept:
        self.unusual = self.closed or self.failure is not None
        self.turn.give()

    cdef int begin_anew(self) except -1:
        """In a forked child: what was buffered is the parent's, whose threads may hold the lock."""
        self.turn = WriterTurn()
        self.topics = {}
        self.last_name = self.last = None
        self.buffered_bytes = self.buffered_records = 0
        self.failure = None
        self.unusual = self.closed
        self.forks = fork_count()
        return 0

    # ---- writing ----------------------------------------------------------------------------------------

    cdef int write_batch(self, TopicBuffer buffer, int partition, list delivered) except -1:
        """Append what is buffered for a partition; the caller has begun.

        Where it raises the records are kept, unless they are in the log (but not surely on disk), or their
        topic is gone.
        """
        cdef BatchBuilder builder = buffer.builder(partition)
        cdef int records = builder.record_count
        cdef int64_t size = builder.body_bytes - EMPTY_BYTES, base_offset = -1
        cdef RecordIds ids = new_record_ids(buffer.name)
        try:
            self.refresh(buffer)
            if self.identity is not None and not buffer.progress[partition].asked:
                self.check_fence()           # first: what the newer holder wrote is no duplicate of ours
                self.ask_log(buffer, partition)
                if builder.record_count == 0:
                    return 0
            self.append(buffer, builder, partition, &base_offset)
        except BaseException as error:
            self.failures += 1
            buffer.progress[partition].asked = False
            if records and builder.record_count == 0:
                self.leave(size, records)
            if buffer.log.deleted or isinstance(error, UnknownTopicError):
                self.drop(buffer)
            if delivered is not None:
                delivered.append((ids, error))
            raise
        self.leave(size, records)
        self.batches += 1
        self.written += records
        buffer.progress[partition].appended = buffer.progress[partition].taken
        if buffer.sticky == partition:
            buffer.sticky = -1
        if delivered is not None:
            ids.add_run(partition, base_offset, records)
            delivered.append((ids, None))
        return 0

    cdef int append(
        self, TopicBuffer buffer, BatchBuilder builder, int partition, int64_t* base_offset
    ) except -1:
        cdef int durability = buffer.log.durability if self.durability < 0 else self.durability
        if self.identity is None:
            return buffer.log.append_builder(builder, partition, 0, 0, False, durability, base_offset, None)
        self.check_fence()
        return buffer.log.append_builder(
            builder, partition, self.identity.id, self.identity.epoch, True, durability, base_offset,
            None
        )

    cdef int check_fence(self) except -1:
        if self.identity.fenced():
            raise FencedError(
                f"producer {self.identity.producer_id!r} is held by who opened it last, and that "
                f"is not this one"
            )
        return 0

    cdef void leave(self, int64_t size, int records) noexcept:
        """Count out what is not in the buffer any more."""
        self.buffered_bytes -= size
        self.buffered_records -= records

    cdef object write_all(self, list delivered, double deadline):
        """Append all that is buffered; return the first exception, or None. The caller has begun."""
        cdef TopicBuffer buffer
        cdef int i
        first = None
        for buffer in list(self.topics.values()):
            for i in range(buffer.partitions):
                if buffer.gone:
                    break
                if buffer.builder_at[i] is NULL or (<BatchBuilder> buffer.builder_at[i]).record_count == 0:
                    continue
                if deadline >= 0 and time.monotonic() > deadline:
                    return first or LockTimeoutError(
                        f"{self.buffered_records} records were not written within the timeout"
                    )
                try:
                    self.write_batch(buffer, i, delivered)
                except Exception as error:
                    first = first or error
        return first

    cdef int flush_now(self, double deadline) except -1:
        cdef list delivered = None if self.on_delivery is None else []
        self.begin()
        try:
            error = self.write_all(delivered, deadline)
            if error is None and not self.failure_kept:
                error = self.failure
            self.failure = None
        finally:
            self.end()
        self.tell(delivered)
        if error is not None:
            raise error
        return 0

    cdef int refresh(self, TopicBuffer buffer) except -1:
        """Go on with a topic that was opened anew since; what was sent to one that is gone is dropped."""
        cdef TopicLog log = self.engine.topic_log(buffer.name)
        if log is buffer.log:
            return 0
        if log.uuid != buffer.log.uuid:
            raise UnknownTopicError(
                f"topic {buffer.name!r} was deleted and made anew: records sent to the old one are dropped"
            )
        return buffer.attach(log, self.batch_bytes)

    cdef int drop(self, TopicBuffer buffer) except -1:
        """Forget what was sent to a topic that is gone: there is nowhere to write it."""
        cdef BatchBuilder builder
        buffer.gone = True
        for builder in buffer.builders:
            if builder is not None:
                self.leave(builder.body_bytes - EMPTY_BYTES, builder.record_count)
                builder.reset()
        self.topics.pop(buffer.name, None)
        if self.last is buffer:
            self.last_name = self.last = None
        return 0

    cdef int ask_log(self, TopicBuffer buffer, int partition) except -1:
        """Learn which sequences are in. The caller has begun."""
        cdef BatchBuilder builder = buffer.builder(partition)
        cdef int64_t size = builder.body_bytes
        cdef int records = builder.record_count
        buffer.ask_log(partition, self.identity.id)
        self.leave(size - builder.body_bytes, records - builder.record_count)
        return 0

    cdef progress_t* progress_of(self, object topic, object where) except NULL:
        """What the log has of this producer in one partition."""
        cdef TopicBuffer buffer
        cdef int partition
        if self.identity is None:
            raise ConfigError("last_sequence and resume_from need a producer opened with producer_id=")
        self.attend()
        buffer = self.turn_to(topic)
        partition = buffer.log.check_partition(where)
        if not buffer.progress[partition].asked:
            self.begin()
            try:
                self.ask_log(buffer, partition)
            finally:
                self.end()
        return &buffer.progress[partition]

    cdef int tell(self, list delivered) except -1:
        """Report what was written, outside of everything that others wait for."""
        if delivered is not None:
            for ids, error in delivered:
                self.on_delivery(ids, error)
        return 0

    # ---- the rest of a producer -------------------------------------------------------------------------

    def flush(self, timeout=None):
        """Write all that was sent before; the batches are as durable on return as `durability` says.

        Every partition is tried; the first exception is then raised, and what could not be written is kept.

        Args:
            timeout: seconds after which no other batch is begun; LockTimeoutError then. None: no limit.
        """
        if self.forks != fork_count():
            self.begin_anew()
        if self.closed:
            raise ClosedError("the producer was closed")
        self.flush_now(-1.0 if timeout is None else time.monotonic() + timeout)

    def flush_lingering(self):
        """Flush for a thread of the producer: what goes wrong is raised by the next call of the user.

        Returns whether everything was written.
        """
        if self.closed or self.forks != fork_count():
            return True
        try:
            self.flush_now(-1.0)
        except Exception as error:
            self.note_failure(error, self.buffered_records != 0)
            return False
        return True

    def close(self):
        """Flush and end. A flush that fails raises, and what is left is lost: the note says how much."""
        if self.closed:
            return
        if self.forks != fork_count():
            self.begin_anew()
        try:
            self.flush_now(-1.0)
        except Exception as error:
            if self.buffered_records:
                error.add_note(f"{self.buffered_records} records were not written: the producer is closed")
            raise
        finally:
            self.closed = self.unusual = True

    def last_sequence(self, topic, partition):
        """The last sequence of this producer_id that is in a partition's log, or None."""
        cdef int64_t appended = self.progress_of(topic, partition).appended
        return None if appended < 0 else appended

    def resume_from(self, topic):
        """The first sequence that may be missing from the topic.

        The least over the partitions: what a replay from there brings once more is dropped.
        """
        cdef int64_t least = self.progress_of(topic, 0).appended
        cdef int i
        for i in range(1, self.turn_to(topic).partitions):
            least = min(least, self.progress_of(topic, i).appended)
        return least + 1

    def metrics(self):
        """Counters since it was opened, and what is buffered now."""
        return {
            "records_sent": self.sent, "records_written": self.written, "batches_written": self.batches,
            "duplicates_dropped": self.duplicates, "failed_writes": self.failures,
            "records_buffered": self.buffered_records, "bytes_buffered": self.buffered_bytes,
        }
