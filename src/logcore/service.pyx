# cython: language_level=3
"""The two native threads of an engine: one syncs, one is watched by its neighbour and watches the next.

Not the place of any decision: what is due says sync.pyx, what a death means says whoever was rung. They are
two because one sync can block for seconds. Invariant: neither thread ever takes the GIL or touches a Python
object, so a busy or stopped interpreter keeps nobody from being synced, heard or buried.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

cimport cython

from logcore.linux cimport (
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, EAGAIN, EINTR, ETIMEDOUT, clock_ns, close as close_file, futex_wait,
    futex_wake, pthread_mutex_unlock,
)
from logcore.processes cimport Registry, fork_count
from logcore.registry_slots cimport (
    FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS, INT_MAX, REGISTRY_SLOTS, bury_slot, claim_slot,
    mutex_word, registry_slot_t, release_slot, ring_slots, slot_bump, slot_load32, slot_load64, slot_loadi64,
    slot_store32, slot_storei64,
)
from logcore.sync cimport note_forgotten, sync_due, topic_sync_t

import os

from logcore.errors import ClosedError, ConfigError, ReadOnlyError, UnsupportedError

cdef extern from *:
    """
    #include <signal.h>
    #include <sys/eventfd.h>

    #ifndef SYS_futex_waitv
    #define SYS_futex_waitv 449
    #endif
    struct pylog_waiter { uint64_t value, address; uint32_t flags, reserved; };    /* struct futex_waitv */

    /* Wait until one of the words is no longer as expected, on the monotonic clock: 0, or an errno. All words
       are shared with other processes and 32 bits wide (FUTEX_32). */
    static int pylog_waitv(uint32_t **words, const uint32_t *expected, int count, int64_t until) {
        struct pylog_waiter waiters[4];
        struct timespec t = timespec_of(until);
        int i;
        memset(waiters, 0, sizeof waiters);
        for (i = 0; i < count; i++) {
            waiters[i].value = expected[i];
            waiters[i].address = (uint64_t)(uintptr_t)words[i];
            waiters[i].flags = 2;
        }
        return syscall(SYS_futex_waitv, waiters, count, 0, &t, CLOCK_MONOTONIC) >= 0 ? 0 : errno;
    }
    /* Threads with all signals blocked, so that handlers run in Python's own, and with a small stack. */
    static int pylog_start(pthread_t *thread, void *(*run)(void *), void *state, const char *name) {
        sigset_t all, before;
        pthread_attr_t attributes;
        int code = pthread_attr_init(&attributes);
        if (code) return code;
        pthread_attr_setstacksize(&attributes, 256 * 1024);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        code = pthread_create(thread, &attributes, run, state);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        if (code == 0) pthread_setname_np(*thread, name);
        return code;
    }
    static int pylog_set_if(uint32_t *word, uint32_t expected, uint32_t value) {
        return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static uint32_t pylog_exchange(uint32_t *word, uint32_t value) {
        return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
    }
    static uint32_t pylog_add(uint32_t *word, uint32_t value) {
        return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
    }
    static void pylog_count_death(uint64_t *deaths) { __atomic_fetch_add(deaths, 1, __ATOMIC_SEQ_CST); }
    static void pylog_notify(int32_t *event_fd) {
        int32_t fd = __atomic_load_n(event_fd, __ATOMIC_SEQ_CST);
        if (fd >= 0) (void)eventfd_write(fd, 1);     /* full means it was told often enough */
    }
    static void pylog_set_event_fd(int32_t *event_fd, int fd) {
        __atomic_store_n(event_fd, fd, __ATOMIC_SEQ_CST);
    }
    static int pylog_new_event_fd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
    """
    int pylog_waitv(uint32_t** words, const uint32_t* expected, int count, int64_t until) nogil
    int pylog_start(pthread_t* thread, void* (*run)(void*) noexcept nogil, void* state, const char* name)
    int pylog_set_if(uint32_t* word, uint32_t expected, uint32_t value) nogil
    uint32_t pylog_exchange(uint32_t* word, uint32_t value) nogil
    uint32_t pylog_add(uint32_t* word, uint32_t value) nogil
    void pylog_count_death(uint64_t* deaths) nogil
    void pylog_notify(int32_t* event_fd) nogil
    void pylog_set_event_fd(int32_t* event_fd, int fd)
    int pylog_new_event_fd()

cdef extern from "pthread.h" nogil:
    int pthread_mutex_init(pthread_mutex_t* m, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_destroy(pthread_mutex_t* m)
    int pthread_cond_init(pthread_cond_t* c, void* attributes)
    int pthread_cond_wait(pthread_cond_t* c, pthread_mutex_t* m)
    int pthread_cond_broadcast(pthread_cond_t* c)
    int pthread_cond_destroy(pthread_cond_t* c)
    int pthread_join(pthread_t thread, void** result)

cdef enum sync_state:                # of sync_word
    SYNC_AWAKE = 0
    SYNC_NUDGED = 1                  # look at the due times once more before sleeping
    SYNC_ASLEEP = 2

cdef enum:
    HEARTBEAT_NS = 250_000_000
    POLL_NS = 50_000_000             # between looks at the neighbour where futex_waitv is missing
    LONGEST_SLEEP_NS = 1_000_000_000
    SHORTEST_SLEEP_NS = 200_000      # of the sync thread, where something stays due that cannot be done yet
    NOBODY = -1


# ---- the sync thread ----------------------------------------------------------------------------------

cdef void* sync_main(void* argument) noexcept nogil:
    cdef service_t* service = <service_t*> argument
    cdef int64_t due
    while True:                              # awake first, then looking: pairs with wake_within()
        pylog_exchange(&service.sync_word, SYNC_AWAKE)
        if slot_load32(&service.stop):
            return NULL
        due = serve_topics(service)
        if due == 0:
            continue
        if due < 0 or due > LONGEST_SLEEP_NS:
            due = LONGEST_SLEEP_NS
        slot_storei64(&service.sleeps_until, clock_ns(CLOCK_BOOTTIME) + due)
        if pylog_set_if(&service.sync_word, SYNC_AWAKE, SYNC_ASLEEP):
            futex_wait(&service.sync_word, SYNC_ASLEEP, due)


cdef int64_t serve_topics(service_t* service) noexcept nogil:
    """Give each topic its turn; return the ns until the next is due, 0 to begin anew, -1 where none is."""
    cdef int64_t soonest = -1, due
    cdef int32_t i = 0
    cdef topic_sync_t* topic
    cdef uint32_t moved = slot_load32(&service.topics_moved)
    cdef bint somebody_went = pylog_exchange(&service.somebody_went, 0) != 0
    while not slot_load32(&service.stop):
        pthread_mutex_lock(&service.topics_lock)
        topic = service.topics[i] if i < service.topic_count else NULL
        service.serving = topic
        pthread_mutex_unlock(&service.topics_lock)
        if topic is NULL:
            break
        if somebody_went:
            note_forgotten(topic)
        due = sync_due(topic, clock_ns(CLOCK_BOOTTIME))
        pthread_mutex_lock(&service.topics_lock)
        service.serving = NULL
        pthread_cond_broadcast(&service.topic_left)
        pthread_mutex_unlock(&service.topics_lock)
        if due >= 0 and (soonest < 0 or due < soonest):
            soonest = max(due, SHORTEST_SLEEP_NS)
        i += 1
    if moved != slot_load32(&service.topics_moved):
        if somebody_went:
            slot_store32(&service.somebody_went, 1)
        return 0
    return soonest


cdef void wake_sync(service_t* service) noexcept nogil:
    if pylog_exchange(&service.sync_word, SYNC_NUDGED) == SYNC_ASLEEP:
        futex_wake(&service.sync_word, 1)


# ---- the watch thread ---------------------------------------------------------------------------------

cdef void* watch_main(void* argument) noexcept nogil:
    cdef service_t* service = <service_t*> argument
    cdef registry_slot_t* ours
    cdef int64_t now, next_beat = 0
    cdef uint32_t watch_seen = 0, watch_before, neighbour_word = 0
    cdef int neighbour
    service.slot = claim_slot(service.slots, service.pid, service.start_time, service.incarnation)
    if service.slot >= 0:
        service.last_word = slot_load32(&service.slots[service.slot].word)
        ring_slots(service.slots)            # so that the one before us in the ring watches us from now on
    slot_store32(&service.started, 1)
    futex_wake(&service.started, INT_MAX)
    if service.slot < 0:
        return NULL
    ours = &service.slots[service.slot]
    while True:
        watch_before, watch_seen = watch_seen, slot_load32(&ours.watch_word)
        if slot_load32(&service.stop):
            break
        if watch_seen != watch_before:
            slot_store32(&service.somebody_went, 1)
            wake_sync(service)
        now = clock_ns(CLOCK_MONOTONIC)
        if now >= next_beat:
            slot_storei64(&ours.heartbeat, clock_ns(CLOCK_BOOTTIME))
            next_beat = now + HEARTBEAT_NS
        tell_asyncio(service, ours)
        neighbour = find_neighbour(service, &neighbour_word)
        wait_for_news(service, ours, watch_seen, neighbour, neighbour_word, next_beat)
    release_slot(service.slots, service.slot)
    ring_slots(service.slots)
    return NULL


cdef void tell_asyncio(service_t* service, registry_slot_t* ours) noexcept nogil:
    cdef uint32_t word = slot_load32(&ours.word)
    if word == service.last_word:
        return
    service.last_word = word
    # the word first: whoever starts to wait after this load looks at the data after the ring that we saw
    if pylog_add(&service.async_waiters, 0) > 0:
        pylog_notify(&service.event_fd)


cdef int find_neighbour(service_t* service, uint32_t* word) noexcept nogil:
    """The next living slot of the ring and the word of its mutex, at whose change we want to be woken.

    FUTEX_WAITERS is set there by hand: we never lock it, but the kernel and glibc then wake us when the owner
    dies or leaves. Those who are found dead on the way are buried, and everybody is told.
    """
    cdef int step, i, deaths = 0
    cdef registry_slot_t* slot
    cdef uint32_t seen
    cdef int found = NOBODY
    for step in range(1, REGISTRY_SLOTS):
        i = (service.slot + step) % REGISTRY_SLOTS
        slot = &service.slots[i]
        while slot_load64(&slot.incarnation) != 0:
            seen = slot_load32(mutex_word(&slot.alive))
            if seen & FUTEX_OWNER_DIED or seen & FUTEX_TID_MASK == 0:
                deaths += bury_slot(service.slots, i)
                break
            if seen & FUTEX_WAITERS or pylog_set_if(mutex_word(&slot.alive), seen, seen | FUTEX_WAITERS):
                word[0] = seen | FUTEX_WAITERS
                found = i
                break
        if found != NOBODY:
            break
    while deaths > 0:
        pylog_count_death(&service.deaths_seen)
        deaths -= 1
        if deaths == 0:
            ring_slots(service.slots)
    return found


cdef void wait_for_news(
    service_t* service, registry_slot_t* ours, uint32_t watch_seen, int neighbour, uint32_t neighbour_word,
    int64_t until
) noexcept nogil:
    cdef uint32_t* words[3]
    cdef uint32_t expected[3]
    cdef int count = 1, code
    cdef bint asyncio = pylog_add(&service.async_waiters, 0) > 0
    words[0], expected[0] = &ours.watch_word, watch_seen
    # only where asyncio waits: else each bell for a sleeping consumer would wake this thread as well
    if asyncio:
        words[count], expected[count] = &ours.word, service.last_word
        count += 1
    if neighbour != NOBODY:
        words[count], expected[count] = mutex_word(&service.slots[neighbour].alive), neighbour_word
        count += 1
    if not service.polls:
        code = pylog_waitv(words, expected, count, until)
        if code == 0 or code == EAGAIN or code == ETIMEDOUT or code == EINTR:
            return
        service.polls = 1            # an old kernel, or a container that forbids what it does not know
    if asyncio:
        futex_wait(&ours.word, service.last_word, POLL_NS)
    else:
        futex_wait(&ours.watch_word, watch_seen, POLL_NS)


cdef void wake_watch(service_t* service) noexcept nogil:
    slot_bump(&service.slots[service.slot].watch_word)
    futex_wake(&service.slots[service.slot].watch_word, INT_MAX)
    if service.polls:
        slot_bump(&service.slots[service.slot].word)
        futex_wake(&service.slots[service.slot].word, INT_MAX)


# ---- the service --------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class Service:
    """The native threads of an engine: they hold its slot, sync what is due and watch a neighbour.

    Args:
        registry: opened for writing; the service is closed before it.
        polling: look at the neighbour every 50 ms also where the kernel has futex_waitv, which tells at once.
    """

    def __init__(self, registry: Registry, *, polling: bool = False):
        if self.state is not NULL:
            raise ConfigError("a Service is made once")
        if registry.read_only:
            raise ReadOnlyError("an engine opened with read_only=True has no service")
        if registry.closed or registry.forks != fork_count():
            raise ClosedError("the registry is closed, or was inherited through a fork")
        self.state = <service_t*> calloc(1, sizeof(service_t))
        if self.state is NULL:
            raise MemoryError()
        self.registry = registry
        self.forks = fork_count()
        self.state.slots = registry.slots
        self.state.pid = registry.pid
        self.state.start_time = registry.start_time
        self.state.incarnation = registry.incarnation
        self.state.slot = -1
        self.state.event_fd = -1
        self.state.polls = polling
        pthread_mutex_init(&self.state.topics_lock, NULL)
        pthread_cond_init(&self.state.topic_left, NULL)

    def __dealloc__(self):
        if self.state is NULL:
            return
        if self.running and self.forks == fork_count():
            stop_threads(self)
        if self.state.event_fd >= 0:
            close_file(self.state.event_fd)
        if self.forks == fork_count():           # a child may find them locked by a thread that it has not
            pthread_cond_destroy(&self.state.topic_left)
            pthread_mutex_destroy(&self.state.topics_lock)
        free(self.state.topics)
        free(self.state)

    def start(self) -> None:
        """Start both threads; when this returns the engine has its slot and its death will be seen.

        Raises:
            UnsupportedError: 1024 engines live already, or the system grants no more threads.
        """
        cdef int code
        self._check_inherited()
        if self.running or self.state.started:
            raise ConfigError("a Service is started once")
        if self.registry.slot >= 0:
            raise ConfigError("the registry has a service already")
        code = pylog_start(&self.state.watch_thread, watch_main, self.state, b"pylog-watch")
        if code:
            raise UnsupportedError(f"cannot start a thread: {os.strerror(code)}")
        with nogil:
            while not slot_load32(&self.state.started):
                futex_wait(&self.state.started, 0, -1)
        if self.state.slot < 0:
            pthread_join(self.state.watch_thread, NULL)
            raise UnsupportedError(f"{self.registry.path}: {REGISTRY_SLOTS} engines live there, the most")
        self.registry.slot = self.state.slot
        self.running = True
        code = pylog_start(&self.state.sync_thread, sync_main, self.state, b"pylog-sync")
        if code:
            self.state.sync_thread = 0
            stop_threads(self)
            raise UnsupportedError(f"cannot start a thread: {os.strerror(code)}")

    def close(self) -> None:
        """Stop both threads and give the slot back. A forked child touches nothing of its parent's."""
        if self.running and self.forks == fork_count():
            stop_threads(self)
        self.running = False

    # ---- topics ---------------------------------------------------------------------------------------

    cdef int add_topic(self, topic_sync_t* topic) except -1:
        cdef service_t* state = self.state
        cdef topic_sync_t** topics
        cdef bint fits = True
        self._check_inherited()
        with nogil:
            pthread_mutex_lock(&state.topics_lock)
            if state.topic_count == state.topic_room:
                topics = <topic_sync_t**> realloc(
                    state.topics, (state.topic_room * 2 + 8) * sizeof(topic_sync_t*)
                )
                fits = topics is not NULL
                if fits:
                    state.topics = topics
                    state.topic_room = state.topic_room * 2 + 8
            if fits:
                state.topics[state.topic_count] = topic
                state.topic_count += 1
            pthread_mutex_unlock(&state.topics_lock)
            wake_sync(state)
        if not fits:
            raise MemoryError()
        return 0

    cdef int remove_topic(self, topic_sync_t* topic) except -1:
        cdef service_t* state = self.state
        cdef int32_t i
        if self.forks != fork_count():           # the child has no such thread
            return 0
        with nogil:
            pthread_mutex_lock(&state.topics_lock)
            for i in range(state.topic_count):
                if state.topics[i] is topic:
                    state.topic_count -= 1
                    state.topics[i] = state.topics[state.topic_count]
                    state.topics_moved += 1      # the last one took its place and may have missed its turn
                    break
            while state.serving is topic:
                pthread_cond_wait(&state.topic_left, &state.topics_lock)
            pthread_mutex_unlock(&state.topics_lock)
        return 0

    cdef void nudge(self) noexcept nogil:
        wake_sync(self.state)

    cdef void wake_within(self, int64_t interval_ns) noexcept nogil:
        """Call it when the dirty bit is set. Most often the thread wakes early enough by itself."""
        if slot_load32(&self.state.sync_word) != SYNC_ASLEEP or (
            slot_loadi64(&self.state.sleeps_until) > clock_ns(CLOCK_BOOTTIME) + interval_ns
        ):
            wake_sync(self.state)

    # ---- asyncio --------------------------------------------------------------------------------------

    @property
    def eventfd(self) -> int:
        """A descriptor that becomes readable when our registry word changes while somebody is enrolled."""
        cdef int fd
        self._check_inherited()
        if self.state.event_fd < 0:
            fd = pylog_new_event_fd()
            if fd < 0:
                raise OSError("no descriptor left for asyncio's eventfd")
            pylog_set_event_fd(&self.state.event_fd, fd)
        return self.state.event_fd

    @property
    def async_waiters(self) -> int:
        """How many have enrolled."""
        return self.state.async_waiters

    def enroll(self) -> None:
        """Have the eventfd written from now on; look at what you wait for only after this."""
        self._check_inherited()
        if not self.running:
            raise ClosedError("the service does not run")
        self.eventfd       # there before anybody rings
        if pylog_add(&self.state.async_waiters, 1) == 0:
            wake_watch(self.state)

    def withdraw(self) -> None:
        """Undo one enroll()."""
        if self.state.async_waiters == 0:
            raise ConfigError("withdraw() without enroll()")
        pylog_add(&self.state.async_waiters, <uint32_t> 0xFFFFFFFF)

    # ---- what tests and metrics ask -------------------------------------------------------------------

    def heartbeat_age(self) -> float:
        """Seconds since the watch thread last showed that it runs."""
        if not self.running:
            raise ClosedError("the service does not run")
        return (clock_ns(CLOCK_BOOTTIME) - slot_loadi64(&self.state.slots[self.state.slot].heartbeat)) / 1e9

    @property
    def deaths_seen(self) -> int:
        """How many engines this one found dead."""
        return self.state.deaths_seen

    @property
    def thread_count(self) -> int:
        """Native threads that run: 2, or 0 when closed."""
        return 2 if self.running and self.forks == fork_count() else 0

    # ---- its parts ------------------------------------------------------------------------------------

    def _check_inherited(self):
        if self.forks != fork_count():
            raise ClosedError("this engine was opened before a fork: the child must open its own")


cdef void stop_threads(Service service) noexcept:
    cdef service_t* state = service.state
    with nogil:
        slot_store32(&state.stop, 1)
        wake_sync(state)
        wake_watch(state)
        if state.sync_thread:
            pthread_join(state.sync_thread, NULL)
        pthread_join(state.watch_thread, NULL)
    service.running = False
    service.registry.slot = -1
