/* open_cost.h - what opening a file costs, measured in a child process.
 *
 * A child's peak starts at what is in use when it starts, not at what building the file took before.
 * Time is processor time: neighbours on the machine do not count. Pages of the mapped file are left
 * out of memory, up to the size of the file. */
#pragma once
#include "base/str.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { MAX_OPEN_KIB = 1 << 30, MAX_OPEN_MS = 10000 };   /* a sanitizer's own cost is not ours */
#else
enum { MAX_OPEN_KIB = 64 << 10, MAX_OPEN_MS = 1000 };
#endif

typedef struct {
    qh_status status;
    char msg[QH_ERR_MSG_BYTES];
    long cpu_ms, heap_kib;                  /* heap: growth of the peak, less the file */
} open_cost;

typedef qh_status (*open_fn)(const char *path, qh_err *err);    /* opens and closes */

static inline struct rusage usage_now(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u;
}

static inline long cpu_ms_of(const struct rusage *u)
{
    return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000 + (u->ru_utime.tv_usec + u->ru_stime.tv_usec) / 1000;
}

static inline open_cost measure_here(open_fn open_it, const char *path, long file_kib)
{
    const struct rusage before = usage_now();
    open_cost cost = {0};
    qh_err err = {0};
    cost.status = open_it(path, &err);
    const struct rusage after = usage_now();
    cost.cpu_ms = cpu_ms_of(&after) - cpu_ms_of(&before);
    cost.heap_kib = after.ru_maxrss - before.ru_maxrss - file_kib;
    memcpy(cost.msg, err.msg, sizeof cost.msg);
    return cost;
}

/* Write bytes to a file, open it in a child, remove it. bytes is emptied. */
static inline open_cost measure_open(open_fn open_it, qh_str *bytes)
{
    char path[] = "/tmp/qhost-cost-test-XXXXXX";
    int fd = mkstemp(path), ends[2], child_status = -1;
    CHECK(fd >= 0 && write(fd, bytes->data, bytes->len) == (ssize_t)bytes->len && !close(fd));
    const long file_kib = (long)(bytes->len >> 10);
    qh_str_deinit(bytes);

    open_cost cost = {0};
    CHECK(!pipe(ends));
    const pid_t child = fork();
    if (child == 0) {
        cost = measure_here(open_it, path, file_kib);
        _exit(write(ends[1], &cost, sizeof cost) == (ssize_t)sizeof cost ? 0 : 1);
    }
    CHECK(child > 0 && read(ends[0], &cost, sizeof cost) == (ssize_t)sizeof cost);
    CHECK(waitpid(child, &child_status, 0) == child && child_status == 0);
    close(ends[0]);
    close(ends[1]);
    unlink(path);
    return cost;
}

static inline void check_cost(const open_cost *c, qh_status status, const char *says)
{
    print_message("%ld ms, %ld KiB: %.120s\n", c->cpu_ms, c->heap_kib, c->msg);
    if (c->status != status || !strstr(c->msg, says)) fail_msg("%s\n  wanted %s", c->msg, says);
    CHECK(c->cpu_ms < MAX_OPEN_MS && c->heap_kib < MAX_OPEN_KIB);
}
