# cython: language_level=3
"""The process registry: which engines of a data directory live, told by the kernel and not by timeouts.

Not the service: a slot is claimed, held and released by the service's watch thread, since a robust mutex
belongs to a thread. Two bytes of the file `lock` carry locks of the open file description: byte 0 is held
shared by every writing engine for life, byte 1 exclusively while one opens. Invariant: `processes` is made
anew only by who holds byte 1 and found byte 0 free, so it is never replaced while an engine lives.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals

cimport cython

from logcore.failpoints cimport failpoint
from logcore.linux cimport (
    CLOCK_BOOTTIME, EINTR, ETIMEDOUT, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, clock_ns, close,
    futex_wait, mmap, munmap, robust_mutex_init,
)
from logcore.registry_slots cimport (
    REGISTRY_SLOTS, registry_slot_t, ring_slot, ring_slots, slot_lives, slot_load32, slot_load64,
    slot_loadi64,
)

import errno
import os
import struct
import time

from logcore.errors import ClosedError, ConfigError, FormatError, LockTimeoutError, UnsupportedError
from logcore.hashing import checksum_header
from logcore.host import identity_of_host, start_time_of_process
from logcore.whole_files import LOCK_SECONDS, clear_error, open_plain, place_file, remove_leftovers

cdef extern from *:
    """
    #define PYLOG_MOST_LOCKS 4096

    static uint32_t pylog_forks;
    static int pylog_locks[PYLOG_MOST_LOCKS];   /* fd + 1 of each lock file that is open, 0 = free place */

    /* In a forked child, and async-signal-safe. The child shares its parent's open file and with it the lock:
       it closes its copy, or the lock would outlive the parent. It never unlocks. */
    static void pylog_in_child(void) {
        int i, fd, saved = errno;
        __atomic_fetch_add(&pylog_forks, 1, __ATOMIC_SEQ_CST);
        for (i = 0; i < PYLOG_MOST_LOCKS; i++) {
            fd = __atomic_exchange_n(&pylog_locks[i], 0, __ATOMIC_SEQ_CST) - 1;
            if (fd >= 0) close(fd);
        }
        errno = saved;
    }
    static int pylog_watch_forks(void) { return pthread_atfork(NULL, NULL, pylog_in_child); }

    static int pylog_keep_lock(int fd) {        /* the place, or -1: all taken */
        int i, free_place;
        for (i = 0; i < PYLOG_MOST_LOCKS; i++) {
            free_place = 0;
            if (__atomic_compare_exchange_n(&pylog_locks[i], &free_place, fd + 1, 0, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST)) return i;
        }
        return -1;
    }
    static int pylog_take_lock(int place) {
        return __atomic_exchange_n(&pylog_locks[place], 0, __ATOMIC_SEQ_CST) - 1;
    }
    static uint32_t pylog_fork_count(void) { return __atomic_load_n(&pylog_forks, __ATOMIC_RELAXED); }

    static int pylog_ofd(int fd, int type, int64_t byte) {
        struct flock lock;
        memset(&lock, 0, sizeof lock);
        lock.l_type = (short)type; lock.l_whence = SEEK_SET; lock.l_start = byte; lock.l_len = 1;
        return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
    }
    /* the type of a lock that others hold on the byte, F_UNLCK where there is none, or a negative errno */
    static int pylog_ofd_others(int fd, int64_t byte) {
        struct flock lock;
        memset(&lock, 0, sizeof lock);
        lock.l_type = F_WRLCK; lock.l_whence = SEEK_SET; lock.l_start = byte; lock.l_len = 1;
        return fcntl(fd, F_OFD_GETLK, &lock) == 0 ? lock.l_type : -errno;
    }
    static void pylog_nap(int64_t ns) {
        struct timespec t = timespec_of(ns);
        nanosleep(&t, NULL);
    }
    """
    int pylog_watch_forks() nogil
    int pylog_keep_lock(int fd) nogil
    int pylog_take_lock(int place) nogil
    uint32_t pylog_fork_count() noexcept nogil
    int pylog_ofd(int fd, int type, int64_t byte) nogil
    int pylog_ofd_others(int fd, int64_t byte) nogil
    void pylog_nap(int64_t ns) nogil
    int F_RDLCK, F_WRLCK, F_UNLCK
    int MAP_FIXED

cdef enum:
    LIFE = 0                     # bytes of `lock`
    OPENING = 1
    HEADER_BYTES = 4096
    POLL_NS = 50_000_000         # how long a waiter without a word of its own sleeps

# magic, version, slots, slot bytes, 0, session, boot id, pid and time namespace
REGISTRY_HEADER = struct.Struct("<8sIIIIQ16sQQ")
REGISTRY_VERSION = 1

if pylog_watch_forks():
    raise ImportError("pthread_atfork has no memory")


cpdef uint32_t fork_count() noexcept nogil:
    """Return a number that grows by one in each forked child; what another count saw is inherited."""
    return pylog_fork_count()


# ---- the registry -------------------------------------------------------------------------------------

@cython.final
cdef class Registry:
    """The registry of the engines that live on one data directory.

    Opening it for writing proves to everybody that an engine lives here, until close() or the death of the
    process. A slot of its own comes with a Service.

    Args:
        path: the data directory; it must exist.
        read_only: look, and change nothing: no lock is taken, no file is made.

    Raises:
        UnsupportedError: engines of another pid or time namespace live, or the file system has no locks.
        LockTimeoutError: another process has been opening the directory for 10 seconds.
        FormatError: the files are another release's, or no plain files.
        ReadOnlyError, DiskFullError: the directory cannot be written.
    """

    def __cinit__(self):
        self.slot = self.lock_fd = self.lock_place = -1
        self.closed = True

    def __init__(self, path: str, *, read_only: bool = False):
        if not self.closed or self.mapping is not NULL:
            raise ConfigError("a Registry is opened once")
        self.path = path
        self.read_only = read_only
        self.forks = fork_count()
        self.pid = os.getpid()
        self.start_time = start_time_of_process()
        self.incarnation = random_nonzero()
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise clear_error(error, path) from None
        try:
            if read_only:
                self._open_read_only(directory)
            else:
                self._open_lock(directory)
                self._join(directory)
            self.closed = False
        except BaseException:
            let_go(self)
            raise
        finally:
            os.close(directory)

    def __dealloc__(self):
        if not self.closed:
            let_go(self)
        if self.mapping is not NULL:
            munmap(self.mapping, self.mapping_bytes)

    # ---- the native face ------------------------------------------------------------------------------

    cpdef void ring(self, int slot) noexcept nogil:
        """Wake the engine in `slot`."""
        if self.slots is not NULL and not self.read_only and 0 <= slot < REGISTRY_SLOTS:
            ring_slot(self.slots, slot)

    cpdef void ring_all(self) noexcept nogil:
        """Wake every living engine."""
        if self.slots is not NULL and not self.read_only:
            ring_slots(self.slots)

    cpdef uint32_t word(self) noexcept nogil:
        """Return our own word: take it before you look at what you wait for, then give it to sleep()."""
        return slot_load32(&self.slots[self.slot].word) if self.slot >= 0 else 0

    cdef int wait(self, uint32_t seen, int64_t timeout_ns) noexcept nogil:
        cdef int result
        if self.slot < 0:
            pylog_nap(max(0, min(timeout_ns, POLL_NS)))
            return 1
        result = futex_wait(&self.slots[self.slot].word, seen, max(0, min(timeout_ns, LONGEST_WAIT_NS)))
        if result == EINTR:
            return 2
        return 1 if result == ETIMEDOUT else 0

    cpdef bint lives(self, int slot, uint64_t incarnation) noexcept nogil:
        """Say whether the engine that was in `slot` as `incarnation` lives; takes no lock."""
        if self.slots is NULL or slot < 0 or slot >= REGISTRY_SLOTS or incarnation == 0:
            return False
        return slot_lives(&self.slots[slot], incarnation)

    # ---- the Python face ------------------------------------------------------------------------------

    def sleep(self, seen: int, timeout: float) -> bool:
        """Sleep until our word is no longer `seen`; True if so, False after `timeout` or 1 second.

        Lets go of the GIL. Returns early where a signal came, whose handler has run then: Ctrl-C raises
        KeyboardInterrupt from here.
        """
        cdef uint32_t word = seen
        cdef int64_t timeout_ns = <int64_t> (max(0.0, min(float(timeout), 1.0)) * 1e9)
        self._check_open()
        with nogil:
            self.wait(word, timeout_ns)
        PyErr_CheckSignals()
        return self.slot >= 0 and self.word() != word

    def members(self) -> list[tuple[int, int, int]]:
        """Return (slot, pid, incarnation) of each living engine that has a slot."""
        cdef int i
        cdef uint64_t incarnation
        cdef list found = []
        self._check_open()
        if self.read_only:
            self.refresh()
        if self.slots is not NULL:
            for i in range(REGISTRY_SLOTS):
                incarnation = slot_load64(&self.slots[i].incarnation)
                if incarnation and self.lives(i, incarnation):
                    found.append((i, self.slots[i].pid, incarnation))
        return found

    def others_live(self) -> bool:
        """Say whether any other engine has the directory open for writing, without taking a lock."""
        self._check_open()
        return self._lock_of_others() != F_UNLCK

    def refresh(self) -> bool:
        """Read-only: look again who lives, and say whether anybody does; `session` follows."""
        self._check_open()
        if not self.read_only:
            return True
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._open_read_only(directory)
        finally:
            os.close(directory)
        return self.session != 0

    def heartbeat_age(self, slot: int) -> float:
        """Seconds since the engine in `slot` last said that it is neither stopped nor frozen."""
        self._check_open()
        if self.slots is NULL or not 0 <= slot < REGISTRY_SLOTS:
            raise ConfigError(f"no slot {slot}")
        return (clock_ns(CLOCK_BOOTTIME) - slot_loadi64(&self.slots[<int> slot].heartbeat)) / 1e9

    def close(self) -> None:
        """Stop living here: the lock is let go of. The service that has the slot must be closed before."""
        if self.closed:
            return
        if self.slot >= 0 and self.forks == fork_count():
            raise ConfigError("close the service before its registry")
        let_go(self)
        self.closed = True

    # ---- opening --------------------------------------------------------------------------------------

    def _check_open(self):
        if self.forks != fork_count():
            raise ClosedError("this engine was opened before a fork: the child must open its own")
        if self.closed:
            raise ClosedError("the registry is closed")

    def _keep(self, int fd):
        self.lock_fd = fd
        self.lock_place = pylog_keep_lock(fd)
        if self.lock_place < 0:
            raise UnsupportedError("a process opens at most 4096 engines at a time")

    def _open_lock(self, int directory):
        path = os.path.join(self.path, "lock")
        try:
            fd = open_plain(directory, "lock", path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:
            raise clear_error(error, path) from None
        self._keep(fd)

    def _lock_of_others(self):
        if self.lock_fd < 0:
            return F_UNLCK
        kind = pylog_ofd_others(self.lock_fd, LIFE)
        if kind < 0:
            raise clear_error(OSError(-kind, os.strerror(-kind)), os.path.join(self.path, "lock"))
        return kind

    def _join(self, int directory):
        """Take byte 1, see by byte 0 whether anybody lives, make or map `processes`, keep byte 0, leave 1."""
        self._take_within(OPENING)
        alone = self._try(F_WRLCK, LIFE)
        self.first = alone
        if alone:
            remove_leftovers(directory, "processes.")
            place_file(directory, "processes", fresh_registry(), self._file(), durable=False)
            failpoint("registry.made")
        elif not self._try(F_RDLCK, LIFE):
            raise LockTimeoutError(f"{self.path}: something else than an engine holds its lock exclusively")
        self._map(directory, PROT_READ | PROT_WRITE)
        if alone and not self._try(F_RDLCK, LIFE):
            raise LockTimeoutError(f"{self.path}: the lock could not be made shared")
        failpoint("registry.joined")
        pylog_ofd(self.lock_fd, F_UNLCK, OPENING)

    def _try(self, int kind, int64_t byte):
        cdef int code = pylog_ofd(self.lock_fd, kind, byte)
        if code == 0:
            return True
        if code in (errno.EAGAIN, errno.EACCES):
            return False
        if code in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise UnsupportedError(f"{self.path}: the file system has no OFD locks: {os.strerror(code)}")
        raise clear_error(OSError(code, os.strerror(code)), os.path.join(self.path, "lock"))

    def _take_within(self, int64_t byte):
        deadline = time.monotonic() + LOCK_SECONDS
        pause = 0.0005
        while not self._try(F_WRLCK, byte):
            if time.monotonic() >= deadline:
                raise LockTimeoutError(f"another process has been opening {self.path} for {LOCK_SECONDS:g} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _open_read_only(self, directory):
        """Map the registry of those who live, or nothing where nobody does."""
        if self.lock_fd < 0:
            try:
                self._keep(open_plain(directory, "lock", os.path.join(self.path, "lock"), os.O_RDONLY))
            except FileNotFoundError:
                self.first = True
                return
        deadline = time.monotonic() + LOCK_SECONDS
        while (kind := self._lock_of_others()) == F_WRLCK:      # the first opener makes the file just now
            if time.monotonic() >= deadline:
                raise LockTimeoutError(f"another process has been opening {self.path} for {LOCK_SECONDS:g} s")
            time.sleep(0.001)
        self.first = kind == F_UNLCK
        if kind == F_UNLCK:
            self.session = 0
        else:
            self._map(directory, PROT_READ)

    def _file(self):
        return os.path.join(self.path, "processes")

    def _map(self, directory, int protection):
        cdef void* mapped
        cdef size_t size = registry_bytes()
        try:
            access = os.O_RDWR if protection & PROT_WRITE else os.O_RDONLY
            fd = open_plain(directory, "processes", self._file(), access)
        except FileNotFoundError:
            raise FormatError(f"{self._file()} was removed from under living engines: close them") from None
        try:
            session = check_registry(fd, self._file(), foreign_allowed=self.read_only)
            if self.slots is not NULL and session == self.session:
                return
            # over the old one, in one step: another thread may be looking at it
            flags = MAP_SHARED | (MAP_FIXED if self.mapping is not NULL else 0)
            mapped = mmap(self.mapping, size, protection, flags, <int> fd, 0)
        finally:
            os.close(fd)
        if mapped is MAP_FAILED:
            raise MemoryError(f"cannot map {self._file()}")
        self.mapping, self.mapping_bytes, self.session = mapped, size, session
        self.slots = <registry_slot_t*> (<uint8_t*> mapped + HEADER_BYTES)


cdef void let_go(Registry registry) noexcept:
    """Close the lock file. Unlocks first, in case a foreign fork kept a copy; a child of ours never does."""
    cdef int fd = registry.lock_fd
    if fd >= 0 and registry.forks == fork_count():
        if registry.lock_place >= 0:
            fd = pylog_take_lock(registry.lock_place)
        if not registry.read_only:
            pylog_ofd(fd, F_UNLCK, LIFE)
            pylog_ofd(fd, F_UNLCK, OPENING)
        close(fd)
    registry.lock_fd = registry.lock_place = -1


cdef size_t registry_bytes() noexcept nogil:
    return HEADER_BYTES + REGISTRY_SLOTS * sizeof(registry_slot_t)


cdef object random_nonzero():
    return int.from_bytes(os.urandom(8), "little") or 1


cdef bytes fresh_registry():
    """The bytes of a registry in which nobody lives. An unlocked mutex may be copied before its first use."""
    cdef bytes content = PyBytes_FromStringAndSize(NULL, registry_bytes())
    cdef char* at = <char*> content
    cdef registry_slot_t* slots = <registry_slot_t*> (at + HEADER_BYTES)
    cdef int i
    memset(at, 0, registry_bytes())
    header = REGISTRY_HEADER.pack(
        b"pylogreg", REGISTRY_VERSION, REGISTRY_SLOTS, sizeof(registry_slot_t), 0, random_nonzero(),
        *identity_of_host(),
    )
    header += checksum_header(header, 0, 0).to_bytes(8, "little")
    memcpy(at, <char*> header, len(header))
    for i in range(REGISTRY_SLOTS):
        if robust_mutex_init(&slots[i].alive):
            raise UnsupportedError("this platform has no robust process-shared mutexes")
    return content


cdef check_registry(fd, path, foreign_allowed):
    """Return the session of a registry whose engines live, or raise what keeps us from joining them."""
    size = REGISTRY_HEADER.size
    stored = os.pread(fd, size + 8, 0)
    if len(stored) < size + 8 or os.fstat(fd).st_size != registry_bytes():
        raise FormatError(f"{path} has not the size of a registry: close all engines and open again")
    magic, version, slots, slot_bytes, _, session, boot, pid_ns, time_ns = REGISTRY_HEADER.unpack_from(stored)
    checksum = int.from_bytes(stored[size:], "little")
    if magic != b"pylogreg" or checksum_header(stored[:size], 0, 0) != checksum:
        raise FormatError(f"{path} is damaged while engines live: close them all and open again")
    if (version, slots, slot_bytes) != (REGISTRY_VERSION, REGISTRY_SLOTS, sizeof(registry_slot_t)):
        raise FormatError(f"{path} belongs to living engines of another release of pylog: close them first")
    our_boot, our_pid_ns, our_time_ns = identity_of_host()
    if foreign_allowed:
        return session
    if boot != our_boot:
        raise UnsupportedError(f"{path} is in use on another machine; one machine at a time may write")
    if (pid_ns, time_ns) != (our_pid_ns, our_time_ns):
        raise UnsupportedError(
            f"{path}: engines of another pid or time namespace live, whose deaths could not be seen here. "
            "Run both in one (docker run --pid=container:NAME or --pid=host, shareProcessNamespace in "
            "Kubernetes), or open with read_only=True"
        )
    return session
