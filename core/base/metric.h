/* metric.h - counters, gauges and histograms, written out as Prometheus text.
 *
 * Metrics are registered once at start, updated from any thread with relaxed atomics, and never
 * freed. Format: Prometheus text exposition 0.0.4. */
#pragma once
#include "base/str.h"
#include <stdint.h>

typedef struct qh_metric qh_metric;

/* name: [a-z_]+ beginning with qhost_. labels: NULL or 'k="v",...' already escaped. Registering the
 * same name and labels again returns the first one. name and help are kept, labels copied. */
qh_metric *qh_metric_counter(const char *name, const char *labels, const char *help);
qh_metric *qh_metric_gauge(const char *name, const char *labels, const char *help);
/* bounds: ascending upper bounds, n_bounds of them, at most 16; +Inf is implied. */
qh_metric *qh_metric_histogram(const char *name, const char *labels, const char *help,
                               const double *bounds, int n_bounds);

void    qh_metric_add(qh_metric *m, int64_t n);              /* counter or gauge */
void    qh_metric_set(qh_metric *m, int64_t v);              /* gauge */
void    qh_metric_observe(qh_metric *m, double v);           /* histogram */
int64_t qh_metric_value(const qh_metric *m);                 /* counter, gauge; observations of a histogram */
void    qh_metric_write(qh_str *out);                        /* all of them, grouped by name */
