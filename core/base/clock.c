/* clock.c - see clock.h */
#include "base/clock.h"
#include <errno.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t qh_now_us(void) { return read_clock(CLOCK_MONOTONIC); }
int64_t qh_wall_us(void) { return read_clock(CLOCK_REALTIME); }

int64_t qh_local_wall_us(void)
{
    int64_t us = qh_wall_us();
    time_t seconds = (time_t)(us / 1000000);
    struct tm tm;
    return localtime_r(&seconds, &tm) ? us + (int64_t)tm.tm_gmtoff * 1000000 : us;
}

void qh_sleep_us(int64_t us)
{
    struct timespec ts = {us / 1000000, us % 1000000 * 1000};
    while (us > 0 && nanosleep(&ts, &ts) && errno == EINTR) {}
}

static int64_t real_now(qh_clock *c)
{
    (void)c;
    return qh_now_us();
}
qh_clock qh_clock_real = {real_now};

static int64_t virtual_now(qh_clock *c) { return ((qh_clock_virtual *)c)->t_us; }
void qh_clock_virtual_init(qh_clock_virtual *v) { *v = (qh_clock_virtual){{virtual_now}, 0}; }
