/* step.c - see step.h */
#include "engine/step.h"
#include "base/mem.h"
#include "engine/batch.h"
#include "engine/sched.h"
#include <stdio.h>

/* A pause shorter than this costs the job nothing; a longer one makes it the first to be preempted. */
enum { STALL_US = 200000 };
/* Turns go out so many together: one wakeup of the policy's thread for all of them, while the draws of the
 * rest of the batch go on beside it. */
enum { TURNS_TOGETHER = 8 };
/* A turn that found no room is sent again after so long. */
enum { RETRY_US = 1000 };
/* Queue heads shown to the scheduler in one step: each costs a walk through the prefix cache. */
enum { MAX_HEADS = 16 };

struct qh_core {
    qh_backend *be;             /* borrowed */
    int n_logits;               /* floats of a row of logits */
    qh_gen_env env;
    qh_token *eos;              /* behind env */
    qh_spec_limits limits;
    qh_batch batch;
    qh_clock *clock;
    qh_event_sink sink;
    qh_stats stats;

    qh_job *first_job, *last_job;
    qh_choice *queue_head, *queue_tail;     /* by priority, then order */
    qh_choice **running;                    /* [max_seqs + MAX_HEADS]: preempted ones leave after the admitted came */
    int n_running, n_queued;                /* n_queued: jobs that have not started */
    int64_t next_order, wake_us;
    bool is_failed, has_untold;
    qh_choice *asking[TURNS_TOGETHER];      /* their turns are made up in this step and not out yet */
    int n_asking;
    int n_asked, n_due;         /* turns that are out, see step.h */
    int n_answered;             /* tokens that policies gave since they were counted */
    int64_t n_steps, step_us;   /* batches computed; time of the last one */
    char failure[QH_ERR_MSG_BYTES];

    /* one step's plan */
    qh_sched_seq *run_view, *wait_view;     /* [max_seqs], [MAX_HEADS] */
    qh_sched_verdict *run_verdict, *wait_verdict;
    qh_choice *heads[MAX_HEADS];
    int head_cached[MAX_HEADS];             /* tokens that the cache has for each */
    int n_heads;
    int *scratch;
    qh_choice **batched;                    /* [max_seqs] whose rows are in the batch */
};

/* Opening ----------------------------------------------------------------------------------------*/

static int smaller(int a, int b) { return a < b ? a : b; }

static qh_status resolve(qh_core *c, const qh_engine_config *cfg, const qh_desc *desc,
                         qh_backend_limits *lim, qh_err *err)
{
    *lim = c->be->ops->caps(c->be)->limits;
    int n_pages = cfg->n_pages ? smaller(cfg->n_pages, lim->n_pages) : lim->n_pages;
    if (n_pages < 2 || lim->max_rows < 1 || lim->max_seqs < 1 || lim->max_outputs < 1)
        return qh_fail(err, QH_EINVAL,
                       "backend '%s' was opened for %d pages, %d rows, %d sequences, %d outputs; "
                       "the engine needs at "
                       "least 2 pages and one of each",
                       c->be->ops->caps(c->be)->name, n_pages, lim->max_rows, lim->max_seqs,
                       lim->max_outputs);
    int context = cfg->max_context ? cfg->max_context : desc->n_ctx_train;
    context = smaller(context, lim->max_context);
    int held =
        n_pages - 1 < INT32_MAX / QH_PAGE_TOKENS ? (n_pages - 1) * QH_PAGE_TOKENS : INT32_MAX;
    lim->n_pages = n_pages;
    lim->max_rows = smaller(cfg->step_tokens ? cfg->step_tokens : 512, lim->max_rows);
    lim->max_seqs = smaller(cfg->max_seqs ? cfg->max_seqs : 64, lim->max_seqs);
    c->limits = (qh_spec_limits){
        .n_vocab = smaller(desc->n_vocab, qh_vocab_len(c->env.vocab)),
        .max_context = smaller(context, held),
        .n_pages = n_pages,
        .is_pool_bound = held < context,
        .max_seqs = lim->max_seqs,
    };
    if (c->limits.max_context < 2)
        return qh_fail(err, QH_EINVAL, "a context of %d tokens, expected at least 2",
                       c->limits.max_context);
    return QH_OK;
}

