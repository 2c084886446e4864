# cython: language_level=3
"""TopicBuffer: the batches that grow for one topic of a producer, and how far its sequences are.

Writes nothing and takes no lock; the accumulator does. Invariant: `taken` is never below what was sent, so a
sequence that was taken once is not taken again.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc

from logcore.builder cimport BatchBuilder
from logcore.partition_log cimport PartitionLog
from logcore.topic_log cimport TopicLog


@cython.final
@cython.auto_pickle(False)
cdef class TopicBuffer:
    """The batches that grow for one topic."""

    def __dealloc__(self):
        free(self.builder_at)
        free(self.progress)

    cdef int attach(self, TopicLog log, int64_t batch_bytes) except -1:
        """Begin with nothing buffered, or go on with the same topic opened anew, which may have grown."""
        cdef int i
        cdef PyObject** builder_at
        cdef progress_t* progress
        self.budget = min(batch_bytes, log.batch_budget())
        self.max_record_bytes = <int64_t> log.max_record_bytes
        if self.log is None:
            self.name = log.name
            self.sticky = -1
            self.builders = []
        if log.partitions > self.partitions:
            builder_at = <PyObject**> realloc(self.builder_at, log.partitions * sizeof(PyObject*))
            if builder_at is NULL:
                raise MemoryError()
            self.builder_at = builder_at
            progress = <progress_t*> realloc(self.progress, log.partitions * sizeof(progress_t))
            if progress is NULL:
                raise MemoryError()
            self.progress = progress
            for i in range(self.partitions, log.partitions):
                self.builders.append(None)
                self.builder_at[i] = NULL
                self.progress[i].appended = self.progress[i].taken = -1
                self.progress[i].asked = False
            self.partitions = log.partitions
        self.log = log
        return 0

    cdef BatchBuilder builder(self, int partition):
        cdef BatchBuilder builder
        if self.builder_at[partition] is NULL:
            builder = BatchBuilder.__new__(BatchBuilder)
            self.builders[partition] = builder
            self.builder_at[partition] = <PyObject*> builder
        return <BatchBuilder> self.builder_at[partition]

    cdef int keyless(self) noexcept:
        """The partition of records without a key, until its batch is written."""
        if self.sticky < 0:
            self.sticky = self.log.turn()
        return self.sticky

    cdef int ask_log(self, int partition, unsigned long long producer_id) except -1:
        """Learn from the log which sequences a partition has of the producer.

        What is buffered is forgotten where it turns out to be in, and where records before it are lost: from
        resume_from() on all of it is sent once more.
        """
        cdef PartitionLog log = self.log.log(partition)
        cdef progress_t* progress = &self.progress[partition]
        cdef BatchBuilder builder = self.builder(partition)
        cdef int64_t known
        from logcore.recovery import producer_table
        from logcore.segment_files import list_segments
        log.take_lock()                      # an append of who held the id before us is over then
        self.log.control.unlock(partition)
        last = producer_table(list_segments(log.directory)).last_sequence(producer_id)
        known = -1 if last is None else last
        if builder.record_count and (builder.first_sequence <= known or known < progress.appended):
            builder.reset()
        progress.appended = known
        progress.taken = known if builder.record_count == 0 else builder.next_sequence - 1
        progress.asked = True
        return 0
