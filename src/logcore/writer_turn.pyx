# cython: language_level=3
"""WriterTurn: who of a producer's threads may write, which is the only time when they let go of the GIL.

Not a lock around sends: those look at `busy` and wait only if it is set. Invariant: the lock is held by
whoever set `busy`, apart from the moments in which a waiter tries it.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident,
    PyThread_release_lock, PyThread_type_lock
)

cdef extern from "Python.h":
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr_flag) nogil

cdef enum:
    TICK_US = 50_000                         # how often a waiter looks for Ctrl-C


@cython.final
@cython.auto_pickle(False)
cdef class WriterTurn:
    """The turn of one producer. A forked child makes a new one: a thread of its parent may have this."""

    def __cinit__(self):
        self.lock = <void*> PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.lock is not NULL and not self.busy:
            PyThread_free_lock(<PyThread_type_lock> self.lock)

    cdef int take(self) except -1:
        while self.busy or not PyThread_acquire_lock(<PyThread_type_lock> self.lock, 0):
            self.wait()
        self.busy = True
        self.holder = PyThread_get_thread_ident()
        return 0

    cdef void give(self) noexcept:
        self.busy = False
        PyThread_release_lock(<PyThread_type_lock> self.lock)

    cdef int wait(self) except -1:
        cdef PyThread_type_lock lock = <PyThread_type_lock> self.lock
        if self.busy and self.holder == PyThread_get_thread_ident():
            raise RuntimeError("the producer is used by what runs inside of its own writing")
        with nogil:
            if PyThread_acquire_lock_timed(lock, TICK_US, 0):
                PyThread_release_lock(lock)
        PyErr_CheckSignals()
        return 0
