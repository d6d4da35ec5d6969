/* Comes between a program and the C library at every call that changes a disk, and at every
 * answer sent on a socket: Python's own, SQLite's, and those of compiled extensions.
 *
 * Loaded by LD_PRELOAD; does nothing until chaos_arm. Then, for each call below `root`, it asks
 * `decide` what to do:
 *     0 go on, 1 kill this process before, 2 after, 3 after half of a write, -errno fail instead.
 * With a `log` it appends a record of each call that was done, data included, in their true order.
 * Not seen: memory-mapped writes (SQLite's -shm file alone, which recovery does not read).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, TRUNCATE, SYNC, RENAME, UNLINK, CREATE, MKDIR, RMDIR, SEND };
enum { GO, BEFORE, AFTER, HALF };

typedef int (*decide_t)(int op, const char *path, const char *other, int *site);

struct record {
    uint64_t nanoseconds;
    uint32_t op, site;
    uint64_t offset, length;
    uint32_t path_length, other_length;
};

static decide_t decide;
static char root[PATH_MAX];
static int log_file = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside;

void chaos_arm(decide_t function, const char *folder, int log)
{
    snprintf(root, sizeof root, "%s/", folder);
    log_file = log;
    decide = function;
}

void chaos_disarm(void) { decide = NULL; }

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int below_root(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

/* The path of a descriptor; 0 when it is not below the root. */
static int path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    return below_root(path);
}

/* The absolute path of `name` relative to `at`; 0 when it is not below the root. */
static int path_at(int at, const char *name, char *path)
{
    if (name[0] == '/')
        snprintf(path, PATH_MAX, "%s", name);
    else {
        char folder[PATH_MAX];
        if (at == AT_FDCWD) {
            if (!getcwd(folder, sizeof folder))
                return 0;
        } else if (!path_of(at, folder))
            return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
            return 0;
    }
    return below_root(path);
}

struct call {
    int op, verdict, site;
    const char *path, *other;
};

static int watched(void) { return decide != NULL && !inside; }

/* Ask, and begin: 0 when the call must fail, with errno set. Holds the order until end(). */
static int begin(struct call *call, int op, const char *path, const char *other)
{
    *call = (struct call){op, GO, 0, path, other};
    inside = 1;
    call->verdict = decide(op, path, other, &call->site);
    inside = 0;
    if (call->verdict == BEFORE)
        die();
    if (call->verdict < 0) {
        errno = -call->verdict;
        return 0;
    }
    pthread_mutex_lock(&order);
    return 1;
}

/* End a call that succeeded or not; keeps errno. */
static void end(struct call *call, int succeeded, uint64_t offset, const void *data, size_t length)
{
    int kept = errno;
    if (succeeded && log_file >= 0) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        struct record record = {
            (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec, call->op, call->site, offset, length,
            strlen(call->path), strlen(call->other)};
        struct iovec parts[] = {{&record, sizeof record},
                                {(void *)call->path, record.path_length},
                                {(void *)call->other, record.other_length},
                                {(void *)data, data ? length : 0}};
        syscall(SYS_writev, log_file, parts, 4);
    }
    if (call->verdict == AFTER || call->verdict == HALF)
        die();
    pthread_mutex_unlock(&order);
    errno = kept;
}

static size_t share(const struct call *call, size_t n) { return call->verdict == HALF ? n / 2 : n; }

ssize_t write(int fd, const void *data, size_t n)
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !path_of(fd, path))
        return REAL(write)(fd, data, n);
    if (!begin(&call, WRITE, path, ""))
        return -1;
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    off_t at = lseek(fd, 0, appends ? SEEK_END : SEEK_CUR);
    ssize_t done = REAL(write)(fd, data, share(&call, n));
    end(&call, done >= 0, at, data, done > 0 ? done : 0);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !path_of(fd, path))
        return REAL(pwrite64)(fd, data, n, at);
    if (!begin(&call, WRITE, path, ""))
        return -1;
    ssize_t done = REAL(pwrite64)(fd, data, share(&call, n), at);
    end(&call, done >= 0, at, data, done > 0 ? done : 0);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }

