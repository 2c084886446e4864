# cython: language_level=3
"""RecordId, the place of one record, and RecordIds, the places of many without an object for each.

No I/O and no knowledge of batches. Invariant: a RecordIds costs memory for each batch, not for each
record, until somebody looks inside one whose values went to several partitions.
"""

cimport cython
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport Py_EQ, Py_GT, Py_LE, Py_LT, Py_NE
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from collections.abc import Sequence


@cython.final
@cython.no_gc
@cython.freelist(1000)
cdef class RecordId:
    """Where a record is: unpacks as (topic, partition, offset), by which it is equal, hashed and ordered.

    `duplicate` is True where an idempotent append found the record in the log already; the offset is then
    that of the earlier append, or -1 where it lies beyond the idempotence window.
    """

    def __init__(self, str topic not None, int partition, long long offset, bint duplicate=False):
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.duplicate = duplicate

    def __len__(self):
        return 3

    def __iter__(self):
        return iter((self.topic, self.partition, self.offset))

    def __getitem__(self, index):
        return (self.topic, self.partition, self.offset)[index]

    def __hash__(self):
        return hash((self.topic, self.partition, self.offset))

    def __richcmp__(self, other, int op):
        if not isinstance(other, RecordId):
            return NotImplemented
        cdef RecordId a = self
        cdef RecordId b = other
        cdef int order
        if a.topic != b.topic:
            order = -1 if a.topic < b.topic else 1
        elif a.partition != b.partition:
            order = -1 if a.partition < b.partition else 1
        else:
            order = (a.offset > b.offset) - (a.offset < b.offset)
        if op == Py_EQ:
            return order == 0
        if op == Py_NE:
            return order != 0
        if op == Py_LT:
            return order < 0
        if op == Py_LE:
            return order <= 0
        if op == Py_GT:
            return order > 0
        return order >= 0

    def __repr__(self):
        duplicate = ", duplicate=True" if self.duplicate else ""
        return f"RecordId(topic={self.topic!r}, partition={self.partition}, offset={self.offset}{duplicate})"

    def __reduce__(self):
        return RecordId, (self.topic, self.partition, self.offset, self.duplicate)


cdef RecordId new_record_id(str topic, int partition, int64_t offset):
    cdef RecordId made = RecordId.__new__(RecordId)
    made.topic = topic
    made.partition = partition
    made.offset = offset
    return made


