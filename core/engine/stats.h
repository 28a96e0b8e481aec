/* stats.h - what the engine counts: a snapshot for any thread, and metrics.
 *
 * The engine thread writes relaxed atomics once a step; nothing is counted by token elsewhere. */
#pragma once
#include "base/metric.h"
#include "engine/engine.h"
#include <stdatomic.h>

typedef struct {
    _Atomic int64_t n_running, n_queued, n_pages_total, n_pages_free, n_pages_cached;
    _Atomic int64_t n_steps, n_prompt_tokens, n_cached_tokens, n_sampled_tokens, n_preemptions,
        is_failed;
    qh_metric *running, *queued, *pages_total, *pages_free, *pages_cached;
    qh_metric *prompt_tokens, *cached_tokens, *sampled_tokens, *preemptions, *jobs;
    qh_metric *step_seconds, *step_rows, *first_token_seconds, *queue_seconds;
} qh_stats;

void qh_stats_init(qh_stats *s, const char *labels, int n_pages);   /* labels as in qh_metric_counter, kept */
void qh_stats_failed(qh_stats *s);                                  /* the device is gone */
void qh_stats_set_gauges(qh_stats *s, int n_running, int n_queued, int n_pages_free,
                         int n_pages_cached);
void qh_stats_step(qh_stats *s, int n_rows, int n_sampled, int64_t step_us);
void qh_stats_sampled(qh_stats *s, int n);                          /* tokens, outside a step */
void qh_stats_prefill(qh_stats *s, int n_prompt, int n_cached);     /* a prompt was admitted */
void qh_stats_preempted(qh_stats *s);
void qh_stats_finished(qh_stats *s, const qh_usage *u);             /* a choice */
void qh_stats_get(qh_stats *s, qh_engine_stats *out);