static void list_eos(qh_core *c)
{
    int n = 0;
    for (int i = 0; i < c->limits.n_vocab; i++) n += qh_vocab_is_stop(c->env.vocab, i);
    c->eos = qh_alloc0(sizeof *c->eos * (size_t)n);
    for (int i = 0; i < c->limits.n_vocab; i++)
        if (qh_vocab_is_stop(c->env.vocab, i)) c->eos[c->env.n_eos++] = i;
    c->env.eos = c->eos;
}

qh_status qh_core_new(qh_core **out, qh_backend *be, const qh_desc *desc, const qh_vocab *vocab,
                      const qh_engine_config *cfg, qh_event_sink sink, qh_err *err)
{
    *out = NULL;
    qh_core *c = qh_new0(qh_core);
    qh_backend_limits lim;
    c->be = be;
    c->n_logits = desc->n_vocab;
    c->env.vocab = vocab;
    c->clock = cfg->clock ? cfg->clock : &qh_clock_real;
    c->sink = sink;
    c->wake_us = INT64_MAX;
    qh_status st = resolve(c, cfg, desc, &lim, err);
    if (st) goto fail;
    list_eos(c);
    c->env.max_context = c->limits.max_context;
    st = qh_kvpool_new(&c->env.pool, lim.n_pages, err);
    if (!st && !cfg->no_prefix_cache) st = qh_prefix_new(&c->env.prefix, c->env.pool, err);
    if (!st)
        st = qh_sampler_new(&c->env.sampler, vocab, c->limits.n_vocab, c->limits.max_context, err);
    if (!st) st = qh_batch_init(&c->batch, &lim, err);
    if (st) goto fail;
    size_t n = (size_t)lim.max_seqs;
    c->running = qh_alloc0(sizeof *c->running * (n + MAX_HEADS));
    c->batched = qh_alloc0(sizeof *c->batched * n);
    c->run_view = qh_alloc0(sizeof *c->run_view * n);
    c->run_verdict = qh_alloc0(sizeof *c->run_verdict * n);
    c->wait_view = qh_alloc0(sizeof *c->wait_view * MAX_HEADS);
    c->wait_verdict = qh_alloc0(sizeof *c->wait_verdict * MAX_HEADS);
    c->scratch = qh_alloc0(sizeof *c->scratch * (n + MAX_HEADS));
    qh_stats_init(&c->stats, cfg->metric_labels, lim.n_pages);
    qh_stats_set_gauges(&c->stats, 0, 0, lim.n_pages, 0);
    *out = c;
    return QH_OK;
fail:
    qh_core_free(c);
    return st;
}

void qh_core_free(qh_core *c)
{
    if (!c) return;
    qh_assert(c->n_asked == 0);
    while (c->first_job) {
        qh_job *next = c->first_job->next;
        qh_job_free(c->first_job);
        c->first_job = next;
    }
    qh_prefix_free(c->env.prefix);
    qh_kvpool_free(c->env.pool);
    qh_sampler_free(c->env.sampler);
    qh_str_deinit(&c->env.piece);
    qh_batch_deinit(&c->batch);
    qh_free(c->eos);
    qh_free(c->running);
    qh_free(c->batched);
    qh_free(c->run_view);
    qh_free(c->run_verdict);
    qh_free(c->wait_view);
    qh_free(c->wait_verdict);
    qh_free(c->scratch);
    qh_free(c);
}

const qh_spec_limits *qh_core_limits(const qh_core *c) { return &c->limits; }
qh_stats *qh_core_stats(qh_core *c) { return &c->stats; }
int qh_core_n_asked(const qh_core *c) { return c->n_asked; }
int qh_core_max_asked(const qh_core *c) { return 2 * c->limits.max_seqs; }
int qh_core_n_due(const qh_core *c) { return c->n_due; }
int64_t qh_core_step_us(const qh_core *c) { return c->step_us; }
int64_t qh_core_wake_us(const qh_core *c) { return c->wake_us; }
bool qh_core_has_untold(const qh_core *c) { return c->has_untold; }
static int64_t now_us(const qh_core *c) { return c->clock->now_us(c->clock); }

/* Lists ------------------------------------------------------------------------------------------*/

