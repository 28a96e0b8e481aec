#include "test.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/loop.h"
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

static qh_loop *loop_new(void)
{
    qh_loop *l;
    CHECK_OK(qh_loop_new(&l, NULL));
    return l;
}

static char order[64];
static char A[] = "a", B[] = "b", C[] = "c";    /* what the callbacks note */
static void note(void *arg) { strncat(order, arg, sizeof order - strlen(order) - 1); }

TEST(timers_fire_in_order_once_and_can_be_set_again)
{
    qh_loop *l = loop_new();
    order[0] = 0;
    qh_timer *a = qh_timer_new(l, note, A), *b = qh_timer_new(l, note, B), *c = qh_timer_new(l, note, C);
    qh_timer_set(a, 20000);
    qh_timer_set(b, 5000);
    qh_timer_set(c, 1000);
    qh_timer_cancel(c);
    CHECK(qh_timer_is_set(a) && !qh_timer_is_set(c));
    int64_t start = qh_now_us();
    while (strlen(order) < 2) qh_loop_turn(l, true);
    CHECK_STR(order, "ba");
    CHECK(qh_now_us() - start >= 20000);
    qh_timer_set(b, 0);
    qh_loop_turn(l, true);
    CHECK_STR(order, "bab");
    CHECK(!qh_timer_is_set(b));
    qh_timer_free(a), qh_timer_free(b), qh_timer_free(c);
    qh_loop_free(l);
}

typedef struct {
    qh_loop *l;
    int n_calls, n_max;
    qh_timer *timer;
} chain;

static void link_fn(void *arg)
{
    chain *c = arg;
    if (++c->n_calls < c->n_max) qh_loop_defer(c->l, link_fn, c);
}

TEST(deferred_calls_run_in_order_and_can_be_taken_back)
{
    qh_loop *l = loop_new();
    order[0] = 0;
    qh_loop_defer(l, note, A);
    qh_loop_defer(l, note, B);
    qh_loop_defer(l, note, C);
    qh_loop_undefer(l, note, B);
    qh_loop_turn(l, true);
    CHECK_STR(order, "ac");
    qh_loop_free(l);
}

static void stop_loop(void *arg) { qh_loop_stop(arg); }

TEST(a_chain_of_deferred_calls_does_not_starve_timers)
{
    qh_loop *l = loop_new();
    chain c = {.l = l, .n_max = 1 << 30};
    qh_timer *t = qh_timer_new(l, stop_loop, l);
    qh_timer_set(t, 10000);
    qh_loop_defer(l, link_fn, &c);
    qh_loop_run(l);                       /* ends only if the timer and the stop are seen */
    CHECK(c.n_calls > 10);
    qh_loop_undefer(l, link_fn, &c);
    qh_timer_free(t);
    qh_loop_free(l);
}

static void free_own_timer(void *arg)
{
    chain *c = arg;
    c->n_calls++;
    qh_timer_free(c->timer);
    c->timer = NULL;
}

TEST(a_timer_may_free_itself)
{
    qh_loop *l = loop_new();
    chain c = {.l = l};
    c.timer = qh_timer_new(l, free_own_timer, &c);
    qh_timer_set(c.timer, 0);
    while (!c.n_calls) qh_loop_turn(l, true);
    CHECK(c.timer == NULL);
    qh_loop_free(l);
}

typedef struct {
    int fd, n_read, n_write;
    qh_watch *w;
} pipe_end;

static void on_pipe(void *arg, int what)
{
    pipe_end *p = arg;
    char c;
    if (what & QH_READABLE) p->n_read += (int)read(p->fd, &c, 1);
    if (what & QH_WRITABLE) p->n_write++;
}

