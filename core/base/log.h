/* log.h - one line an event on stderr: time, level, name, key=value pairs.
 *
 * Log an event once, where it is handled. No prompt or output text. Thread: any; a line is
 * written with one write(), so lines of different threads do not mix. Nothing waits here: a line
 * that stderr does not take at once is dropped, and log.dropped says later how many there were. */
#pragma once

typedef enum { QH_LOG_DEBUG, QH_LOG_INFO, QH_LOG_WARN, QH_LOG_ERROR, QH_LOG_OFF } qh_log_level;

void qh_log_set_level(qh_log_level min); /* default QH_LOG_INFO */
qh_log_level qh_log_get_level(void);

#define qh_debug(event, ...) qh_log_at(QH_LOG_DEBUG, (event), __VA_ARGS__)
#define qh_info(event, ...)  qh_log_at(QH_LOG_INFO, (event), __VA_ARGS__)
#define qh_warn(event, ...)  qh_log_at(QH_LOG_WARN, (event), __VA_ARGS__)
#define qh_error(event, ...) qh_log_at(QH_LOG_ERROR, (event), __VA_ARGS__)
void qh_log_at(qh_log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
