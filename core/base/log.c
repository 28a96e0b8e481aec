/* log.c - see log.h */
#include "base/log.h"
#include "base/mem.h"
#include "base/metric.h"
#include "base/thread.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES = 2048,
    GATHER_US = 2000,       /* lines of so long are written together: one wakeup for all of them */
    PIECE_BYTES = 4096,     /* what a pipe takes without blocking once poll says it has room */
    LAST_WAIT_MS = 1000
};

static _Atomic int min_level = QH_LOG_INFO;

/* The writer: two buffers, one being filled and one being written. */
static struct {
    _Atomic bool is_on;
    pthread_mutex_t lock;
    pthread_cond_t more;
    bool is_stopping, is_waiting;
    char *filling, *writing;        /* QH_LOG_BUFFER_BYTES each */
    size_t len;                     /* of filling */
    long n_dropped;                 /* since the last line that fitted */
    qh_metric *m_dropped;
    qh_thread *thread;
} W = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

void qh_log_set_level(qh_log_level min) { atomic_store(&min_level, (int)min); }
qh_log_level qh_log_get_level(void) { return (qh_log_level)atomic_load(&min_level); }

/* A value may carry bytes of a request: control bytes would let it forge a line. */
static void hide_control_bytes(char *s, int n)
{
    for (int i = 0; i < n; i++)
        if ((unsigned char)s[i] < 32 || s[i] == 127) s[i] = ' ';
}

/* Time, level and name of a line; the rest is the caller's. */
static int write_head(char *line, qh_log_level level, const char *event)
{
    static const char *const NAMES[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    int n = (int)strftime(line, LINE_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + snprintf(line + n, LINE_BYTES - (size_t)n, ".%03ldZ %-5s %s ", ts.tv_nsec / 1000000,
                        NAMES[level], event);
}

/* ---- the writer ---- */

/* With the lock held. */
static void keep_line(const char *line, size_t len)
{
    char note[LINE_BYTES];
    int n_note = 0;
    if (W.n_dropped) {
        n_note = write_head(note, QH_LOG_WARN, "log.dropped");
        n_note += snprintf(note + n_note, sizeof note - (size_t)n_note, "lines=%ld\n", W.n_dropped);
    }
    if (W.len + len + (size_t)n_note > QH_LOG_BUFFER_BYTES) {
        W.n_dropped++;
        qh_metric_add(W.m_dropped, 1);
        return;
    }
    W.n_dropped = 0;
    memcpy(W.filling + W.len, note, (size_t)n_note);
    memcpy(W.filling + W.len + n_note, line, len);
    W.len += len + (size_t)n_note;
}

static void put_line(const char *line, size_t len)
{
    pthread_mutex_lock(&W.lock);
    keep_line(line, len);
    bool is_waiting = W.is_waiting;
    W.is_waiting = false;
    pthread_mutex_unlock(&W.lock);
    if (is_waiting) pthread_cond_signal(&W.more);
}

static bool is_stopping(void)
{
    pthread_mutex_lock(&W.lock);
    bool yes = W.is_stopping;
    pthread_mutex_unlock(&W.lock);
    return yes;
}

/* Waits for whoever reads stderr; once stopping, for LAST_WAIT_MS without progress at most. */
static void write_out(const char *data, size_t len)
{
    for (int waited_ms = 0; len;) {
        struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
        if (poll(&p, 1, 100) == 0) {
            waited_ms = is_stopping() ? waited_ms + 100 : 0;
            if (waited_ms >= LAST_WAIT_MS) return;
            continue;
        }
        ssize_t n = write(STDERR_FILENO, data, len < PIECE_BYTES ? len : PIECE_BYTES);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return;     /* nowhere left to tell */
        if (n > 0) data += n, len -= (size_t)n, waited_ms = 0;
    }
}

static void write_lines(void *arg)
{
    (void)arg;
    for (bool is_last = false; !is_last;) {
        pthread_mutex_lock(&W.lock);
        while (!W.len && !W.is_stopping) {
            W.is_waiting = true;
            pthread_cond_wait(&W.more, &W.lock);
        }
        is_last = W.is_stopping;
        pthread_mutex_unlock(&W.lock);
        struct timespec gather = {.tv_nsec = GATHER_US * 1000};
        if (!is_last) nanosleep(&gather, NULL);

        pthread_mutex_lock(&W.lock);
        char *data = W.filling;
        size_t len = W.len;
        W.filling = W.writing;
        W.writing = data;
        W.len = 0;
        pthread_mutex_unlock(&W.lock);
        write_out(data, len);
    }
}

qh_status qh_log_start(qh_err *err)
{
    qh_assert(!W.thread);
    W.m_dropped = qh_metric_counter("qhost_log_dropped_total", NULL,
                                    "log lines dropped because nobody read them in time");
    W.filling = qh_alloc0(QH_LOG_BUFFER_BYTES);
    W.writing = qh_alloc0(QH_LOG_BUFFER_BYTES);
    W.is_stopping = false;
    qh_status st = qh_thread_start(&W.thread, "qh-log", write_lines, NULL, err);
    atomic_store(&W.is_on, !st);
    if (st) qh_log_stop();
    return st;
}

void qh_log_end(void)
{
    if (!W.thread) return;
    pthread_mutex_lock(&W.lock);
    W.is_stopping = true;
    pthread_mutex_unlock(&W.lock);
    pthread_cond_signal(&W.more);
    qh_thread_join(W.thread);
    W.thread = NULL;
}

void qh_log_stop(void)
{
    atomic_store(&W.is_on, false);
    qh_log_end();
    qh_free(W.filling);
    qh_free(W.writing);
    W.filling = W.writing = NULL;
    W.len = 0;
}

/* ---- a line ---- */

void qh_log_at(qh_log_level level, const char *event, const char *fmt, ...)
{
    if ((int)level < atomic_load(&min_level) || level >= QH_LOG_OFF) return;

    char line[LINE_BYTES];
    int n = write_head(line, level, event);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    n = m < 0 ? n : n + m;
    if (n > LINE_BYTES - 2) n = LINE_BYTES - 2;
    hide_control_bytes(line, n);
    line[n++] = '\n';
    if (atomic_load(&W.is_on)) put_line(line, (size_t)n);
    else if (write(STDERR_FILENO, line, (size_t)n) < 0) return; /* nowhere left to tell */
}
