/* Watches what a process would leave on a disk if the power went now. tests/faults/powercut.py loads it.
 *
 * Only files below PYLOG_POWERCUT_ROOT are watched. Below PYLOG_POWERCUT_TRACE (same file system) it keeps:
 *   log       one line per event, in order, by all processes; a line is one write to an O_APPEND file
 *   <n>.data  the content of a file when its n-th sync began: that much a completed sync promises
 *   <n>.gone  a hard link to a file that an unlink or rename removed, so that its content stays and its inode
 *             number is not given to another file
 * Each event is logged behind the call, name operations also before it ("?"), since a kill may fall between.
 * Real syncs are left out: the page cache survives a kill, and the tests need thousands of syncs a second.
 *
 * PYLOG_POWERCUT_STOP_AT=n kills the process before its n-th event counted over all processes.
 * PYLOG_BOOT_ID_FILE stands for /proc/sys/kernel/random/boot_id.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static char root[PATH_MAX], trace[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static uint64_t *counters;                    /* shared by all processes: [0] events, [1] file numbers */
static uint64_t stop_at;

static void fail(const char *what) {
    fprintf(stderr, "powercut: %s: %s\n", what, strerror(errno));
    abort();
}

/* at the start of a process that has the environment already; a forked child calls it when it has got its own */
__attribute__((constructor)) void powercut_begin(void) {
    const char *r = getenv("PYLOG_POWERCUT_ROOT"), *t = getenv("PYLOG_POWERCUT_TRACE");
    const char *n = getenv("PYLOG_POWERCUT_STOP_AT");
    char path[PATH_MAX + 16];
    int fd;
    if (r == NULL || t == NULL || log_fd >= 0) return;
    if (realpath(r, root) == NULL || realpath(t, trace) == NULL) fail("no such directory");
    root_length = strlen(root);
    stop_at = n ? strtoull(n, NULL, 10) : 0;
    snprintf(path, sizeof path, "%s/counters", trace);
    fd = (int) syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 4096) != 0) fail(path);
    counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counters == MAP_FAILED) fail(path);
    syscall(SYS_close, fd);
    snprintf(path, sizeof path, "%s/log", trace);
    log_fd = (int) syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) fail(path);
    /* out of the way of tests that count or limit descriptors */
    fd = fcntl(log_fd, F_DUPFD_CLOEXEC, 900);
    if (fd >= 0) { syscall(SYS_close, log_fd); log_fd = fd; }
}

static void event(const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length >= (int) sizeof line) fail("log");
    if (syscall(SYS_write, log_fd, line, (size_t) length) != length) fail("log");
}

/* before each event: the n-th is where the power may be told to go */
static void count(void) {
    uint64_t n = __atomic_add_fetch(&counters[0], 1, __ATOMIC_SEQ_CST);
    if (stop_at && n >= stop_at) {
        event("stopped %d\n", getpid());
        kill(getpid(), SIGKILL);
    }
}

static uint64_t number(void) { return __atomic_add_fetch(&counters[1], 1, __ATOMIC_SEQ_CST); }

/* absolute path, links of the directory part resolved; 1 where it lies below the root */
static int watched(int dir, const char *name, char *path) {
    char joined[2 * PATH_MAX], link[64], *slash;
    ssize_t n;
    size_t length;
    if (log_fd < 0 || name == NULL) return 0;
    if (name[0] == '/') snprintf(joined, sizeof joined, "%s", name);
    else {
        if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        n = readlink(link, joined, PATH_MAX - 1);
        if (n < 0) return 0;
        snprintf(joined + n, sizeof joined - (size_t) n, "/%s", name);
    }
    length = strlen(joined);
    while (length > 1 && joined[length - 1] == '/') joined[--length] = 0;
    slash = strrchr(joined, '/');
    *slash = 0;
    if (realpath(joined[0] ? joined : "/", path) == NULL) return 0;
    if (strlen(path) + strlen(slash + 1) + 2 > PATH_MAX) return 0;
    strcat(path, "/");
    strcat(path, slash + 1);
    return strncmp(path, root, root_length) == 0 && path[root_length] == '/';
}