/* One part at a time: a short count is what callers of writev have to expect anyway. */
ssize_t writev(int fd, const struct iovec *parts, int n)
{
    char path[PATH_MAX];
    if (!watched() || n < 1 || !path_of(fd, path))
        return REAL(writev)(fd, parts, n);
    return write(fd, parts[0].iov_base, parts[0].iov_len);
}

/* Python copies by it where it can, and by read and write, which are seen, where it cannot. */
ssize_t sendfile64(int to, int from, off64_t *at, size_t n)
{
    char path[PATH_MAX];
    if (!watched() || !path_of(to, path))
        return REAL(sendfile64)(to, from, at, n);
    errno = ENOTSOCK;
    return -1;
}

ssize_t sendfile(int to, int from, off_t *at, size_t n) { return sendfile64(to, from, at, n); }

int ftruncate64(int fd, off64_t length)
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !path_of(fd, path))
        return REAL(ftruncate64)(fd, length);
    if (!begin(&call, TRUNCATE, path, ""))
        return -1;
    int result = REAL(ftruncate64)(fd, length);
    end(&call, result == 0, length, NULL, 0);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synchronise(int fd, int (*function)(int))
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !path_of(fd, path))
        return function(fd);
    if (!begin(&call, SYNC, path, ""))
        return -1;
    int result = function(fd);
    end(&call, result == 0, 0, NULL, 0);
    return result;
}

int fsync(int fd) { return synchronise(fd, REAL(fsync)); }
int fdatasync(int fd) { return synchronise(fd, REAL(fdatasync)); }

static int open_at(int at, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !(flags & (O_CREAT | O_TRUNC)) || !path_at(at, name, path))
        return REAL(openat64)(at, name, flags, mode);
    int exists = faccessat(at, name, F_OK, 0) == 0;
    if (exists && !(flags & O_TRUNC))
        return REAL(openat64)(at, name, flags, mode);
    if (!begin(&call, exists ? TRUNCATE : CREATE, path, ""))
        return -1;
    int fd = REAL(openat64)(at, name, flags, mode);
    end(&call, fd >= 0, 0, NULL, 0);
    return fd;
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define WITH_MODE(call_) \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = mode_of(flags, rest); \
    va_end(rest); \
    return call_

int open64(const char *name, int flags, ...) { WITH_MODE(open_at(AT_FDCWD, name, flags, mode)); }
int open(const char *name, int flags, ...) { WITH_MODE(open_at(AT_FDCWD, name, flags, mode)); }
int openat64(int at, const char *name, int flags, ...) { WITH_MODE(open_at(at, name, flags, mode)); }
int openat(int at, const char *name, int flags, ...) { WITH_MODE(open_at(at, name, flags, mode)); }

int renameat(int from_at, const char *from, int to_at, const char *to)
{
    char source[PATH_MAX], target[PATH_MAX];
    struct call call;
    if (!watched() || !path_at(from_at, from, source) || !path_at(to_at, to, target))
        return REAL(renameat)(from_at, from, to_at, to);
    if (!begin(&call, RENAME, source, target))
        return -1;
    int result = REAL(renameat)(from_at, from, to_at, to);
    end(&call, result == 0, 0, NULL, 0);
    return result;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int at, const char *name, int flags)
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !path_at(at, name, path))
        return REAL(unlinkat)(at, name, flags);
    if (!begin(&call, flags & AT_REMOVEDIR ? RMDIR : UNLINK, path, ""))
        return -1;
    int result = REAL(unlinkat)(at, name, flags);
    end(&call, result == 0, 0, NULL, 0);
    return result;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    struct call call;
    if (!watched() || !path_at(at, name, path))
        return REAL(mkdirat)(at, name, mode);
    if (!begin(&call, MKDIR, path, ""))
        return -1;
    int result = REAL(mkdirat)(at, name, mode);
    end(&call, result == 0, 0, NULL, 0);
    return result;
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* A single byte is an event loop waking itself, not an answer. */
ssize_t send(int fd, const void *data, size_t n, int flags)
{
    struct call call;
    if (!watched() || n < 2)
        return REAL(send)(fd, data, n, flags);
    if (!begin(&call, SEND, "socket", ""))
        return -1;
    ssize_t done = REAL(send)(fd, data, n, flags);
    end(&call, done >= 0, 0, NULL, 0);
    return done;
}
