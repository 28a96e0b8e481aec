#include "test.h"
#include "base/mbox.h"
#include "base/workers.h"
#include <stdatomic.h>

static void count_up(void *arg) { (*(int *)arg)++; }

TEST(a_burst_costs_one_wakeup_until_emptied)
{
    int n_wakeups = 0, v = 0;
    qh_mbox *m;
    CHECK_OK(qh_mbox_new(&m, sizeof v, 3, (qh_wakeup){count_up, &n_wakeups}, NULL));
    for (v = 1; v <= 3; v++) CHECK_OK(qh_mbox_put(m, &v));
    CHECK_STATUS(qh_mbox_put(m, &v), QH_AGAIN);
    CHECK_INT(n_wakeups, 1);
    for (int want = 1; want <= 3; want++) {
        CHECK_OK(qh_mbox_take(m, &v));
        CHECK_INT(v, want);
    }
    CHECK_STATUS(qh_mbox_take(m, &v), QH_AGAIN);
    CHECK_OK(qh_mbox_put(m, &v));
    CHECK_INT(n_wakeups, 2);
    CHECK_STATUS(qh_mbox_wait(m, 0), QH_OK);
    qh_mbox_close(m);
    CHECK_STATUS(qh_mbox_put(m, &v), QH_ECLOSED);
    CHECK_OK(qh_mbox_take(m, &v));
    CHECK_STATUS(qh_mbox_take(m, &v), QH_ECLOSED);
    CHECK_STATUS(qh_mbox_wait(m, -1), QH_ECLOSED);
    qh_mbox_free(m);
}

TEST(waiting_on_an_empty_box_times_out)
{
    qh_mbox *m;
    CHECK_OK(qh_mbox_new(&m, 4, 1, (qh_wakeup){0}, NULL));
    CHECK_STATUS(qh_mbox_wait(m, 1000), QH_ETIMEDOUT);
    qh_mbox_free(m);
}

enum { N_SENDERS = 4, N_EACH = 5000 };
static void send_many(void *arg)
{
    for (int i = 0; i < N_EACH; i++)
        while (qh_mbox_put(arg, &i) == QH_AGAIN) {}
}

TEST(nothing_is_lost_between_many_senders_and_one_receiver)
{
    qh_mbox *m;
    qh_thread *t[N_SENDERS];
    CHECK_OK(qh_mbox_new(&m, sizeof(int), 16, (qh_wakeup){0}, NULL));
    for (int i = 0; i < N_SENDERS; i++) CHECK_OK(qh_thread_start(&t[i], "send", send_many, m, NULL));
    long sum = 0;
    for (int n = 0, v; n < N_SENDERS * N_EACH;) {
        qh_mbox_wait(m, -1);
        while (qh_mbox_take(m, &v) == QH_OK) sum += v, n++;
    }
    for (int i = 0; i < N_SENDERS; i++) qh_thread_join(t[i]);
    CHECK(sum == (long)N_SENDERS * N_EACH * (N_EACH - 1) / 2);
    qh_mbox_free(m);
}

static _Atomic int n_run;
static int n_done;
static void run_one(void *arg) { (void)arg, atomic_fetch_add(&n_run, 1); }
static void done_one(void *arg) { (void)arg, n_done++; }

TEST(every_submitted_job_runs_once_and_reports_once)
{
    qh_workers *w;
    CHECK_OK(qh_workers_new(&w, 2, 8, (qh_wakeup){0}, NULL));
    int n = 0;
    while (n < 100) {
        if (qh_workers_submit(w, (qh_job){run_one, done_one, NULL}) == QH_OK) n++;
        else qh_workers_poll(w);
    }
    qh_workers_free(w);
    CHECK_INT(atomic_load(&n_run), 100);
    CHECK_INT(n_done, 100);
}
TEST_MAIN()