static bool goes_before(const qh_choice *a, const qh_choice *b)
{
    int pa = a->job->gen->priority, pb = b->job->gen->priority;
    return pa != pb ? pa > pb : a->order < b->order;
}

static void enqueue(qh_core *c, qh_choice *ch)
{
    qh_choice *after = c->queue_tail;
    while (after && goes_before(ch, after)) after = after->prev;
    ch->state = QH_CHOICE_WAITING;
    ch->prev = after;
    ch->next = after ? after->next : c->queue_head;
    *(after ? &after->next : &c->queue_head) = ch;
    *(ch->next ? &ch->next->prev : &c->queue_tail) = ch;
}

static void dequeue(qh_core *c, qh_choice *ch)
{
    *(ch->prev ? &ch->prev->next : &c->queue_head) = ch->next;
    *(ch->next ? &ch->next->prev : &c->queue_tail) = ch->prev;
    ch->prev = ch->next = NULL;
}

/* The job leaves the count of those that queue: it was admitted, or ends without. */
static void mark_started(qh_core *c, qh_job *j)
{
    if (j->is_started) return;
    j->is_started = true;
    c->n_queued--;
    if (j->flags) atomic_fetch_or(j->flags, QH_FLAG_STARTED);
}

static void finish(qh_core *c, qh_choice *ch, qh_finish why, qh_status st, const char *message)
{
    if (ch->state == QH_CHOICE_WAITING) dequeue(c, ch);
    qh_choice_finish(ch, &c->env, why, st, message, now_us(c));
}

static void finish_job(qh_core *c, qh_job *j, qh_finish why, qh_status st, const char *message)
{
    mark_started(c, j);
    for (int i = 0; i < j->n_choices; i++) finish(c, &j->choices[i], why, st, message);
}

static void drop_finished(qh_core *c)
{
    int n = 0;
    for (int i = 0; i < c->n_running; i++)
        if (c->running[i]->state == QH_CHOICE_RUNNING) c->running[n++] = c->running[i];
    c->n_running = n;
}

void qh_core_submit(qh_core *c, qh_job_id id, qh_gen *gen, _Atomic unsigned *flags,
                    int64_t submitted_us)
{
    qh_job *j = qh_job_new(id, gen, flags, &c->env, submitted_us);
    for (int i = 0; i < j->n_choices; i++) j->choices[i].order = c->next_order++;
    j->prev = c->last_job;
    *(c->last_job ? &c->last_job->next : &c->first_job) = j;
    c->last_job = j;
    c->n_queued++;
    if (c->is_failed) finish_job(c, j, QH_FINISH_ERROR, QH_EDEVICE, c->failure);
    else if (j->choices[0].state == QH_CHOICE_FINISHED) mark_started(c, j);
    else enqueue(c, &j->choices[0]);
}

/* A choice without room for its turn keeps it and tries again in the next step. */
static void send_turn(qh_core *c, qh_choice *ch)
{
    qh_turn *t = ch->turn;
    if (c->n_asked == qh_core_max_asked(c)) return;
    t->home = c->sink.home;
    t->home_arg = c->sink.arg;
    t->step = c->n_steps;
    ch->place = QH_TURN_OUT;
    qh_status st = t->policy->ops->ask(t->policy, t);
    if (!st) {
        c->n_asked++;
        c->n_due++;
        return;
    }
    ch->place = QH_TURN_UNSENT;
    if (st != QH_AGAIN)
        finish(c, ch, QH_FINISH_ERROR, st, "nobody runs the policy any more: the server is closing");
}

static void send_turns(qh_core *c)
{
    for (int i = 0; i < c->n_asking; i++)
        if (c->asking[i]->place == QH_TURN_UNSENT) send_turn(c, c->asking[i]);
    c->n_asking = 0;
}

void qh_core_take_turn(qh_core *c, qh_turn *t)
{
    qh_choice *ch = t->choice;
    c->n_asked--;
    c->n_due -= t->step == c->n_steps;
    if (!ch) {
        qh_turn_free(t);
        return;
    }
    bool is_queued = ch->state == QH_CHOICE_WAITING;
    c->n_answered += t->verdict == QH_TURN_TOKEN || t->verdict == QH_TURN_STOP;
    qh_choice_take_turn(ch, &c->env, now_us(c));
    if (is_queued && ch->state == QH_CHOICE_FINISHED) dequeue(c, ch);
}