static int watched_fd(int fd, char *path) {
    char link[64];
    ssize_t n;
    if (log_fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static const char *inner(const char *path) { return path[root_length] ? path + root_length + 1 : "."; }

/* ---- syncs ---- */

static uint64_t copy_content(int fd, uint64_t size) {
    char path[PATH_MAX + 64], block[65536];
    uint64_t n = number(), at = 0;
    int out;
    snprintf(path, sizeof path, "%s/%llu.data", trace, (unsigned long long) n);
    out = (int) syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0) fail(path);
    while (at < size) {
        ssize_t got = pread(fd, block, sizeof block, (off_t) at);
        if (got <= 0) break;
        if (syscall(SYS_write, out, block, (size_t) got) != got) fail(path);
        at += (uint64_t) got;
    }
    syscall(SYS_close, out);
    return n;
}

static int synced(int fd, int whole) {
    char path[PATH_MAX], link[64];
    struct stat s;
    uint64_t n;
    int readable;
    if (!watched_fd(fd, path)) return whole ? REAL(fsync)(fd) : REAL(fdatasync)(fd);
    if (fstat(fd, &s) != 0) return -1;
    count();
    if (S_ISDIR(s.st_mode)) {
        event("dirsync %s\n", inner(path));
        return 0;
    }
    /* the descriptor may be for writing only */
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    readable = (int) syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    if (readable < 0) fail(path);
    n = copy_content(readable, (uint64_t) s.st_size);
    syscall(SYS_close, readable);
    event("sync %llu %llu %s\n", (unsigned long long) s.st_ino, (unsigned long long) n, inner(path));
    return 0;
}

int fsync(int fd) { return synced(fd, 1); }
int fdatasync(int fd) { return synced(fd, 0); }

int msync(void *address, size_t length, int flags) {
    char line[PATH_MAX + 128], path[PATH_MAX];
    unsigned long low, high;
    FILE *maps;
    int fd, result = 0;
    if (log_fd < 0 || !(flags & MS_SYNC)) return REAL(msync)(address, length, flags);
    maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps)) {
        path[0] = 0;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %4095[^\n]", &low, &high, path) < 3) continue;
        if ((unsigned long) address < low || (unsigned long) address >= high) continue;
        fd = (int) syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) { result = synced(fd, 1); syscall(SYS_close, fd); }
        break;
    }
    if (maps != NULL) fclose(maps);
    return result;
}

/* ways to sync that the model does not know must not pass unseen */
int sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags) {
    char path[PATH_MAX];
    if (watched_fd(fd, path)) fail("sync_file_range is not modelled");
    return REAL(sync_file_range)(fd, offset, bytes, flags);
}
int syncfs(int fd) {
    char path[PATH_MAX];
    if (watched_fd(fd, path)) fail("syncfs is not modelled");
    return REAL(syncfs)(fd);
}

/* ---- name operations ---- */

/* keeps what a name leads to, so that the name can come back */
static void keep(const char *path) {
    char kept[PATH_MAX + 64];
    struct stat s;
    if (lstat(path, &s) != 0 || S_ISDIR(s.st_mode)) return;
    snprintf(kept, sizeof kept, "%s/%llu.gone", trace, (unsigned long long) number());
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, kept, 0) != 0 && errno != ENOENT) fail(kept);
}

static unsigned long long inode_of(const char *path) {
    struct stat s;
    return lstat(path, &s) == 0 ? (unsigned long long) s.st_ino : 0;
}

