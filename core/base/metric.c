/* metric.c - see metric.h */
#include "base/metric.h"
#include "base/err.h"
#include "base/mem.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

typedef enum { COUNTER, GAUGE, HISTOGRAM } kind;
enum { MAX_BOUNDS = 16 };

struct qh_metric {
    qh_metric *next;                        /* in order of registration */
    const char *name, *labels, *help;
    kind kind;
    int n_bounds;
    double bounds[MAX_BOUNDS];
    _Atomic int64_t value;                  /* of a histogram: observations */
    _Atomic int64_t buckets[MAX_BOUNDS];    /* not cumulative */
    _Atomic double sum;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;    /* guards the list, not the values */
static qh_metric *first, **tail = &first;

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static qh_metric *find_or_add(kind k, const char *name, const char *labels, const char *help)
{
    pthread_mutex_lock(&lock);
    qh_metric *m = first;
    while (m && !(strcmp(m->name, name) == 0 && same_text(m->labels, labels))) m = m->next;
    if (!m) {
        m = qh_new0(qh_metric);
        m->name = name, m->help = help, m->kind = k;
        m->labels = labels ? qh_strdup(labels) : NULL;
        *tail = m;
        tail = &m->next;
    }
    pthread_mutex_unlock(&lock);
    qh_assert(m->kind == k);
    return m;
}

qh_metric *qh_metric_counter(const char *name, const char *labels, const char *help)
{
    return find_or_add(COUNTER, name, labels, help);
}

qh_metric *qh_metric_gauge(const char *name, const char *labels, const char *help)
{
    return find_or_add(GAUGE, name, labels, help);
}

qh_metric *qh_metric_histogram(const char *name, const char *labels, const char *help,
                               const double *bounds, int n_bounds)
{
    qh_assert(n_bounds >= 1 && n_bounds <= MAX_BOUNDS);
    qh_metric *m = find_or_add(HISTOGRAM, name, labels, help);
    memcpy(m->bounds, bounds, sizeof *bounds * (size_t)n_bounds);
    m->n_bounds = n_bounds;
    return m;
}

void qh_metric_add(qh_metric *m, int64_t n)
{
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

void qh_metric_set(qh_metric *m, int64_t v)
{
    atomic_store_explicit(&m->value, v, memory_order_relaxed);
}

void qh_metric_observe(qh_metric *m, double v)
{
    int b = 0;
    while (b < m->n_bounds && v > m->bounds[b]) b++;
    if (b < m->n_bounds) atomic_fetch_add_explicit(&m->buckets[b], 1, memory_order_relaxed);
    double old = atomic_load_explicit(&m->sum, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&m->sum, &old, old + v, memory_order_relaxed,
                                                  memory_order_relaxed)) {}
    qh_metric_add(m, 1);
}

int64_t qh_metric_value(const qh_metric *m)
{
    return atomic_load_explicit(&m->value, memory_order_relaxed);
}

static void write_scalar(qh_str *out, const qh_metric *m)
{
    const char *open = m->labels ? "{" : "", *close = m->labels ? "}" : "";
    qh_str_appendf(out, "%s%s%s%s %lld\n", m->name, open, m->labels ? m->labels : "", close,
                   (long long)qh_metric_value(m));
}

static void write_histogram(qh_str *out, const qh_metric *m)
{
    const char *labels = m->labels ? m->labels : "", *comma = m->labels ? "," : "";
    int64_t n = 0;
    for (int b = 0; b < m->n_bounds; b++) {
        n += atomic_load_explicit(&m->buckets[b], memory_order_relaxed);
        qh_str_appendf(out, "%s_bucket{%s%sle=\"%g\"} %lld\n", m->name, labels, comma, m->bounds[b],
                       (long long)n);
    }
    long long total = (long long)qh_metric_value(m);
    double sum = atomic_load_explicit(&m->sum, memory_order_relaxed);
    const char *open = m->labels ? "{" : "", *close = m->labels ? "}" : "";
    qh_str_appendf(out, "%s_bucket{%s%sle=\"+Inf\"} %lld\n", m->name, labels, comma, total);
    qh_str_appendf(out, "%s_sum%s%s%s %.9g\n", m->name, open, labels, close, sum);
    qh_str_appendf(out, "%s_count%s%s%s %lld\n", m->name, open, labels, close, total);
}

static bool is_first_of_its_name(const qh_metric *m)
{
    for (const qh_metric *o = first; o != m; o = o->next)
        if (strcmp(o->name, m->name) == 0) return false;
    return true;
}

void qh_metric_write(qh_str *out)
{
    static const char *const TYPES[] = {"counter", "gauge", "histogram"};
    pthread_mutex_lock(&lock);
    for (const qh_metric *m = first; m; m = m->next) {
        if (!is_first_of_its_name(m)) continue;
        qh_str_appendf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name,
                       TYPES[m->kind]);
        for (const qh_metric *o = m; o; o = o->next) {
            if (strcmp(o->name, m->name) != 0) continue;
            if (o->kind == HISTOGRAM) write_histogram(out, o);
            else write_scalar(out, o);
        }
    }
    pthread_mutex_unlock(&lock);
}