@cython.final
@cython.no_gc
cdef class RecordIds:
    """The RecordIds of one append_many, in the order of its values; a read-only sequence.

    Equal to any list of equal RecordIds. Where an append failed midway it has those that are in.
    """

    def __init__(self):
        raise TypeError("a RecordIds is made by append_many")

    def __dealloc__(self):
        free(self.runs_at)
        free(self.partition_of)
        free(self.offset_of)

    cdef int add_run(self, int partition, int64_t base_offset, int64_t count) except -1:
        cdef Py_ssize_t capacity
        cdef id_run_t* grown
        if self.run_count == self.run_capacity:
            capacity = max(4, 2 * self.run_capacity)
            grown = <id_run_t*> realloc(self.runs_at, capacity * sizeof(id_run_t))
            if grown is NULL:
                raise MemoryError()
            self.runs_at = grown
            self.run_capacity = capacity
        self.runs_at[self.run_count].partition = partition
        self.runs_at[self.run_count].base_offset = base_offset
        self.runs_at[self.run_count].count = count
        self.runs_at[self.run_count].first = self.length
        self.run_count += 1
        self.length += count
        return 0

    cdef void scatter(self, int32_t* partition_of, Py_ssize_t value_count) noexcept:
        free(self.partition_of)
        self.partition_of = partition_of
        self.value_count = value_count

    cdef int resolve(self) except -1:
        """Give each value the next offset of its partition's runs; values that are not in drop out."""
        cdef int32_t highest = -1
        cdef int64_t* offsets = NULL
        cdef int64_t* left = NULL            # per partition: records of its current run not given out yet
        cdef Py_ssize_t* current = NULL      # per partition: index of its current run + 1
        cdef Py_ssize_t i
        for i in range(self.run_count):
            highest = max(highest, self.runs_at[i].partition)
        for i in range(self.value_count):
            highest = max(highest, self.partition_of[i])
        offsets = <int64_t*> malloc((self.length + 1) * sizeof(int64_t))
        left = <int64_t*> calloc(highest + 1, sizeof(int64_t))
        current = <Py_ssize_t*> calloc(highest + 1, sizeof(Py_ssize_t))
        try:
            if offsets is NULL or left is NULL or current is NULL:
                raise MemoryError()
            self.hand_out(offsets, left, current)
            self.offset_of = offsets
            offsets = NULL
        finally:
            free(offsets)
            free(left)
            free(current)
        return 0

    cdef void hand_out(self, int64_t* offsets, int64_t* left, Py_ssize_t* current) noexcept nogil:
        cdef Py_ssize_t i, run, filled = 0
        cdef int32_t p
        for i in range(self.value_count):
            p = self.partition_of[i]
            run = current[p]
            while left[p] == 0 and run < self.run_count:
                if self.runs_at[run].partition == p:
                    left[p] = self.runs_at[run].count
                run += 1
            current[p] = run
            if left[p] == 0 or filled == self.length:
                continue
            offsets[filled] = self.runs_at[run - 1].base_offset + self.runs_at[run - 1].count - left[p]
            self.partition_of[filled] = p    # filled <= i: what is not in closes up
            left[p] -= 1
            filled += 1
        self.length = filled

    cdef RecordId id_at(self, Py_ssize_t i):
        cdef Py_ssize_t low = 0, high = self.run_count, middle
        if self.partition_of is not NULL:
            return new_record_id(self.topic, self.partition_of[i], self.offset_of[i])
        while high - low > 1:
            middle = (low + high) // 2
            if self.runs_at[middle].first <= i:
                low = middle
            else:
                high = middle
        i -= self.runs_at[low].first
        return new_record_id(self.topic, self.runs_at[low].partition, self.runs_at[low].base_offset + i)

    cdef int look(self) except -1:
        if self.partition_of is not NULL and self.offset_of is NULL:
            self.resolve()
        return 0

    cdef list slice_of(self, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t step, Py_ssize_t count):
        cdef list ids = PyList_New(count)
        cdef RecordId made
        cdef Py_ssize_t i
        for i in range(count):
            made = self.id_at(start + i * step)
            Py_INCREF(made)
            PyList_SET_ITEM(ids, i, made)
        return ids

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        cdef Py_ssize_t i, start, stop, step
        self.look()
        if isinstance(index, slice):
            start, stop, step = index.indices(self.length)
            return self.slice_of(start, stop, step, len(range(start, stop, step)))
        i = index
        if i < 0:
            i += self.length
        if i < 0 or i >= self.length:
            raise IndexError(f"{index} is outside of {self.length} RecordIds")
        return self.id_at(i)

    def __iter__(self):
        cdef Py_ssize_t i
        self.look()
        for i in range(self.length):
            yield self.id_at(i)

    def __eq__(self, other):
        if not isinstance(other, (RecordIds, list, tuple)):
            return NotImplemented
        if len(other) != self.length:
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self):
        runs = ", ".join(
            f"{partition}:[{base}, {base + count})" for partition, base, count in self.runs
        )
        return f"<RecordIds topic={self.topic!r} {runs}>"

    def __reduce__(self):
        return list, (list(self),)

    @property
    def runs(self):
        """(partition, base offset, count) of each batch that was appended, in the order of the appends."""
        cdef Py_ssize_t i
        return [
            (self.runs_at[i].partition, self.runs_at[i].base_offset, self.runs_at[i].count)
            for i in range(self.run_count)
        ]


Sequence.register(RecordIds)


cdef RecordIds new_record_ids(str topic):
    cdef RecordIds made = RecordIds.__new__(RecordIds)
    made.topic = topic
    return made


def record_ids(str topic not None, runs, partition_of=None):
    """Make a RecordIds from (partition, base offset, count) runs: for tests and for other engines.

    `partition_of` gives each value's partition where values went to several; runs alone where not.
    """
    cdef RecordIds made = new_record_ids(topic)
    cdef int32_t* partitions
    cdef Py_ssize_t i
    for partition, base_offset, count in runs:
        if partition < 0 or count < 0:
            raise ValueError("partitions and counts are not negative")
        made.add_run(partition, base_offset, count)
    if partition_of is not None:
        listed = list(partition_of)
        if any(p < 0 for p in listed):
            raise ValueError("partitions are not negative")
        partitions = <int32_t*> malloc((len(listed) + 1) * sizeof(int32_t))
        if partitions is NULL:
            raise MemoryError()
        made.scatter(partitions, len(listed))
        for i in range(len(listed)):
            partitions[i] = listed[i]
    return made
