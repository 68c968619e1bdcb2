/* Preloaded into a role by the tests: a disk that does not sync, a wall clock that somebody sets.
   The folder FAULTY_MACHINE holds the faults: `fsync` exists while syncing fails, `clock` holds seconds to add. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int opened(const char *name) {
    char path[4096];
    const char *folder = getenv("FAULTY_MACHINE");
    if (folder == NULL) return -1;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

static long added_s(void) {
    char text[32] = "";
    int before = errno, file = opened("clock");
    if (file >= 0) {
        if (syscall(SYS_read, file, text, sizeof text - 1) < 0) text[0] = 0;
        syscall(SYS_close, file);
    }
    errno = before;
    return atol(text);
}

static int synced(long number, int file) {
    int fault = opened("fsync");
    if (fault >= 0) {
        syscall(SYS_close, fault);
        errno = EIO;
        return -1;
    }
    return (int)syscall(number, file);
}

int fsync(int file) { return synced(SYS_fsync, file); }
int fdatasync(int file) { return synced(SYS_fdatasync, file); }

int clock_gettime(clockid_t id, struct timespec *now) {
    int done = (int)syscall(SYS_clock_gettime, id, now);
    if (done == 0 && id == CLOCK_REALTIME) now->tv_sec += added_s();
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int done = (int)syscall(SYS_gettimeofday, now, zone);
    if (done == 0) now->tv_sec += added_s();
    return done;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept != NULL) *kept = now.tv_sec;
    return now.tv_sec;
}
