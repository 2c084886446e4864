# cython: language_level=3
"""Failpoints: named places where the tests kill, stop or fail a process. Nothing in a normal build.

Mapped appends make no system call, so no tracer can stop a process between two stores: a failpoint can.
Only a build with -DPYLOG_FAILPOINTS (tools/build_failpoints.py) has them. There each place counts its hits
in the file that the environment's PYLOG_FAILPOINTS_FILE names, shared by all processes and modules, and
acts where that file says so. tests/faults/failpoints.py is the other side and names the same layout.

Invariant: without -DPYLOG_FAILPOINTS each of the three is a constant and leaves no instruction behind.
"""

cdef extern from *:
    """
    #ifndef PYLOG_FAILPOINTS
    #define failpoint(name) ((void) 0)
    #define failpoint_errno(name) (0)
    #define planted(name) (0)
    #else
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #define PYLOG_FP_ENTRIES 512

    enum { PYLOG_FP_NONE, PYLOG_FP_KILL, PYLOG_FP_STOP, PYLOG_FP_EXIT, PYLOG_FP_ABORT, PYLOG_FP_WAIT,
           PYLOG_FP_ERROR_ONCE, PYLOG_FP_ERROR_ALWAYS };

    typedef struct {              /* 128 bytes: two cache lines, so that points do not disturb each other */
        char name[64];
        uint32_t state;           /* 0 free, 1 being named, 2 named */
        uint32_t action;          /* written last by the test, with release order */
        uint64_t hits;            /* by all processes */
        int64_t countdown;        /* the hit that takes it from 1 to 0 acts */
        uint32_t pid;             /* 0: any process, else only this one counts down */
        int32_t error;            /* errno for failpoint_errno() */
        uint32_t fired;           /* times it acted */
        uint32_t fired_pid;       /* who acted last */
        uint8_t reserved[24];
    } pylog_fp_entry;

    static pylog_fp_entry *pylog_fp_table;
    static int pylog_fp_opened;   /* 0 not yet, 1 mapped, 2 no file was named */

    static int pylog_fp_open(void) {
        const char *path = getenv("PYLOG_FAILPOINTS_FILE");
        int fd, opened = 2;
        void *mapped;
        if (path != NULL && (fd = open(path, O_RDWR | O_CLOEXEC)) >= 0) {
            mapped = mmap(NULL, PYLOG_FP_ENTRIES * sizeof(pylog_fp_entry), PROT_READ | PROT_WRITE,
                          MAP_SHARED, fd, 0);
            close(fd);
            if (mapped != MAP_FAILED) {
                __atomic_store_n(&pylog_fp_table, (pylog_fp_entry *) mapped, __ATOMIC_RELEASE);
                opened = 1;       /* two threads may both map it: the same file, and neither is unmapped */
            }
        }
        __atomic_store_n(&pylog_fp_opened, opened, __ATOMIC_RELEASE);
        return opened;
    }

    static pylog_fp_entry *pylog_fp_find(const char *name) {
        int opened = __atomic_load_n(&pylog_fp_opened, __ATOMIC_ACQUIRE), i, turns;
        uint32_t state;
        if (opened == 0) opened = pylog_fp_open();
        if (opened == 2) return NULL;
        for (i = 0; i < PYLOG_FP_ENTRIES; i++) {
            pylog_fp_entry *entry = &pylog_fp_table[i];
            state = 0;
            if (__atomic_compare_exchange_n(&entry->state, &state, 1, 0, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE)) {
                strncpy(entry->name, name, sizeof entry->name - 1);
                __atomic_store_n(&entry->state, 2, __ATOMIC_RELEASE);
                return entry;
            }
            /* whoever was naming it may have been killed: then it stays behind as a nameless entry */
            for (turns = 0; state == 1 && turns < 10000; turns++) {
                sched_yield();
                state = __atomic_load_n(&entry->state, __ATOMIC_ACQUIRE);
            }
            if (state == 2 && strncmp(entry->name, name, sizeof entry->name - 1) == 0) return entry;
        }
        return NULL;
    }

    static int pylog_fp_act(pylog_fp_entry *entry, uint32_t action) {
        struct timespec pause = {0, 200000};
        __atomic_store_n(&entry->fired_pid, (uint32_t) getpid(), __ATOMIC_RELEASE);
        __atomic_fetch_add(&entry->fired, 1, __ATOMIC_SEQ_CST);
        switch (action) {
        case PYLOG_FP_KILL: kill(getpid(), SIGKILL); break;
        /* to this thread, so that it does not run on while another one takes the signal */
        case PYLOG_FP_STOP: syscall(SYS_tgkill, getpid(), (pid_t) syscall(SYS_gettid), SIGSTOP); break;
        case PYLOG_FP_EXIT: _exit(0);
        case PYLOG_FP_ABORT: abort();
        case PYLOG_FP_WAIT:       /* only this thread waits, until the test disarms the point */
            while (__atomic_load_n(&entry->action, __ATOMIC_ACQUIRE) == PYLOG_FP_WAIT)
                nanosleep(&pause, NULL);
            break;
        case PYLOG_FP_ERROR_ONCE: case PYLOG_FP_ERROR_ALWAYS: return entry->error;
        }
        return 0;
    }

    static int pylog_fp_hit(pylog_fp_entry *entry) {
        uint32_t action;
        int64_t before;
        int saved = errno, result = 0;
        __atomic_fetch_add(&entry->hits, 1, __ATOMIC_SEQ_CST);
        action = __atomic_load_n(&entry->action, __ATOMIC_ACQUIRE);
        if (action != PYLOG_FP_NONE && (entry->pid == 0 || entry->pid == (uint32_t) getpid())) {
            before = __atomic_fetch_sub(&entry->countdown, 1, __ATOMIC_SEQ_CST);
            if (before == 1 || (before < 1 && action == PYLOG_FP_ERROR_ALWAYS))
                result = pylog_fp_act(entry, action);
        }
        errno = saved;
        return result;
    }

    static int pylog_fp_planted(const char *name) {
        const char *bug = getenv("PYLOG_PLANTED_BUG");
        return bug != NULL && strcmp(bug, name) == 0;
    }

    /* each place keeps its own entry, so that a hit costs a few atomic additions */
    #define failpoint_errno(name) (__extension__ ({ \\
        static pylog_fp_entry *here; \\
        pylog_fp_entry *found = __atomic_load_n(&here, __ATOMIC_ACQUIRE); \\
        if (found == NULL && __atomic_load_n(&pylog_fp_opened, __ATOMIC_ACQUIRE) != 2) { \\
            found = pylog_fp_find(name); \\
            __atomic_store_n(&here, found, __ATOMIC_RELEASE); \\
        } \\
        found == NULL ? 0 : pylog_fp_hit(found); }))
    #define failpoint(name) ((void) failpoint_errno(name))
    #define planted(name) (__extension__ ({ \\
        static int known = -1; \\
        if (known < 0) known = pylog_fp_planted(name); \\
        known; }))
    #endif
    """
    # counts a hit and does what the test armed here: SIGKILL, SIGSTOP, _exit(0), abort, wait. A literal name.
    void failpoint(const char* name) noexcept nogil
    # the same, and the errno that the call behind it shall pretend to have failed with; 0: make the call
    int failpoint_errno(const char* name) noexcept nogil
    # True where the self-test of the harness asked for this bug (PYLOG_PLANTED_BUG)
    bint planted(const char* name) noexcept nogil