static int opened(int dir, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    unsigned long long before;
    int fd, watch;
    if (strcmp(name, BOOT_ID) == 0 && getenv("PYLOG_BOOT_ID_FILE")) name = getenv("PYLOG_BOOT_ID_FILE");
    if (!(flags & (O_CREAT | O_TRUNC | O_SYNC | O_DSYNC)) || !watched(dir, name, path))
        return (int) syscall(SYS_openat, dir, name, flags, mode);
    if (flags & (O_DSYNC | O_SYNC) & ~O_DIRECTORY) {
        errno = ENOTSUP;
        fail("O_SYNC and O_DSYNC are not modelled");
    }
    before = inode_of(path);
    watch = (flags & O_CREAT) && before == 0;
    if (watch) {
        count();
        event("? create 0 %s\n", inner(path));
    }
    fd = (int) syscall(SYS_openat, dir, name, flags, mode);
    if (fd >= 0 && watch) event("create %llu %s\n", inode_of(path), inner(path));
    return fd;
}

#define OPENED(dir, name, flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    return opened(dir, name, flags, mode);

int open(const char *name, int flags, ...) { OPENED(AT_FDCWD, name, flags) }
int open64(const char *name, int flags, ...) { OPENED(AT_FDCWD, name, flags) }
int openat(int dir, const char *name, int flags, ...) { OPENED(dir, name, flags) }
int openat64(int dir, const char *name, int flags, ...) { OPENED(dir, name, flags) }
int __open_2(const char *name, int flags) { return opened(AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return opened(AT_FDCWD, name, flags, 0); }
int __openat_2(int dir, const char *name, int flags) { return opened(dir, name, flags, 0); }
int __openat64_2(int dir, const char *name, int flags) { return opened(dir, name, flags, 0); }
int creat(const char *name, mode_t mode) {
    return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static int renamed(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char source[PATH_MAX], target[PATH_MAX];
    unsigned long long inode;
    int result, a = watched(from_dir, from, source), b = watched(to_dir, to, target);
    if (!a && !b) return (int) syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    if (!a || !b) fail("a rename across the border of the data directory");
    count();
    inode = inode_of(source);
    keep(target);
    event("? rename %llu %s\t%s\n", inode, inner(source), inner(target));
    result = (int) syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    if (result == 0) event("rename %llu %s\t%s\n", inode, inner(source), inner(target));
    return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return renamed(from_dir, from, to_dir, to, 0);
}
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return renamed(from_dir, from, to_dir, to, flags);
}

static int unlinked(int dir, const char *name, int flags) {
    char path[PATH_MAX];
    unsigned long long inode;
    int result;
    if (!watched(dir, name, path)) return (int) syscall(SYS_unlinkat, dir, name, flags);
    count();
    inode = inode_of(path);
    keep(path);
    event("? unlink %llu %s\n", inode, inner(path));
    result = (int) syscall(SYS_unlinkat, dir, name, flags);
    if (result == 0) event("unlink %llu %s\n", inode, inner(path));
    return result;
}
int unlink(const char *name) { return unlinked(AT_FDCWD, name, 0); }
int unlinkat(int dir, const char *name, int flags) { return unlinked(dir, name, flags); }
int rmdir(const char *name) { return unlinked(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) {
    int result = unlinked(AT_FDCWD, name, 0);
    return result != 0 && errno == EISDIR ? unlinked(AT_FDCWD, name, AT_REMOVEDIR) : result;
}

static int made(int dir, const char *name, mode_t mode) {
    char path[PATH_MAX];
    int result;
    if (!watched(dir, name, path)) return (int) syscall(SYS_mkdirat, dir, name, mode);
    count();
    event("? mkdir 0 %s\n", inner(path));
    result = (int) syscall(SYS_mkdirat, dir, name, mode);
    if (result == 0) event("mkdir %llu %s\n", inode_of(path), inner(path));
    return result;
}
int mkdir(const char *name, mode_t mode) { return made(AT_FDCWD, name, mode); }
int mkdirat(int dir, const char *name, mode_t mode) { return made(dir, name, mode); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char target[PATH_MAX];
    int result;
    if (!watched(to_dir, to, target)) return (int) syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    count();
    event("? link 0 %s\n", inner(target));
    result = (int) syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    if (result == 0) event("link %llu %s\n", inode_of(target), inner(target));
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
