/* stats.c - see stats.h */
#include "engine/stats.h"

#define COUNT(of) (int)(sizeof(of) / sizeof *(of))
static const double STEP_SECONDS[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2};
static const double STEP_ROWS[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
static const double WAIT_SECONDS[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60};

void qh_stats_init(qh_stats *s, const char *labels, int n_pages)
{
    *s = (qh_stats){0};
    s->running = qh_metric_gauge("qhost_sequences_running", labels, "Sequences that hold a slot.");
    s->queued = qh_metric_gauge("qhost_jobs_queued", labels, "Jobs that have not started.");
    s->pages_total = qh_metric_gauge("qhost_kv_pages", labels, "KV pages in all.");
    s->pages_free =
        qh_metric_gauge("qhost_kv_pages_free", labels, "KV pages that nothing refers to.");
    s->pages_cached =
        qh_metric_gauge("qhost_kv_pages_cached", labels, "KV pages in the prefix cache.");
    s->prompt_tokens =
        qh_metric_counter("qhost_prompt_tokens_total", labels, "Prompt tokens of admitted jobs.");
    s->cached_tokens = qh_metric_counter("qhost_cached_tokens_total", labels,
                                         "Prompt tokens found in the prefix cache.");
    s->sampled_tokens = qh_metric_counter("qhost_sampled_tokens_total", labels, "Tokens drawn.");
    s->preemptions = qh_metric_counter("qhost_preemptions_total", labels,
                                       "Sequences that gave their pages up and wait.");
    s->jobs = qh_metric_counter("qhost_choices_total", labels, "Choices that ended.");
    s->step_seconds = qh_metric_histogram("qhost_step_seconds", labels, "Time of an engine step.",
                                          STEP_SECONDS, COUNT(STEP_SECONDS));
    s->step_rows = qh_metric_histogram("qhost_step_rows", labels, "Tokens computed in a step.",
                                       STEP_ROWS, COUNT(STEP_ROWS));
    s->first_token_seconds = qh_metric_histogram("qhost_first_token_seconds", labels,
                                                 "From submission to the first token.",
                                                 WAIT_SECONDS, COUNT(WAIT_SECONDS));
    s->queue_seconds =
        qh_metric_histogram("qhost_queue_seconds", labels, "From submission to admission.",
                            WAIT_SECONDS, COUNT(WAIT_SECONDS));
    s->n_pages_total = n_pages;
    qh_metric_set(s->pages_total, n_pages);
}

/* One writer, so a load and a store do for an addition. */
static void set(_Atomic int64_t *v, int64_t to)
{
    atomic_store_explicit(v, to, memory_order_relaxed);
}
static int64_t get(_Atomic int64_t *v) { return atomic_load_explicit(v, memory_order_relaxed); }
static void add(_Atomic int64_t *v, int64_t n) { set(v, get(v) + n); }

void qh_stats_failed(qh_stats *s) { set(&s->is_failed, true); }

void qh_stats_set_gauges(qh_stats *s, int n_running, int n_queued, int n_pages_free,
                         int n_pages_cached)
{
    set(&s->n_running, n_running);
    set(&s->n_queued, n_queued);
    set(&s->n_pages_free, n_pages_free);
    set(&s->n_pages_cached, n_pages_cached);
    qh_metric_set(s->running, n_running);
    qh_metric_set(s->queued, n_queued);
    qh_metric_set(s->pages_free, n_pages_free);
    qh_metric_set(s->pages_cached, n_pages_cached);
}

void qh_stats_sampled(qh_stats *s, int n)
{
    add(&s->n_sampled_tokens, n);
    qh_metric_add(s->sampled_tokens, n);
}

void qh_stats_step(qh_stats *s, int n_rows, int n_sampled, int64_t step_us)
{
    add(&s->n_steps, 1);
    qh_stats_sampled(s, n_sampled);
    qh_metric_observe(s->step_seconds, (double)step_us * 1e-6);
    qh_metric_observe(s->step_rows, n_rows);
}

void qh_stats_prefill(qh_stats *s, int n_prompt, int n_cached)
{
    add(&s->n_prompt_tokens, n_prompt);
    add(&s->n_cached_tokens, n_cached);
    qh_metric_add(s->prompt_tokens, n_prompt);
    qh_metric_add(s->cached_tokens, n_cached);
}

void qh_stats_preempted(qh_stats *s)
{
    add(&s->n_preemptions, 1);
    qh_metric_add(s->preemptions, 1);
}

void qh_stats_finished(qh_stats *s, const qh_usage *u)
{
    qh_metric_add(s->jobs, 1);
    qh_metric_observe(s->queue_seconds, (double)u->queue_us * 1e-6);
    if (u->n_completion)
        qh_metric_observe(s->first_token_seconds, (double)u->first_token_us * 1e-6);
}

void qh_stats_get(qh_stats *s, qh_engine_stats *out)
{
    *out = (qh_engine_stats){
        .n_running = (int)get(&s->n_running),
        .n_queued = (int)get(&s->n_queued),
        .n_pages_total = (int)get(&s->n_pages_total),
        .n_pages_free = (int)get(&s->n_pages_free),
        .n_pages_cached = (int)get(&s->n_pages_cached),
        .n_steps = get(&s->n_steps),
        .n_prompt_tokens = get(&s->n_prompt_tokens),
        .n_cached_tokens = get(&s->n_cached_tokens),
        .n_sampled_tokens = get(&s->n_sampled_tokens),
        .n_preemptions = get(&s->n_preemptions),
        .is_failed = get(&s->is_failed),
    };
}
