/* clock.h - monotonic time in microseconds, and a clock that tests can turn by hand. Thread: any. */
#pragma once
#include <stdint.h>

int64_t qh_now_us(void);    /* CLOCK_MONOTONIC */
int64_t qh_wall_us(void);   /* CLOCK_REALTIME, since 1970 */
int64_t qh_local_wall_us(void);     /* the same as clocks on the wall show it: shifted by the time zone of $TZ */
void    qh_sleep_us(int64_t us);

typedef struct qh_clock {
    int64_t (*now_us)(struct qh_clock *);
} qh_clock;

extern qh_clock qh_clock_real;              /* qh_now_us */

typedef struct {
    qh_clock base;                          /* pass &v.base */
    int64_t t_us;                           /* set by the test */
} qh_clock_virtual;
void qh_clock_virtual_init(qh_clock_virtual *v);