/* 1. Cancels, pauses, deadlines ------------------------------------------------------------------*/

static void wake_at(qh_core *c, int64_t t_us)
{
    if (t_us < c->wake_us) c->wake_us = t_us;
}

static void heed_pause(qh_core *c, qh_choice *ch, bool is_paused, int64_t now)
{
    if (!is_paused && !qh_choice_is_full(ch)) {
        ch->paused_us = -1;
        return;
    }
    if (ch->paused_us < 0) ch->paused_us = now;
    if (ch->state == QH_CHOICE_RUNNING && now < ch->paused_us + STALL_US)
        wake_at(c, ch->paused_us + STALL_US);
}

static void heed_job(qh_core *c, qh_job *j, int64_t now)
{
    unsigned flags = j->flags ? atomic_load_explicit(j->flags, memory_order_relaxed) : 0;
    int64_t deadline = j->gen->deadline_us;
    if (flags & QH_FLAG_CANCEL) {
        finish_job(c, j, QH_FINISH_CANCELED, QH_OK, NULL);
    } else if (deadline && now >= deadline) {
        char msg[128];
        snprintf(msg, sizeof msg, "the deadline passed %.1f s after the request came",
                 (double)(now - j->submitted_us) * 1e-6);
        finish_job(c, j, QH_FINISH_ERROR, QH_ETIMEDOUT, msg);
    } else {
        bool is_at_work = false;
        for (int i = 0; i < j->n_choices; i++) {
            qh_choice *ch = &j->choices[i];
            if (ch->place == QH_TURN_UNSENT) send_turn(c, ch);
            if (ch->place == QH_TURN_UNSENT) wake_at(c, now + RETRY_US);
            if (ch->state != QH_CHOICE_FINISHED) is_at_work = true;
            heed_pause(c, ch, flags & QH_FLAG_PAUSED, now);
        }
        if (deadline && is_at_work) wake_at(c, deadline);
    }
}

static void heed(qh_core *c)
{
    int64_t now = now_us(c);
    c->wake_us = INT64_MAX;
    for (qh_job *j = c->first_job; j; j = j->next) heed_job(c, j, now);
    drop_finished(c);
}

/* 2. The plan ------------------------------------------------------------------------------------*/

static bool wants_all(const qh_choice *ch)
{
    const qh_job *j = ch->job;
    return j->gen->prompt_logprobs && j->n_scored < j->n_prompt - 1;
}

static qh_sched_seq view_of(const qh_choice *ch)
{
    return (qh_sched_seq){
        .priority = ch->job->gen->priority, .order = ch->order, .wants_all = wants_all(ch),
        .n_slots = ch->job->has_forked ? 1 : ch->job->n_choices,
    };
}

/* Not paused, and not waiting for what its policy says. */
static bool may_run(const qh_choice *ch) { return ch->paused_us < 0 && ch->place == QH_TURN_HOME; }

static void view_running(qh_core *c)
{
    int64_t now = now_us(c);
    for (int i = 0; i < c->n_running; i++) {
        const qh_choice *ch = c->running[i];
        const qh_kvtable *kv = &ch->seq->kv;
        qh_sched_seq v = view_of(ch);
        v.n_pending = qh_seq_n_pending(ch->seq);
        v.n_room = kv->n_pages * QH_PAGE_TOKENS - kv->n_tokens;
        v.shared_tail = qh_kvtable_shared_tail(kv);
        v.n_tail_refs = v.shared_tail == QH_NO_PAGE ? 0 : qh_kvpool_refs(kv->pool, v.shared_tail);
        v.n_released = qh_kvtable_pages_released(kv);
        v.n_passed_over = ch->n_passed_over;
        v.is_ready = may_run(ch);
        if (v.n_pending == 0) v.n_pending = 1;      /* the token that its policy has not given yet */
        v.is_stalled = ch->paused_us >= 0 && now >= ch->paused_us + STALL_US;
        c->run_view[i] = v;
    }
}

