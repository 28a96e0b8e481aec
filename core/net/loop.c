/* loop.c - see loop.h
 *
 * The only file that includes libevent. Timers and watches are libevent events inside our own
 * structs. Deferred calls are a list run by one event: activated directly from an ordinary
 * callback (same turn, before the loop sleeps), but through a zero timer from a deferred call, so
 * that a chain of deferred calls lets sockets be polled between its links. */
#include "net/loop.h"
#include "base/clock.h"
#include "base/mem.h"
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static const int64_t MAX_TIMER_US = 1000000000000000;   /* 31 years: sums with the clock stay small */

typedef struct {
    void (*fn)(void *arg);          /* NULL: taken back */
    void *arg;
} deferred;

struct qh_loop {
    struct event_base *base;
    deferred *queue;
    int n_queue, cap_queue;
    bool is_running_queue;
    struct event run_queue;
    qh_waker *stopper;
    _Atomic bool is_stopped;
};

/* ---- deferred calls ---- */

static void run_queue(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    qh_loop *l = arg;
    int n = l->n_queue;             /* what is added from here on belongs to the next turn */
    l->is_running_queue = true;
    for (int i = 0; i < n; i++) {
        deferred d = l->queue[i];   /* the array may move while fn runs */
        l->queue[i].fn = NULL;
        if (d.fn) d.fn(d.arg);
    }
    l->is_running_queue = false;
    l->n_queue -= n;
    memmove(l->queue, l->queue + n, (size_t)l->n_queue * sizeof *l->queue);
    if (l->n_queue) event_add(&l->run_queue, &(struct timeval){0, 0});
}

void qh_loop_defer(qh_loop *l, void (*fn)(void *arg), void *arg)
{
    if (l->n_queue == l->cap_queue) {
        l->cap_queue = l->cap_queue ? l->cap_queue * 2 : 16;
        l->queue = qh_realloc(l->queue, (size_t)l->cap_queue * sizeof *l->queue);
    }
    l->queue[l->n_queue++] = (deferred){fn, arg};
    if (l->n_queue == 1 && !l->is_running_queue) event_active(&l->run_queue, EV_TIMEOUT, 0);
}

void qh_loop_undefer(qh_loop *l, void (*fn)(void *arg), void *arg)
{
    for (int i = 0; i < l->n_queue; i++)
        if (l->queue[i].fn == fn && l->queue[i].arg == arg) l->queue[i].fn = NULL;
}

/* ---- life ---- */

static void stop_now(void *arg)
{
    qh_loop *l = arg;
    event_base_loopbreak(l->base);
}

