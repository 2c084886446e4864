# cython: language_level=3
"""WriterTurn: one thread at a time, at the price of one load where nobody waits."""

cdef class WriterTurn:
    cdef bint busy                           # somebody has the turn; read and written under the GIL
    cdef unsigned long holder                # the thread that has it
    cdef void* lock                          # held while busy: what the others sleep on

    cdef int take(self) except -1
    # have the turn. RuntimeError where this very thread has it already
    cdef void give(self) noexcept
    cdef int wait(self) except -1
    # let the one who has the turn get on, for one tick at most; serves Ctrl-C
