/* Stands between the process and libc for calls on files in one folder: logs them, fails them, or dies in one.
 *
 * Preloaded. Nothing happens before shim_arm(); a forked child arms itself for its own case. LMDB's lock
 * files are left alone: they mean nothing after a power cut, and are mapped rather than written.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, KILL_BEFORE, KILL_HALF, KILL_AFTER, FAIL_ONCE, FAIL_ON, SHORT_ONCE, LATE_ONCE };
enum { WRITE = 1, TRUNCATE, SYNC, SYNC_FOLDER, CREATE, LINK, RENAME, UNLINK, MARK };

static int mode, fault_errno, log_fd = -1;
static long countdown, calls, hits;
static char folder[PATH_MAX];
static size_t folder_length;

void shim_arm(const char *path, int new_mode, long at, int number, int log) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    mode = new_mode;
    countdown = at;
    fault_errno = number;
    log_fd = log;
    calls = hits = 0;
}

void shim_disarm(void) { mode = OFF; log_fd = -1; folder_length = 0; }
long shim_calls(void) { return calls; }
long shim_hits(void) { return hits; }

static void put(const void *data, size_t length) {
    const char *at = data;
    while (length > 0) {
        long done = syscall(SYS_write, log_fd, at, length);
        if (done <= 0) abort();
        at += done;
        length -= (size_t)done;
    }
}

static void record(uint64_t op, uint64_t inode, uint64_t offset, uint64_t flag, const void *data, size_t length) {
    if (log_fd < 0) return;
    uint64_t head[5] = {op, inode, offset, flag, length};
    put(head, sizeof head);
    if (length) put(data, length);
}

void shim_mark(const char *text) { record(MARK, 0, 0, 0, text, strlen(text)); }

static int ours(const char *path) {
    size_t length = strlen(path);
    if (!folder_length || strncmp(path, folder, folder_length) != 0) return 0;
    if (path[folder_length] != 0 && path[folder_length] != '/') return 0;
    return length < 5 || strcmp(path + length - 5, "-lock") != 0;
}

/* 1 for a file of ours, 2 for our folder itself. */
static int ours_fd(int fd, struct stat *status) {
    char link[64], path[PATH_MAX];
    if (!folder_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!ours(path) || fstat(fd, status) != 0) return 0;
    if (S_ISDIR(status->st_mode)) return 2;
    return S_ISREG(status->st_mode) ? 1 : 0;
}

/* 1: fail now with errno set. 2: do half of it. 3: do it, and fail then. 0: go on. */
static int fault(void) {
    calls++;
    if (mode == OFF || mode == KILL_AFTER) return 0;
    int due = --countdown == 0 || (mode == FAIL_ON && countdown < 0);
    if (!due) return 0;
    hits++;
    if (mode == KILL_BEFORE) kill(getpid(), SIGKILL);
    if (mode == KILL_HALF || mode == SHORT_ONCE) return 2;
    if (mode == LATE_ONCE) return 3;
    errno = fault_errno;
    return 1;
}

static void after(void) {
    if (mode == KILL_AFTER && --countdown == 0) kill(getpid(), SIGKILL);
    if (mode == KILL_HALF && hits) kill(getpid(), SIGKILL);
}

static uint64_t synced_writes(int fd) { return (fcntl(fd, F_GETFL) & (O_DSYNC | O_SYNC)) != 0; }

