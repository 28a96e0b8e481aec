/* thread.h - named threads, and the wakeup that carries a signal into an event loop.
 *
 * Locks live in core/base only; layers above meet in qh_mbox. */
#pragma once
#include "base/err.h"

typedef struct qh_thread qh_thread;

/* Start fn(arg) on a new thread. name: at most 15 bytes are kept. */
qh_status qh_thread_start(qh_thread **out, const char *name, void (*fn)(void *arg), void *arg,
                          qh_err *err);
void qh_thread_join(qh_thread *t);          /* waits for fn and frees t; NULL is fine */
qh_status qh_thread_pin(int cpu);           /* the calling thread; QH_EINVAL: no such cpu here */
int  qh_cpu_allowed(int *cpus, int max);    /* CPUs this process may use; returns how many there are */
int  qh_cpu_count(void);                    /* the same count, cut to the cgroup's CPU quota, at least 1 */

/* Something to call when work arrived; must be safe from any thread and must not block. */
typedef struct {
    void (*fn)(void *arg);
    void *arg;
} qh_wakeup;

/* An eventfd: qh_eventfd_signal on one side, poll for reading on the other. */
qh_status qh_eventfd_open(int *out_fd, qh_err *err);
void qh_eventfd_signal(int fd);
void qh_eventfd_drain(int fd);
