# cython: language_level=3
"""The file of a redo record."""

cdef class RedoFile:
    cdef int directory
    cdef bytes temporary, name
    cdef readonly str path

    cdef int place(self) noexcept            # the commit point: 0 or an errno
    cdef int sync(self) noexcept nogil       # brings its name to disk: 0 or an errno
    cdef int discard(self) except -1         # before it is in place
