/* Thread team: every thread runs once a run, barriers order memory, sleeping costs nothing. */
#include "test.h"
#include "base/clock.h"
#include "kernels/cpu/team.h"
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

static qh_team *team_of(int n)
{
    qh_team *t;
    CHECK_OK(qh_team_new(&t, n, false, NULL));
    CHECK_INT(qh_team_size(t), n);
    return t;
}

typedef struct {
    qh_team *team;
    int n_threads, n_rounds;
    _Atomic int n_calls[QH_TEAM_MAX];
    int value[QH_TEAM_MAX];         /* plain memory: only barriers order it */
    _Atomic int n_wrong;
} shared;

static void count_calls(void *arg, int thread)
{
    atomic_fetch_add(&((shared *)arg)->n_calls[thread], 1);
}

TEST(every_thread_runs_once_a_run)
{
    for (int n = 1; n <= 7; n++) {
        static shared s;
        memset(&s, 0, sizeof s);
        qh_team *t = team_of(n);
        for (int i = 0; i < 100; i++) qh_team_run(t, count_calls, &s);
        for (int i = 0; i < n; i++) CHECK_INT(s.n_calls[i], 100);
        CHECK_INT(s.n_calls[n], 0);
        qh_team_free(t);
    }
}

/* In each round a thread writes its slot, and after the barrier reads everybody's. */
static void exchange(void *arg, int thread)
{
    shared *s = arg;
    for (int r = 1; r <= s->n_rounds; r++) {
        s->value[thread] = r;
        qh_team_barrier(s->team, thread);
        for (int i = 0; i < s->n_threads; i++)
            if (s->value[i] != r) atomic_fetch_add(&s->n_wrong, 1);
        qh_team_barrier(s->team, thread);
    }
}

TEST(a_barrier_shows_everybodys_writes)
{
    for (int n = 1; n <= 6; n++) {
        static shared s;
        memset(&s, 0, sizeof s);
        s.team = team_of(n);
        s.n_threads = n;
        s.n_rounds = n <= 2 ? 3000 : 60;      /* more threads than cores: each wait is a sleep */
        qh_team_run(s.team, exchange, &s);
        CHECK_INT(s.n_wrong, 0);
        qh_team_free(s.team);
    }
}

static void late_thread(void *arg, int thread)
{
    shared *s = arg;
    if (thread == 1) qh_sleep_us(20000);        /* far beyond the spin: the others fall asleep */
    s->value[thread] = 1;
    qh_team_barrier(s->team, thread);
    for (int i = 0; i < s->n_threads; i++)
        if (!s->value[i]) atomic_fetch_add(&s->n_wrong, 1);
}

TEST(a_sleeping_thread_is_woken)
{
    static shared s;
    memset(&s, 0, sizeof s);
    s.team = team_of(3);
    s.n_threads = 3;
    for (int i = 0; i < 5; i++) {
        memset(s.value, 0, sizeof s.value);
        qh_team_run(s.team, late_thread, &s);
        CHECK_INT(s.n_wrong, 0);
        qh_sleep_us(3000);                      /* between runs the workers sleep as well */
    }
    qh_team_free(s.team);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

TEST(an_idle_team_uses_less_than_one_percent)
{
    static shared s;
    memset(&s, 0, sizeof s);
    qh_team *t = team_of(4);
    qh_team_run(t, count_calls, &s);
    qh_sleep_us(20000);
    double before = cpu_seconds();
    qh_sleep_us(300000);
    CHECK(cpu_seconds() - before < 0.003);
    qh_team_free(t);
}

TEST(a_team_that_never_ran_ends)
{
    qh_team_free(team_of(3));
    qh_team_free(NULL);
}

TEST(sizes_out_of_range_are_refused)
{
    qh_err err = {0};
    qh_team *t;
    CHECK_STATUS(qh_team_new(&t, 0, false, &err), QH_EINVAL);
    CHECK(!t);
    CHECK(strstr(err.msg, "0 threads"));
    CHECK_STATUS(qh_team_new(&t, QH_TEAM_MAX + 1, false, NULL), QH_EINVAL);
}

TEST(a_pinned_team_runs)
{
    static shared s;
    memset(&s, 0, sizeof s);
    qh_team *t;
    CHECK_OK(qh_team_new(&t, 3, true, NULL));
    qh_team_run(t, count_calls, &s);
    for (int i = 0; i < 3; i++) CHECK_INT(s.n_calls[i], 1);
    qh_team_free(t);
}

TEST_MAIN()