/* Could the scheduler let anybody in? Else the cache need not be asked what it has. */
static bool may_admit(const qh_core *c, const qh_choice *head)
{
    int n_slots = 0;
    for (int i = 0; i < c->n_running; i++) {
        const qh_sched_seq *v = &c->run_view[i];
        if (v->is_stalled || v->priority < head->job->gen->priority) return true;
        n_slots += v->n_slots;
    }
    return n_slots < c->limits.max_seqs;
}

/* The last token is always computed, for its logits; so are those whose log-probabilities are wanted. */
static int max_cached(const qh_choice *ch)
{
    return wants_all(ch) ? ch->job->n_scored : ch->seq->tokens.len - 1;
}

static void view_waiting(qh_core *c)
{
    c->n_heads = 0;
    for (qh_choice *ch = c->queue_head; ch && c->n_heads < MAX_HEADS; ch = ch->next) {
        if (!may_run(ch)) continue;
        if (c->n_heads == 0 && !may_admit(c, ch)) return;
        qh_prefix_hit hit = {.partial = QH_NO_PAGE};
        if (c->env.prefix)
            hit = qh_prefix_find(c->env.prefix, ch->seq->salt, ch->seq->tokens.ids, max_cached(ch));
        qh_sched_seq v = view_of(ch);
        v.n_pending = ch->seq->tokens.len - hit.n_tokens;
        v.n_room = hit.n_pages * QH_PAGE_TOKENS - hit.n_tokens;
        v.shared_tail = hit.partial;
        v.n_tail_refs =
            hit.partial == QH_NO_PAGE ? 0 : qh_kvpool_refs(c->env.pool, hit.partial) + 1;
        v.n_hit = hit.n_pages;
        v.n_idle = hit.n_idle;
        c->head_cached[c->n_heads] = hit.n_tokens;
        c->wait_view[c->n_heads] = v;
        c->heads[c->n_heads++] = ch;
    }
}

static void decide(qh_core *c)
{
    view_running(c);
    view_waiting(c);
    const qh_sched_state s = {
        .running = c->run_view,
        .n_running = c->n_running,
        .waiting = c->wait_view,
        .n_waiting = c->n_heads,
        .n_pages = qh_kvpool_n_free(c->env.pool) + qh_kvpool_n_idle(c->env.pool),
        .n_slots = c->limits.max_seqs,
        .max_rows = c->batch.limits.max_rows,
        .max_outputs = c->batch.limits.max_outputs,
    };
    qh_sched_decide(&s, c->run_verdict, c->wait_verdict, c->scratch);
}

/* 3. Carrying it out -----------------------------------------------------------------------------*/

static bool preempt(qh_core *c)
{
    bool did = false;
    for (int i = 0; i < c->n_running; i++) {
        qh_choice *ch = c->running[i];
        if (c->run_verdict[i].action != QH_SCHED_PREEMPT) continue;
        qh_seq_unload(ch->seq, c->env.prefix);
        ch->n_preempted++;
        enqueue(c, ch);
        qh_stats_preempted(&c->stats);
        did = true;
    }
    return did;
}

static void admit(qh_core *c, int head)
{
    qh_choice *ch = c->heads[head];
    qh_job *j = ch->job;
    dequeue(c, ch);
    int n_cached = qh_seq_load(ch->seq, c->env.prefix, max_cached(ch), c->head_cached[head]);
    ch->state = QH_CHOICE_RUNNING;
    ch->n_passed_over = 0;
    c->running[c->n_running++] = ch;
    if (j->admitted_us >= 0) return;
    j->admitted_us = now_us(c);
    j->n_cached = n_cached;
    mark_started(c, j);
    qh_stats_prefill(&c->stats, j->n_prompt, n_cached);
}

/* A failure that is the device's ends everything; another one ends this choice. */
static void fail(qh_core *c, qh_choice *ch, qh_status st, const char *message)
{
    if (st == QH_EDEVICE && !c->is_failed) {
        c->is_failed = true;
        snprintf(c->failure, sizeof c->failure, "%s", message);
        qh_stats_failed(&c->stats);
    }
    ch->has_bad_kv = true;
    if (ch->job->has_forked) finish(c, ch, QH_FINISH_ERROR, st, message);
    else finish_job(c, ch->job, QH_FINISH_ERROR, st, message);
}

