# cython: language_level=3
"""RecordAccumulator: the native part of a producer, which turns single sends into batches."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from logcore.builder cimport BatchBuilder
from logcore.producers cimport ProducerIdentity
from logcore.topic_buffer cimport TopicBuffer, progress_t
from logcore.log_directory cimport LogDirectory
from logcore.writer_turn cimport WriterTurn

cdef class RecordAccumulator:
    cdef LogDirectory engine
    cdef ProducerIdentity identity           # None: not idempotent
    cdef object on_delivery
    cdef object on_buffering                 # called where the buffer was empty and now is not; or None
    cdef int durability                      # -1: the topic's
    cdef bint raise_when_full
    cdef int64_t batch_bytes
    cdef int64_t most_bytes                  # buffer_bytes
    cdef readonly long long buffered_bytes
    cdef readonly long long buffered_records
    cdef dict topics                         # name -> TopicBuffer
    cdef object last_name                    # the topic of the last send, compared by identity
    cdef TopicBuffer last
    cdef bint unusual                        # busy, closed, or a failure is to be raised: look closer
    cdef WriterTurn turn
    cdef object failure                      # of a batch that `send` had to write; raised by the next call
    cdef bint failure_kept                   # its records are still in the buffer
    cdef readonly bint closed
    cdef uint32_t forks
    cdef long long sent, batches, written, duplicates, failures

    cdef TopicBuffer turn_to(self, object topic)
    cdef int attend(self) except -1
    cdef int begin(self) except -1
    cdef void end(self) noexcept
    cdef int begin_anew(self) except -1
    cdef void note_failure(self, object error, bint kept) noexcept
    cdef int check_fence(self) except -1
    cdef void leave(self, int64_t size, int records) noexcept
    cdef int64_t check_sequence(self, object sequence) except -1
    cdef progress_t* progress_of(self, object topic, object where) except NULL
    cdef int flush_now(self, double deadline) except -1
    cdef int put(
        self, TopicBuffer buffer, int partition, const uint8_t* key, Py_ssize_t key_bytes,
        const uint8_t* value, Py_ssize_t value_bytes, const uint8_t* headers, Py_ssize_t headers_bytes,
        int64_t timestamp, int64_t sequence,
    ) except -1
    cdef int send_more(
        self, TopicBuffer buffer, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value,
        Py_ssize_t value_bytes, object partition, object headers, object timestamp, object sequence,
    ) except -1
    cdef int make_room(self, TopicBuffer buffer) except -1
    cdef int write_full(self, TopicBuffer buffer, int partition) except -1
    cdef int append(
        self, TopicBuffer buffer, BatchBuilder builder, int partition, int64_t* base_offset
    ) except -1
    cdef int write_batch(self, TopicBuffer buffer, int partition, list delivered) except -1
    cdef object write_all(self, list delivered, double deadline)
    cdef int tell(self, list delivered) except -1
    cdef int refresh(self, TopicBuffer buffer) except -1
    cdef int drop(self, TopicBuffer buffer) except -1
    cdef int ask_log(self, TopicBuffer buffer, int partition) except -1
