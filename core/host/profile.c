/* profile.c - see profile.h */
#include "host/profile.h"
#include "base/mem.h"
#include "kernels/cpu/cpu_backend.h"
#include <string.h>

struct qh_profile {
    qh_backend *be;
    int n_threads;
    qh_cpu_profile *threads;        /* [n_threads] */
};

qh_profile *qh_profile_begin(qh_backend *be)
{
    if (strcmp(be->ops->caps(be)->name, "cpu") != 0) return NULL;
    qh_profile *p = qh_new0(qh_profile);
    p->be = be;
    p->n_threads = qh_cpu_backend_profile(be, NULL);
    p->threads = qh_alloc0(sizeof *p->threads * (size_t)p->n_threads);
    qh_cpu_backend_profile(be, p->threads);
    return p;
}

void qh_profile_end(qh_profile *p)
{
    if (!p) return;
    qh_cpu_backend_profile(p->be, NULL);
    qh_free(p->threads);
    qh_free(p);
}

void qh_profile_reset(qh_profile *p) { memset(p->threads, 0, sizeof *p->threads * (size_t)p->n_threads); }

int qh_profile_n_regions(const qh_profile *p)
{
    (void)p;
    return QH_N_CPU_REGION;
}

int qh_profile_n_threads(const qh_profile *p) { return p->n_threads; }

const char *qh_profile_region(const qh_profile *p, int region)
{
    static const char *const NAMES[] = {
#define X(id, text) text,
        QH_CPU_REGION_LIST(X)
#undef X
    };
    (void)p;
    return NAMES[region];
}

double qh_profile_us(const qh_profile *p, int region, int thread) { return (double)p->threads[thread].ns[region] * 1e-3; }
