/* workers.h - threads for pure jobs: tokenize a long prompt, read a file, hash a download.
 *
 * A job works on data handed to it and touches nothing else. When it has run, its done function is
 * delivered through qh_workers_poll on the owner's thread; the wakeup says when to poll. */
#pragma once
#include "base/err.h"
#include "base/thread.h"

typedef struct qh_workers qh_workers;

typedef struct {
    void (*run)(void *arg);     /* on a worker */
    void (*done)(void *arg);    /* on the polling thread; frees arg. May be NULL */
    void *arg;
} qh_job;

qh_status qh_workers_new(qh_workers **out, int n_threads, int max_jobs, qh_wakeup wakeup, qh_err *err);
/* Runs what is queued, joins, delivers every done; NULL is fine. */
void qh_workers_free(qh_workers *w);
qh_status qh_workers_submit(qh_workers *w, qh_job job);      /* QH_AGAIN: max_jobs are pending */
void qh_workers_poll(qh_workers *w);                         /* calls done of finished jobs */
