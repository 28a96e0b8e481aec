/* log.c - see log.h */
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>
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

void qh_log_at(qh_log_level level, const char *event, const char *fmt, ...)
{
    static const char *const NAMES[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    if ((int)level < atomic_load(&min_level) || level >= QH_LOG_OFF) return;

    char line[LINE_BYTES];
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    int n = (int)strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += snprintf(line + n, sizeof line - (size_t)n, ".%03ldZ %-5s %s ", ts.tv_nsec / 1000000,
                  NAMES[level], event);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    n = m < 0 ? n : n + m;
    if (n > LINE_BYTES - 2) n = LINE_BYTES - 2;
    hide_control_bytes(line, n);
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0) return; /* nowhere left to tell */
}
