/* thread.c - see thread.h */
#include "base/thread.h"
#include "base/mem.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct qh_thread {
    pthread_t id;
    void (*fn)(void *);
    void *arg;
    char name[16];
};

static void *run(void *p)
{
    qh_thread *t = p;
    pthread_setname_np(pthread_self(), t->name);
    t->fn(t->arg);
    return NULL;
}

qh_status qh_thread_start(qh_thread **out, const char *name, void (*fn)(void *), void *arg,
                          qh_err *err)
{
    qh_thread *t = qh_new0(qh_thread);
    *out = NULL;
    t->fn = fn;
    t->arg = arg;
    snprintf(t->name, sizeof t->name, "%s", name);
    int rc = pthread_create(&t->id, NULL, run, t);
    if (rc) {
        qh_free(t);
        return qh_fail(err, QH_EIO, "cannot start thread '%s': %s", name, strerror(rc));
    }
    *out = t;
    return QH_OK;
}

void qh_thread_join(qh_thread *t)
{
    if (!t) return;
    pthread_join(t->id, NULL);
    qh_free(t);
}

qh_status qh_thread_pin(int cpu)
{
    if (cpu < 0 || cpu >= CPU_SETSIZE) return QH_EINVAL;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set) ? QH_EINVAL : QH_OK;
}

int qh_cpu_allowed(int *cpus, int max)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 0;
    int n = 0;
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, &set)) continue;
        if (n < max) cpus[n] = c;
        n++;
    }
    return n;
}

/* cgroup v2: "max 100000" or "150000 100000" (microseconds a period). */
static int quota_cpus(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f) return 0;
    long quota = 0, period = 0;
    int n = fscanf(f, "%ld %ld", &quota, &period);
    fclose(f);
    return n == 2 && period > 0 && quota > 0 ? (int)((quota + period - 1) / period) : 0;
}

int qh_cpu_count(void)
{
    int n = qh_cpu_allowed(NULL, 0), q = quota_cpus();
    if (q > 0 && q < n) n = q;
    return n > 0 ? n : 1;
}

qh_status qh_eventfd_open(int *out_fd, qh_err *err)
{
    *out_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (*out_fd < 0) return qh_fail(err, QH_EIO, "eventfd: %s", strerror(errno));
    return QH_OK;
}

void qh_eventfd_signal(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

void qh_eventfd_drain(int fd)
{
    uint64_t n;
    while (read(fd, &n, sizeof n) < 0 && errno == EINTR) {}
}