static ssize_t write_at(int fd, const void *data, size_t length, off_t offset, const struct stat *status) {
    int what = fault();
    if (what == 1) return -1;
    /* The system copies a page in one go, so half a write ends at a page's border. */
    if (what == 2) length = (size_t)offset % 4096 + length > 4096 ? (offset + length / 2 + 4095) / 4096 * 4096 - offset : 0;
    ssize_t done = length ? syscall(SYS_pwrite64, fd, data, length, offset) : 0;
    if ((what == 2 && mode == SHORT_ONCE && length == 0) || what == 3) {
        errno = fault_errno;
        return -1;
    }
    if (done > 0) record(WRITE, status->st_ino, (uint64_t)offset, synced_writes(fd), data, (size_t)done);
    after();
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    struct stat status;
    if (ours_fd(fd, &status) != 1) return syscall(SYS_pwrite64, fd, data, length, offset);
    return write_at(fd, data, length, offset, &status);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return pwrite(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    struct stat status;
    if (!folder_length || fd == log_fd || ours_fd(fd, &status) != 1) return syscall(SYS_write, fd, data, length);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = write_at(fd, data, length, at, &status);
    if (done > 0) lseek(fd, at + done, SEEK_SET);
    return done;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    struct stat status;
    if (ours_fd(fd, &status) != 1)
        return syscall(SYS_pwritev, fd, parts, count, (long)offset, (long)((uint64_t)offset >> 32 >> 16 >> 16));
    size_t length = 0, filled = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    char *whole = malloc(length ? length : 1);
    for (int i = 0; i < count; i++) {
        memcpy(whole + filled, parts[i].iov_base, parts[i].iov_len);
        filled += parts[i].iov_len;
    }
    ssize_t done = write_at(fd, whole, length, offset, &status);
    int number = errno;
    free(whole);
    errno = number;
    return done;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct stat status;
    if (ours_fd(fd, &status) != 1) return syscall(SYS_writev, fd, parts, count);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = pwritev(fd, parts, count, at);
    if (done > 0) lseek(fd, at + done, SEEK_SET);
    return done;
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev(fd, parts, count, offset); }

static int truncate_to(int fd, off_t length) {
    struct stat status;
    if (ours_fd(fd, &status) != 1) return (int)syscall(SYS_ftruncate, fd, length);
    if (fault() == 1) return -1;
    int result = (int)syscall(SYS_ftruncate, fd, length);
    if (result == 0) record(TRUNCATE, status.st_ino, (uint64_t)length, 0, NULL, 0);
    after();
    return result;
}
int ftruncate(int fd, off_t length) { return truncate_to(fd, length); }
int ftruncate64(int fd, off_t length) { return truncate_to(fd, length); }

static int sync_one(int fd, long number) {
    struct stat status;
    int kind = ours_fd(fd, &status);
    if (!kind) return (int)syscall(number, fd);
    if (fault() == 1) return -1;
    /* The simulator stands for the disk: a real sync would only cost time. */
    record(kind == 2 ? SYNC_FOLDER : SYNC, status.st_ino, 0, 0, NULL, 0);
    after();
    return 0;
}
int fsync(int fd) { return sync_one(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_one(fd, SYS_fdatasync); }

static void record_names(uint64_t op, uint64_t inode, const char *from, const char *to) {
    char names[2 * PATH_MAX + 2];
    int length = snprintf(names, sizeof names, "%s\n%s", from, to);
    record(op, inode, 0, 0, names, (size_t)length);
}

static uint64_t inode_of(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0 ? status.st_ino : 0;
}

static int two_names(uint64_t op, const char *from, const char *to) {
    int counted = ours(from) || ours(to);
    if (counted && fault() == 1) return -1;
    uint64_t inode = counted ? inode_of(from) : 0;
    long result = op == LINK ? syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)
                             : syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (counted) {
        int number = errno;
        if (result == 0) record_names(op, inode, from, to);
        after();
        errno = number;
    }
    return (int)result;
}
int link(const char *from, const char *to) { return two_names(LINK, from, to); }
int rename(const char *from, const char *to) { return two_names(RENAME, from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (a == AT_FDCWD && b == AT_FDCWD && flags == 0) return two_names(LINK, from, to);
    return (int)syscall(SYS_linkat, a, from, b, to, flags);
}
int renameat(int a, const char *from, int b, const char *to) {
    if (a == AT_FDCWD && b == AT_FDCWD) return two_names(RENAME, from, to);
    return (int)syscall(SYS_renameat, a, from, b, to);
}

int unlink(const char *path) {
    int counted = ours(path);
    if (counted && fault() == 1) return -1;
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (counted) {
        int number = errno;
        if (result == 0) record_names(UNLINK, 0, path, "");
        after();
        errno = number;
    }
    return result;
}

static int open_it(int at, const char *path, int flags, mode_t permissions) {
    int counted = (flags & O_CREAT) && at == AT_FDCWD && ours(path);
    uint64_t before = counted ? inode_of(path) : 1;
    if (counted && !before && fault() == 1) return -1;
    int fd = (int)syscall(SYS_openat, at, path, flags, permissions);
    if (counted && !before && fd >= 0) {
        record_names(CREATE, inode_of(path), path, "");
        after();
    }
    return fd;
}

#define PERMISSIONS(flags) \
    mode_t permissions = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        permissions = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { PERMISSIONS(flags) return open_it(AT_FDCWD, path, flags, permissions); }
int open64(const char *path, int flags, ...) { PERMISSIONS(flags) return open_it(AT_FDCWD, path, flags, permissions); }
int openat(int at, const char *path, int flags, ...) { PERMISSIONS(flags) return open_it(at, path, flags, permissions); }
int openat64(int at, const char *path, int flags, ...) { PERMISSIONS(flags) return open_it(at, path, flags, permissions); }