static void add_rows(qh_core *c, qh_choice *ch, int n_rows)
{
    qh_err err = {0};
    ch->n_passed_over = n_rows > 0 || !may_run(ch) ? 0 : ch->n_passed_over + 1;
    if (n_rows == 0 || c->is_failed) return;
    if (c->env.prefix) {
        qh_status st =
            qh_prefix_make_room(c->env.prefix, qh_kvtable_pages_needed(&ch->seq->kv, n_rows));
        qh_assert(st == QH_OK);         /* the scheduler counted the pages */
    }
    qh_status st = qh_kvtable_reserve(&ch->seq->kv, c->be, n_rows, &err);
    qh_assert(st != QH_AGAIN);
    if (st) {
        fail(c, ch, st, err.msg);
        return;
    }
    c->batched[c->batch.step.n_seqs] = ch;
    qh_batch_add(&c->batch, ch->seq, n_rows, wants_all(ch));
}

static bool carry_out(qh_core *c)
{
    int n_before = c->n_running;
    bool did = preempt(c);
    for (int i = 0; i < c->n_heads; i++) {
        if (c->wait_verdict[i].action != QH_SCHED_RUN) continue;
        admit(c, i);
        did = true;
    }
    qh_batch_clear(&c->batch);
    for (int i = 0; i < n_before; i++)
        if (c->run_verdict[i].action != QH_SCHED_PREEMPT)
            add_rows(c, c->running[i], c->run_verdict[i].n_rows);
    for (int i = 0, at = n_before; i < c->n_heads; i++)
        if (c->wait_verdict[i].action == QH_SCHED_RUN)
            add_rows(c, c->running[at++], c->wait_verdict[i].n_rows);
    drop_finished(c);
    return did;
}

/* 4. Computing and drawing -----------------------------------------------------------------------*/

static bool compute(qh_core *c, const float **logits)
{
    qh_err err = {0};
    qh_status st = c->is_failed ? QH_EDEVICE : c->be->ops->submit(c->be, &c->batch.step, &err);
    if (!st) st = c->be->ops->wait(c->be, logits, &err);
    if (!st) return true;
    const char *message = err.msg[0] ? err.msg : c->failure[0] ? c->failure : qh_status_text(st);
    for (int i = 0; i < c->batch.step.n_seqs; i++) fail(c, c->batched[i], st, message);
    return false;
}

static int draw_one(qh_core *c, qh_choice *ch, const float *logits)
{
    if (ch->state != QH_CHOICE_RUNNING) return 0;
    qh_choice_draw(ch, &c->env, logits, now_us(c));
    if (!ch->job->gen->policy) return 1;
    c->asking[c->n_asking++] = ch;
    if (c->n_asking == TURNS_TOGETHER) send_turns(c);
    return 0;
}

/* The prompt's last row feeds every choice; the others fork first, so that all see the same past. */
static int draw_first(qh_core *c, qh_job *j, const float *logits)
{
    int n = 0;
    qh_job_fork(j, &c->env, now_us(c));
    for (int i = 0; i < j->n_choices; i++) {
        qh_choice *ch = &j->choices[i];
        if (i > 0 && ch->state == QH_CHOICE_RUNNING) c->running[c->n_running++] = ch;
        n += draw_one(c, ch, logits);
    }
    return n;
}

static int take_result(qh_core *c, int at, const float *logits)
{
    qh_choice *ch = c->batched[at];
    qh_seq *s = ch->seq;
    int n_rows = c->batch.step.seqs[at].n_rows, n_out = c->batch.n_outputs[at];
    bool scores = wants_all(ch);
    s->kv.n_tokens += n_rows;
    if (n_rows > 1 && c->env.prefix)
        qh_prefix_insert(c->env.prefix, s->salt, s->tokens.ids, &s->kv, false);
    const float *row = logits + (int64_t)c->batch.first_output[at] * c->n_logits;
    for (int i = 0; scores && i < n_out; i++) {
        qh_err err = {0};
        qh_status st = qh_choice_score_prompt(ch, &c->env, s->kv.n_tokens - n_out + i,
                                              row + (int64_t)i * c->n_logits, &err);
        if (!st) continue;
        fail(c, ch, st, err.msg);
        return 0;
    }
    if (qh_seq_n_pending(s) > 0) return 0;
    row += (int64_t)(n_out - 1) * c->n_logits;
    return ch->job->has_forked ? draw_one(c, ch, row) : draw_first(c, ch->job, row);
}

