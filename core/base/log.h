/* log.h - one line an event on stderr: time, level, name, key=value pairs.
 *
 * Log an event once, where it is handled. No prompt or output text. Thread: any.
 *
 * Until qh_log_start a line is written at once, with one write(). From then on a thread of its own
 * writes: who logs copies the line into a buffer of QH_LOG_BUFFER_BYTES and never waits for whoever
 * reads stderr. When the buffer is full, lines are dropped and counted
 * (qhost_log_dropped_total), and the next line that fits says how many. */
#pragma once
#include "base/err.h"

typedef enum { QH_LOG_DEBUG, QH_LOG_INFO, QH_LOG_WARN, QH_LOG_ERROR, QH_LOG_OFF } qh_log_level;

enum { QH_LOG_BUFFER_BYTES = 1 << 20 };

void qh_log_set_level(qh_log_level min); /* default QH_LOG_INFO */
qh_log_level qh_log_get_level(void);

qh_status qh_log_start(qh_err *err);
/* Write what is left, unless nobody takes it for a second; then lines are written at once again.
 * Other threads have stopped logging by then. Without a start it does nothing. */
void      qh_log_stop(void);
/* The same for a process that ends while other threads may be logging: what they say from now on is
 * lost. Only _exit may follow. */
void      qh_log_end(void);

#define qh_debug(event, ...) qh_log_at(QH_LOG_DEBUG, (event), __VA_ARGS__)
#define qh_info(event, ...)  qh_log_at(QH_LOG_INFO, (event), __VA_ARGS__)
#define qh_warn(event, ...)  qh_log_at(QH_LOG_WARN, (event), __VA_ARGS__)
#define qh_error(event, ...) qh_log_at(QH_LOG_ERROR, (event), __VA_ARGS__)
void qh_log_at(qh_log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
