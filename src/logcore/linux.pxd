# cython: language_level=3
"""The Linux calls that the core makes: files, mappings, clocks, futexes, robust mutexes. Header only."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/futex.h>
    #include <pthread.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/file.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static inline int64_t clock_ns(int which) {
        struct timespec t;
        clock_gettime(which, &t);
        return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    static inline struct timespec timespec_of(int64_t ns) {
        struct timespec t = {ns / 1000000000LL, ns % 1000000000LL};
        return t;
    }
    /* 0 woken or value changed, else ETIMEDOUT or EINTR; timeout_ns < 0 waits for ever */
    static inline int futex_wait(uint32_t *word, uint32_t seen, int64_t timeout_ns) {
        struct timespec t = timespec_of(timeout_ns < 0 ? 0 : timeout_ns);
        long r = syscall(SYS_futex, word, FUTEX_WAIT, seen, timeout_ns < 0 ? NULL : &t, NULL, 0);
        if (r == 0 || errno == EAGAIN) return 0;
        return errno;
    }
    static inline void futex_wake(uint32_t *word, int count) {
        syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    }
    static inline int robust_mutex_init(pthread_mutex_t *m) {
        pthread_mutexattr_t a;
        int r = pthread_mutexattr_init(&a);
        if (r) return r;
        pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
        r = pthread_mutex_init(m, &a);
        pthread_mutexattr_destroy(&a);
        return r;
    }
    /* In slices: a waiter that is woken and killed before it runs has taken the wake-up with it, and whoever
       got the lock meanwhile does not know of the others. They would sleep on beside a lock that is free. */
    static inline int mutex_lock_within(pthread_mutex_t *m, int64_t timeout_ns) {
        int64_t end = clock_ns(CLOCK_MONOTONIC) + timeout_ns;
        for (;;) {
            int64_t until = clock_ns(CLOCK_MONOTONIC) + 20000000;
            struct timespec t = timespec_of(until < end ? until : end);
            int r = pthread_mutex_clocklock(m, CLOCK_MONOTONIC, &t);
            if (r != ETIMEDOUT || until >= end) return r;
        }
    }
    static inline int64_t file_bytes(int fd) {
        struct stat s;
        if (fstat(fd, &s) != 0) return -1;
        if (!S_ISREG(s.st_mode)) { errno = EINVAL; return -1; }
        return s.st_size;
    }
    /* whole writes and reads: 0 or an errno; a read that meets the end of the file says ENODATA */
    static inline int write_all(int fd, const void *data, size_t size, int64_t at) {
        const char *p = (const char *)data;
        while (size) {
            ssize_t n = pwrite(fd, p, size, at);
            if (n < 0) { if (errno == EINTR) continue; return errno; }
            if (n == 0) return EIO;
            p += n; at += n; size -= (size_t)n;
        }
        return 0;
    }
    static inline int read_all(int fd, void *data, size_t size, int64_t at) {
        char *p = (char *)data;
        while (size) {
            ssize_t n = pread(fd, p, size, at);
            if (n < 0) { if (errno == EINTR) continue; return errno; }
            if (n == 0) return ENODATA;
            p += n; at += n; size -= (size_t)n;
        }
        return 0;
    }
    """
    ctypedef struct pthread_mutex_t "pthread_mutex_t":
        pass
    int64_t clock_ns(int which) nogil
    int CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_MONOTONIC
    int futex_wait(uint32_t* word, uint32_t seen, int64_t timeout_ns) nogil
    void futex_wake(uint32_t* word, int count) nogil
    int robust_mutex_init(pthread_mutex_t* m) nogil
    int mutex_lock_within(pthread_mutex_t* m, int64_t timeout_ns) nogil
    int pthread_mutex_trylock(pthread_mutex_t* m) nogil
    int pthread_mutex_unlock(pthread_mutex_t* m) nogil
    int pthread_mutex_consistent(pthread_mutex_t* m) nogil
    int64_t file_bytes(int fd) nogil
    int write_all(int fd, const void* data, size_t size, int64_t at) nogil
    int read_all(int fd, void* data, size_t size, int64_t at) nogil

    int open(const char* path, int flags, ...) nogil
    int openat(int dirfd, const char* path, int flags, ...) nogil
    int renameat(int olddirfd, const char* old, int newdirfd, const char* new) nogil
    int unlinkat(int dirfd, const char* path, int flags) nogil
    int close(int fd) nogil
    int flock(int fd, int operation) nogil
    int fsync(int fd) nogil
    int fdatasync(int fd) nogil
    int fallocate(int fd, int mode, int64_t offset, int64_t size) nogil
    int posix_fallocate(int fd, int64_t offset, int64_t size) nogil
    void* mmap(void* address, size_t size, int protection, int flags, int fd, int64_t offset) nogil
    int munmap(void* address, size_t size) nogil
    void* MAP_FAILED
    int MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, PROT_READ, PROT_WRITE
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY
    int LOCK_EX, LOCK_SH, LOCK_UN, LOCK_NB
    int EAGAIN, EBUSY, EOWNERDEAD, ETIMEDOUT, EINTR, ENOENT, ENOSPC, EDQUOT, EFBIG, EEXIST, EIO, ENODATA
    int EINVAL