static bool run_batch(qh_core *c)
{
    const float *logits;
    if (c->batch.step.n_rows == 0) return false;
    int64_t begin = now_us(c);
    int n_drawn = 0;
    c->n_steps++;
    c->n_due = 0;
    if (compute(c, &logits))
        for (int i = 0; i < c->batch.step.n_seqs; i++) n_drawn += take_result(c, i, logits);
    send_turns(c);
    c->step_us = now_us(c) - begin;
    qh_stats_step(&c->stats, c->batch.step.n_rows, n_drawn, c->step_us);
    return true;
}

/* 5. Telling -------------------------------------------------------------------------------------*/

static bool tell_choice(qh_core *c, qh_choice *ch, bool *did_relieve)
{
    qh_event e;
    *did_relieve |= qh_choice_is_full(ch) && c->sink.has_room(c->sink.arg);
    while (c->sink.has_room(c->sink.arg)) {
        if (!qh_choice_tell(ch, &e)) return true;
        if (e.type == QH_EVENT_DONE) qh_stats_finished(&c->stats, &e.usage);
        c->sink.put(c->sink.arg, &e);
    }
    return false;
}

static void unlink_job(qh_core *c, qh_job *j)
{
    *(j->prev ? &j->prev->next : &c->first_job) = j->next;
    *(j->next ? &j->next->prev : &c->last_job) = j->prev;
}

/* True when a choice that sat out for its untold text may run again. */
static bool tell(qh_core *c)
{
    bool did_relieve = false;
    c->has_untold = false;
    for (qh_job *j = c->first_job, *next; j && !c->has_untold; j = next) {
        next = j->next;
        for (int i = 0; i < j->n_choices && !c->has_untold; i++)
            c->has_untold = !tell_choice(c, &j->choices[i], &did_relieve);
        if (!qh_job_is_told(j)) continue;
        unlink_job(c, j);
        qh_job_free(j);
    }
    return did_relieve;
}

bool qh_core_step(qh_core *c)
{
    bool did = false;
    heed(c);
    if (!c->is_failed) {
        decide(c);
        did = carry_out(c);
        did |= run_batch(c);
    }
    if (c->is_failed)
        for (qh_job *j = c->first_job; j; j = j->next)
            finish_job(c, j, QH_FINISH_ERROR, QH_EDEVICE, c->failure);
    drop_finished(c);
    if (c->n_answered) qh_stats_sampled(&c->stats, c->n_answered);
    c->n_answered = 0;
    did |= tell(c);
    qh_stats_set_gauges(&c->stats, c->n_running, c->n_queued, qh_kvpool_n_free(c->env.pool),
                        qh_kvpool_n_cached(c->env.pool));
    return did;
}

void qh_core_check(const qh_core *c)
{
    int n_waiting = 0, n_running = 0, n_listed = 0;
    qh_kvpool_check(c->env.pool);
    if (c->env.prefix) qh_prefix_check(c->env.prefix);
    for (const qh_job *j = c->first_job; j; j = j->next) {
        for (int i = 0; i < j->n_choices; i++) {
            const qh_choice *ch = &j->choices[i];
            n_waiting += ch->state == QH_CHOICE_WAITING;
            n_running += ch->state == QH_CHOICE_RUNNING;
            qh_assert((ch->seq != NULL) ==
                      (ch->state == QH_CHOICE_WAITING || ch->state == QH_CHOICE_RUNNING));
            if (ch->state == QH_CHOICE_WAITING) qh_assert(ch->seq->kv.n_pages == 0);
            if (ch->state == QH_CHOICE_RUNNING)
                qh_assert(ch->place != QH_TURN_HOME || qh_seq_n_pending(ch->seq) > 0);
        }
    }
    for (const qh_choice *ch = c->queue_head; ch; ch = ch->next) {
        qh_assert(!ch->next || goes_before(ch, ch->next));
        n_listed++;
    }
    qh_assert(n_waiting == n_listed && n_running == c->n_running &&
              n_running <= c->limits.max_seqs);
}
