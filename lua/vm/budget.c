/* budget.c - see budget.h
 *
 * The slice number is odd while a slice is at work. The watchdog compares it with what it saw one
 * tick before, so beginning and ending a slice cost two atomic stores; the thread sleeps on an
 * eventfd once nothing has run for a while. */
#include "lua/vm/budget.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_US = 1000,
    IDLE_TICKS = 50,
    SIGNO = SIGURG              /* ignored by default: a stray one does no harm */
};

struct qh_budget {
    _Atomic uint64_t slice;             /* odd: at work */
    _Atomic uint64_t seen_slice;        /* the slice that seen_cpu_us belongs to */
    _Atomic int64_t seen_cpu_us; /* CPU of the owner when the watchdog first saw that slice */
    _Atomic int64_t slice_us;
    _Atomic bool is_asleep, is_stopping;
    int wake_fd;
    qh_thread *watchdog;
    pthread_t owner;
    clockid_t owner_clock;

    /* owner thread and its signal handler */
    lua_State *_Atomic running;
    _Atomic bool is_armed, is_held;
    void (*overrun)(lua_State *L);
    int64_t start_us;
};

static _Thread_local qh_budget *mine;

static int64_t cpu_us(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t)) return 0;
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- the owner's side ---- */

static void hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    qh_budget *b = mine;
    if (!b || !atomic_load(&b->running)) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (!atomic_load(&b->is_held)) {
        lua_sethook(L, NULL, 0, 0);
        atomic_store(&b->is_armed, false);      /* last: only from here on may a signal arm again */
    }
    b->overrun(L);
}

/* lua_sethook walks all calls that are open. Thousands of them take longer than a slice, and if each
 * signal walked them again, the script would never get to the instruction that stops it. */
static void on_signal(int signo)
{
    (void)signo;
    qh_budget *b = mine;
    lua_State *L = b ? atomic_load(&b->running) : NULL;
    if (!L || atomic_exchange(&b->is_armed, true)) return;
    lua_sethook(L, hook, LUA_MASKCOUNT, 1);
}

void qh_budget_arm(qh_budget *b)
{
    lua_State *L = atomic_load(&b->running);
    atomic_store(&b->is_armed, true);
    if (L) lua_sethook(L, hook, LUA_MASKCOUNT, 1);
}

void qh_budget_hold(qh_budget *b)
{
    if (!atomic_exchange(&b->is_held, true)) qh_budget_arm(b);
}

void qh_budget_switch(qh_budget *b, lua_State *L)
{
    lua_State *old = atomic_exchange(&b->running, L);
    if (!atomic_load(&b->is_armed)) return;
    if (old && old != L) lua_sethook(old, NULL, 0, 0);
    lua_sethook(L, hook, LUA_MASKCOUNT, 1);
}

void qh_budget_begin(qh_budget *b, lua_State *L, int64_t slice_us, void (*overrun)(lua_State *L))
{
    b->overrun = overrun;
    b->start_us = qh_now_us();
    atomic_store(&b->is_armed, false);
    atomic_store(&b->is_held, false);
    atomic_store_explicit(&b->slice_us, slice_us, memory_order_relaxed);
    atomic_store(&b->running, L);
    atomic_fetch_add(&b->slice, 1);
    if (atomic_load(&b->is_asleep)) qh_eventfd_signal(b->wake_fd);
}

int64_t qh_budget_used(qh_budget *b)
{
    int64_t wall = qh_now_us() - b->start_us;
    if (wall < 2 * TICK_US) return wall;
    if (atomic_load(&b->seen_slice) != atomic_load(&b->slice)) return wall;
    int64_t cpu = cpu_us(CLOCK_THREAD_CPUTIME_ID) - atomic_load(&b->seen_cpu_us) + TICK_US;
    return cpu < wall ? cpu : wall;
}

int64_t qh_budget_end(qh_budget *b)
{
    int64_t used = qh_budget_used(b);
    lua_State *L = atomic_exchange(&b->running, NULL);
    if (atomic_load(&b->is_armed)) lua_sethook(L, NULL, 0, 0);
    atomic_fetch_add(&b->slice, 1);
    return used;
}

/* ---- the watchdog ---- */

static void sleep_until_wanted(qh_budget *b)
{
    atomic_store(&b->is_asleep, true);
    if (!(atomic_load(&b->slice) & 1) && !atomic_load(&b->is_stopping)) {
        struct pollfd p = {.fd = b->wake_fd, .events = POLLIN};
        poll(&p, 1, -1);
    }
    atomic_store(&b->is_asleep, false);
    qh_eventfd_drain(b->wake_fd);
}

static void watch(void *arg)
{
    qh_budget *b = arg;
    int n_idle = 0;
    int64_t next_us = 0;
    while (!atomic_load(&b->is_stopping)) {
        uint64_t slice = atomic_load(&b->slice);
        if (!(slice & 1)) {
            if (++n_idle > IDLE_TICKS) sleep_until_wanted(b), n_idle = 0;
        } else if (slice != atomic_load(&b->seen_slice)) {
            n_idle = 0;
            atomic_store(&b->seen_cpu_us, cpu_us(b->owner_clock));
            atomic_store(&b->seen_slice, slice);
            next_us = atomic_load(&b->slice_us) - TICK_US;
        } else if (cpu_us(b->owner_clock) - atomic_load(&b->seen_cpu_us) >= next_us) {
            pthread_kill(b->owner, SIGNO);
            next_us += atomic_load(&b->slice_us);
        }
        qh_sleep_us(TICK_US);
    }
}

qh_status qh_budget_new(qh_budget **out, qh_err *err)
{
    *out = NULL;
    qh_assert(!mine);
    qh_budget *b = qh_new0(qh_budget);
    b->wake_fd = -1;
    b->owner = pthread_self();
    qh_status st = qh_eventfd_open(&b->wake_fd, err);
    if (!st && pthread_getcpuclockid(b->owner, &b->owner_clock))
        st = qh_fail(err, QH_EUNSUPPORTED, "no CPU clock for threads on this system");
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&sa.sa_mask);
    if (!st && sigaction(SIGNO, &sa, NULL))
        st = qh_fail(err, QH_EIO, "cannot set a signal handler");
    mine = b;
    if (!st) st = qh_thread_start(&b->watchdog, "qh-watchdog", watch, b, err);
    if (st) qh_budget_free(b);
    else *out = b;
    return st;
}

void qh_budget_free(qh_budget *b)
{
    if (!b) return;
    atomic_store(&b->is_stopping, true);
    if (b->watchdog) {
        qh_eventfd_signal(b->wake_fd);
        qh_thread_join(b->watchdog);
    }
    mine = NULL;
    if (b->wake_fd >= 0) close(b->wake_fd);
    qh_free(b);
}