qh_status qh_loop_new(qh_loop **out, qh_err *err)
{
    *out = NULL;
    signal(SIGPIPE, SIG_IGN);       /* a peer that left is a status of write, never a signal */
    qh_loop *l = qh_new0(qh_loop);
    struct event_config *cfg = event_config_new();
    if (cfg) {
        /* The changelist joins the epoll_ctl calls of one turn: about 20 % of a small request. It
         * forbids watching two duplicates of one descriptor, which nobody here does. */
        event_config_set_flag(cfg, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
        l->base = event_base_new_with_config(cfg);
        event_config_free(cfg);
    }
    if (!l->base) {
        qh_free(l);
        return qh_fail(err, QH_EIO, "event loop: cannot create the event base: %s", strerror(errno));
    }
    evtimer_assign(&l->run_queue, l->base, run_queue, l);
    qh_status st = qh_waker_new(&l->stopper, l, stop_now, l, err);
    if (st) {
        qh_loop_free(l);
        return st;
    }
    *out = l;
    return QH_OK;
}

void qh_loop_free(qh_loop *l)
{
    if (!l) return;
    qh_waker_free(l->stopper);
    event_del(&l->run_queue);
    event_base_free(l->base);
    qh_free(l->queue);
    qh_free(l);
}

void qh_loop_run(qh_loop *l)
{
    while (!atomic_load(&l->is_stopped))
        if (event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0) break;
    atomic_store(&l->is_stopped, false);
}

void qh_loop_stop(qh_loop *l)
{
    atomic_store(&l->is_stopped, true);
    qh_wakeup w = qh_waker_wakeup(l->stopper);
    w.fn(w.arg);
}

void qh_loop_turn(qh_loop *l, bool is_blocking)
{
    event_base_loop(l->base, EVLOOP_ONCE | (is_blocking ? EVLOOP_NO_EXIT_ON_EMPTY : EVLOOP_NONBLOCK));
}

/* ---- timers ---- */

struct qh_timer {
    struct event ev;
    int64_t due_us;                 /* qh_now_us */
    void (*fn)(void *arg);
    void *arg;
};

static void add_timer(qh_timer *t, int64_t after_us)
{
    struct timeval tv = {.tv_sec = (time_t)(after_us / 1000000),
                         .tv_usec = (suseconds_t)(after_us % 1000000)};
    /* libevent measures from the time cached at the start of the turn; a long callback before
     * this call would make the timer early. */
    event_base_update_cache_time(event_get_base(&t->ev));
    evtimer_add(&t->ev, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    qh_timer *t = arg;
    int64_t early_us = t->due_us - qh_now_us();     /* libevent reads the coarse clock */
    if (early_us > 0) add_timer(t, early_us);
    else t->fn(t->arg);
}

qh_timer *qh_timer_new(qh_loop *l, void (*fn)(void *arg), void *arg)
{
    qh_timer *t = qh_new0(qh_timer);
    t->fn = fn, t->arg = arg;
    evtimer_assign(&t->ev, l->base, on_timer, t);
    return t;
}

void qh_timer_set(qh_timer *t, int64_t after_us)
{
    if (after_us < 0) after_us = 0;
    if (after_us > MAX_TIMER_US) after_us = MAX_TIMER_US;
    t->due_us = qh_now_us() + after_us;
    add_timer(t, after_us);
}

void qh_timer_cancel(qh_timer *t) { evtimer_del(&t->ev); }
bool qh_timer_is_set(const qh_timer *t) { return evtimer_pending(&t->ev, NULL); }

void qh_timer_free(qh_timer *t)
{
    if (!t) return;
    evtimer_del(&t->ev);
    qh_free(t);
}

/* ---- descriptors ---- */

struct qh_watch {
    struct event reading, writing;
    void (*fn)(void *arg, int what);
    void *arg;
    int what;
};

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    qh_watch *w = arg;
    w->fn(w->arg, what & EV_WRITE ? QH_WRITABLE : QH_READABLE);
}

qh_status qh_watch_new(qh_watch **out, qh_loop *l, int fd, int what,
                       void (*fn)(void *arg, int what), void *arg, qh_err *err)
{
    *out = NULL;
    qh_watch *w = qh_new0(qh_watch);
    w->fn = fn, w->arg = arg;
    event_assign(&w->reading, l->base, fd, EV_READ | EV_PERSIST, on_ready, w);
    event_assign(&w->writing, l->base, fd, EV_WRITE | EV_PERSIST, on_ready, w);
    if (qh_watch_set(w, what)) {
        qh_watch_free(w);
        return qh_fail(err, QH_EIO, "event loop: cannot watch descriptor %d: %s", fd, strerror(errno));
    }
    *out = w;
    return QH_OK;
}

static qh_status watch_one(struct event *ev, bool is_wanted)
{
    int rc = is_wanted ? event_add(ev, NULL) : event_del(ev);
    return rc < 0 ? QH_EIO : QH_OK;
}

qh_status qh_watch_set(qh_watch *w, int what)
{
    int changed = w->what ^ what;
    qh_status st = QH_OK;
    if (changed & QH_READABLE) st = watch_one(&w->reading, what & QH_READABLE);
    if (!st && (changed & QH_WRITABLE)) st = watch_one(&w->writing, what & QH_WRITABLE);
    if (!st) w->what = what;
    return st;
}

void qh_watch_free(qh_watch *w)
{
    if (!w) return;
    event_del(&w->reading);
    event_del(&w->writing);
    qh_free(w);
}

/* ---- wakeups ---- */

struct qh_waker {
    int fd;
    qh_watch *watch;
    void (*fn)(void *arg);
    void *arg;
};

static void on_wakeup(void *arg, int what)
{
    (void)what;
    qh_waker *w = arg;
    qh_eventfd_drain(w->fd);
    w->fn(w->arg);
}

static void send_wakeup(void *arg)
{
    qh_waker *w = arg;
    qh_eventfd_signal(w->fd);
}

qh_status qh_waker_new(qh_waker **out, qh_loop *l, void (*fn)(void *arg), void *arg, qh_err *err)
{
    *out = NULL;
    qh_waker *w = qh_new0(qh_waker);
    w->fn = fn, w->arg = arg, w->fd = -1;
    qh_status st = qh_eventfd_open(&w->fd, err);
    if (!st) st = qh_watch_new(&w->watch, l, w->fd, QH_READABLE, on_wakeup, w, err);
    if (st) {
        qh_waker_free(w);
        return st;
    }
    *out = w;
    return QH_OK;
}

qh_wakeup qh_waker_wakeup(qh_waker *w) { return (qh_wakeup){.fn = send_wakeup, .arg = w}; }

void qh_waker_free(qh_waker *w)
{
    if (!w) return;
    qh_watch_free(w->watch);
    if (w->fd >= 0) close(w->fd);
    qh_free(w);
}

/* ---- signals ---- */

struct qh_signal {
    struct event ev;
    void (*fn)(void *arg, int signo);
    void *arg;
};

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
    (void)what;
    qh_signal *s = arg;
    s->fn(s->arg, (int)signo);
}

qh_status qh_signal_new(qh_signal **out, qh_loop *l, int signo, void (*fn)(void *arg, int signo),
                        void *arg, qh_err *err)
{
    *out = NULL;
    qh_signal *s = qh_new0(qh_signal);
    s->fn = fn, s->arg = arg;
    evsignal_assign(&s->ev, l->base, signo, on_signal, s);
    if (evsignal_add(&s->ev, NULL) < 0) {
        qh_free(s);
        return qh_fail(err, QH_EIO, "event loop: cannot handle signal %d: %s", signo, strerror(errno));
    }
    *out = s;
    return QH_OK;
}

void qh_signal_free(qh_signal *s)
{
    if (!s) return;
    evsignal_del(&s->ev);
    qh_free(s);
}
