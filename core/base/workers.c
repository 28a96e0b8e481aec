/* workers.c - see workers.h */
#include "base/workers.h"
#include "base/mbox.h"
#include "base/mem.h"
#include <pthread.h>

struct qh_workers {
    qh_mbox *todo, *finished;
    qh_thread **threads;
    int n_threads, n_pending, max_jobs;      /* n_pending: owner's thread only */
    pthread_mutex_t take_lock;               /* qh_mbox has one receiver; workers take turns */
};

static bool take_job(qh_workers *w, qh_job *job)
{
    pthread_mutex_lock(&w->take_lock);
    qh_status st;
    while ((st = qh_mbox_take(w->todo, job)) == QH_AGAIN) qh_mbox_wait(w->todo, -1);
    pthread_mutex_unlock(&w->take_lock);
    return st == QH_OK;
}

static void work(void *arg)
{
    qh_workers *w = arg;
    qh_job job;
    while (take_job(w, &job)) {
        job.run(job.arg);
        qh_status st = qh_mbox_put(w->finished, &job);
        qh_assert(st == QH_OK);              /* holds as many as may be pending */
    }
}

qh_status qh_workers_new(qh_workers **out, int n_threads, int max_jobs, qh_wakeup wakeup, qh_err *err)
{
    *out = NULL;
    qh_workers *w = qh_new0(qh_workers);
    pthread_mutex_init(&w->take_lock, NULL);
    w->max_jobs = max_jobs;
    w->threads = qh_alloc0(sizeof *w->threads * (size_t)n_threads);
    qh_status st = qh_mbox_new(&w->todo, sizeof(qh_job), max_jobs, (qh_wakeup){0}, err);
    if (!st) st = qh_mbox_new(&w->finished, sizeof(qh_job), max_jobs, wakeup, err);
    for (int i = 0; !st && i < n_threads; i++) {
        st = qh_thread_start(&w->threads[i], "qh-worker", work, w, err);
        if (!st) w->n_threads++;
    }
    if (st) {
        qh_workers_free(w);
        return st;
    }
    *out = w;
    return QH_OK;
}

void qh_workers_free(qh_workers *w)
{
    if (!w) return;
    if (w->todo) qh_mbox_close(w->todo);
    for (int i = 0; i < w->n_threads; i++) qh_thread_join(w->threads[i]);
    if (w->finished) qh_workers_poll(w);
    qh_mbox_free(w->todo);
    qh_mbox_free(w->finished);
    pthread_mutex_destroy(&w->take_lock);
    qh_free(w->threads);
    qh_free(w);
}

qh_status qh_workers_submit(qh_workers *w, qh_job job)
{
    if (w->n_pending >= w->max_jobs) return QH_AGAIN;
    qh_status st = qh_mbox_put(w->todo, &job);
    if (!st) w->n_pending++;
    return st;
}

void qh_workers_poll(qh_workers *w)
{
    qh_job job;
    while (qh_mbox_take(w->finished, &job) == QH_OK) {
        w->n_pending--;
        if (job.done) job.done(job.arg);
    }
}
