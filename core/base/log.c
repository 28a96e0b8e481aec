/* log.c - see log.h */
#include "base/log.h"
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 2048 };

static _Atomic int min_level = QH_LOG_INFO;

void qh_log_set_level(qh_log_level min) { atomic_store(&min_level, (int)min); }
qh_log_level qh_log_get_level(void) { return (qh_log_level)atomic_load(&min_level); }

/* A value may carry bytes of a request: control bytes would let it forge a line. */
static void hide_control_bytes(char *s, int n)
{
    for (int i = 0; i < n; i++)
        if ((unsigned char)s[i] < 32 || s[i] == 127) s[i] = ' ';
}

/* stderr may be a pipe whose reader sleeps, or a terminal that was stopped. The loop thread must not
 * wait for either, so a line that cannot go out at once is dropped and counted. A pipe or a terminal
 * that polls writable takes PIPE_BUF (4096) bytes, and under the lock nobody else fills it first. */
static pthread_mutex_t out_lock = PTHREAD_MUTEX_INITIALIZER;
static long n_dropped;

static bool can_write(void)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

static int stamp(char *line, size_t cap, const char *level, const char *event)
{
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    int n = (int)strftime(line, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + snprintf(line + n, cap - (size_t)n, ".%03ldZ %-5s %s ", ts.tv_nsec / 1000000, level, event);
}

/* False: the line is lost. */
static bool put(const char *line, int n)
{
    return can_write() && write(STDERR_FILENO, line, (size_t)n) >= 0;
}

static void put_or_count(const char *line, int n)
{
    char note[128];
    pthread_mutex_lock(&out_lock);
    if (n_dropped) {
        int m = stamp(note, sizeof note, "WARN", "log.dropped");
        m += snprintf(note + m, sizeof note - (size_t)m, "lines=%ld\n", n_dropped);
        if (put(note, m)) n_dropped = 0;
    }
    if (n_dropped || !put(line, n)) n_dropped++;
    pthread_mutex_unlock(&out_lock);
}

void qh_log_at(qh_log_level level, const char *event, const char *fmt, ...)
{
    static const char *const NAMES[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    if ((int)level < atomic_load(&min_level) || level >= QH_LOG_OFF) return;

    char line[LINE_BYTES];
    int n = stamp(line, sizeof line, NAMES[level], event);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    n = m < 0 ? n : n + m;
    if (n > LINE_BYTES - 2) n = LINE_BYTES - 2;
    hide_control_bytes(line, n);
    line[n++] = '\n';
    put_or_count(line, n);
}