TEST(a_watch_is_level_triggered_and_changes_its_interest)
{
    qh_loop *l = loop_new();
    int fds[2];
    CHECK_INT(pipe(fds), 0);
    pipe_end in = {.fd = fds[0]}, out = {.fd = fds[1]};
    CHECK_OK(qh_watch_new(&in.w, l, fds[0], QH_READABLE, on_pipe, &in, NULL));
    CHECK_OK(qh_watch_new(&out.w, l, fds[1], 0, on_pipe, &out, NULL));
    CHECK_INT(write(fds[1], "xyz", 3), 3);
    while (in.n_read < 3) qh_loop_turn(l, true);
    CHECK_INT(out.n_write, 0);
    CHECK_OK(qh_watch_set(out.w, QH_WRITABLE));
    qh_loop_turn(l, true);
    CHECK(out.n_write > 0);
    CHECK_OK(qh_watch_set(out.w, 0));
    int before = out.n_write;
    qh_loop_turn(l, false);
    CHECK_INT(out.n_write, before);
    qh_watch_free(in.w), qh_watch_free(out.w);
    close(fds[0]), close(fds[1]);
    qh_loop_free(l);
}

TEST(inotify_can_be_watched)
{
    qh_loop *l = loop_new();
    char path[] = "/tmp/qhost_loop_XXXXXX";
    int file = mkstemp(path), fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(file >= 0 && fd >= 0 && inotify_add_watch(fd, path, IN_MODIFY) >= 0);
    pipe_end end = {.fd = fd};
    CHECK_OK(qh_watch_new(&end.w, l, fd, QH_READABLE, on_pipe, &end, NULL));
    qh_loop_turn(l, false);
    CHECK_INT(end.n_read, 0);
    CHECK_INT(write(file, "x", 1), 1);
    /* One byte is too small a buffer for an inotify event: read says -1, which on_pipe adds. */
    qh_loop_turn(l, true);
    CHECK(end.n_read < 0);
    qh_watch_free(end.w);
    close(fd), close(file);
    unlink(path);
    qh_loop_free(l);
}

typedef struct {
    qh_loop *l;
    qh_waker *waker;
    _Atomic int n_sent;
    int n_woken;
} wake_case;

static void on_woken(void *arg)
{
    wake_case *w = arg;
    w->n_woken++;
    if (w->n_sent == 1000) qh_loop_stop(w->l);
}

static void send_many(void *arg)
{
    wake_case *w = arg;
    qh_wakeup wk = qh_waker_wakeup(w->waker);
    for (int i = 0; i < 1000; i++) {
        w->n_sent++;
        wk.fn(wk.arg);
    }
}

TEST(another_thread_wakes_the_loop_and_no_wakeup_is_lost)
{
    wake_case w = {.l = loop_new()};
    CHECK_OK(qh_waker_new(&w.waker, w.l, on_woken, &w, NULL));
    qh_thread *t;
    CHECK_OK(qh_thread_start(&t, "sender", send_many, &w, NULL));
    qh_loop_run(w.l);
    qh_thread_join(t);
    CHECK(w.n_woken >= 1 && w.n_woken <= 1000);
    qh_waker_free(w.waker);
    qh_loop_free(w.l);
}

static void stop_later(void *arg)
{
    qh_sleep_us(10000);
    qh_loop_stop(arg);
}

TEST(another_thread_stops_the_loop_and_a_stop_before_run_sticks)
{
    qh_loop *l = loop_new();
    qh_loop_stop(l);
    qh_loop_run(l);
    qh_thread *t;
    CHECK_OK(qh_thread_start(&t, "stopper", stop_later, l, NULL));
    qh_loop_run(l);
    qh_thread_join(t);
    qh_loop_free(l);
}

static int last_signal;
static void on_signal(void *arg, int signo)
{
    (void)arg;
    last_signal = signo;
}

TEST(signals_arrive_as_callbacks)
{
    qh_loop *l = loop_new();
    qh_signal *s;
    CHECK_OK(qh_signal_new(&s, l, SIGUSR1, on_signal, NULL, NULL));
    CHECK_INT(raise(SIGUSR1), 0);
    while (!last_signal) qh_loop_turn(l, true);
    CHECK_INT(last_signal, SIGUSR1);
    qh_signal_free(s);
    qh_loop_free(l);
}

TEST_MAIN()
