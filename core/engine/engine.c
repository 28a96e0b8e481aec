/* engine.c - the engine's thread, its mailboxes and the slots of its jobs; see engine.h
 *
 * A job takes a slot in submit and gives it back when the last of its DONE events is polled; both happen
 * on the loop thread, which owns the table. What the two threads share of a slot is one word of flags, so
 * a cancel needs no room in a mailbox and cannot be lost.
 *
 * Turns of policies come home through a mailbox of their own, which has room for all that are out. The
 * thread never waits for a policy while others could run, with one exception that keeps a batch together:
 * what was asked in the last step is mostly answered within microseconds of its end, so the next step is
 * held back by at most a fiftieth of what the last one took. Who is later sits out. */
#include "base/mbox.h"
#include "base/mem.h"
#include "engine/step.h"

typedef struct {
    qh_job_id id;               /* 0: free. Loop thread */
    int n_left;                 /* choices that have not told their end. Loop thread */
    _Atomic unsigned flags;
} slot;

typedef struct {
    qh_job_id id;               /* 0: nothing but a nudge */
    qh_gen *gen;
    slot *slot;
    int64_t submitted_us;
} command;

struct qh_engine {
    qh_backend *be;
    qh_core *core;              /* engine thread, except for its limits and stats */
    qh_thread *thread;
    qh_clock *clock;
    qh_mbox *commands, *events;
    qh_mbox *turns;             /* that came home */
    _Atomic int n_at_door;      /* threads that bring one */
    int max_events;
    _Atomic bool is_nudged;     /* a nudge is under way */
    _Atomic bool has_untold;    /* events wait for room: poll nudges when it made some */
    slot *slots;
    int n_slots, max_queued;
};

enum { DEFAULT_MAX_QUEUED = 256, MIN_EVENTS = 1024, PATIENCE = 50 };

static _Atomic qh_job_id last_id;   /* ids are unique in the process */

/* Wakes the engine. Any thread. */
static void nudge(void *arg)
{
    qh_engine *e = arg;
    if (atomic_exchange(&e->is_nudged, true)) return;
    qh_mbox_put(e->commands, &(command){0});    /* full or closed: the engine is awake anyway */
}

/* Engine thread ----------------------------------------------------------------------------------*/

static bool has_room(void *arg)
{
    qh_engine *e = arg;
    return qh_mbox_len(e->events) < e->max_events;
}

static void put(void *arg, const qh_event *ev)
{
    qh_engine *e = arg;
    qh_status st = qh_mbox_put(e->events, ev);  /* the only sender, after has_room */
    qh_assert(st == QH_OK);
}

/* Any thread. n_at_door keeps the engine from being freed while the put still wakes its thread. */
static void bring_home(void *arg, qh_turn *t)
{
    qh_engine *e = arg;
    atomic_fetch_add(&e->n_at_door, 1);
    qh_status st = qh_mbox_put(e->turns, &t);
    qh_assert(st == QH_OK);     /* it has room for qh_core_max_asked and is closed by nobody */
    atomic_fetch_sub(&e->n_at_door, 1);
}

static void take_turns(qh_engine *e)
{
    qh_turn *t;
    while (!qh_mbox_take(e->turns, &t)) qh_core_take_turn(e->core, t);
}

/* Before the next batch is laid out: see the top. */
static void await_due_turns(qh_engine *e)
{
    take_turns(e);
    int64_t until = 0;
    while (qh_core_n_due(e->core) > 0) {
        int64_t now = qh_now_us();
        if (!until) until = now + qh_core_step_us(e->core) / PATIENCE;
        if (now >= until || qh_mbox_wait(e->turns, until - now)) return;
        take_turns(e);
    }
}

/* False when the engine is closing. */
static bool take_commands(qh_engine *e)
{
    command cmd;
    qh_status st;
    atomic_store(&e->is_nudged, false);
    while (!(st = qh_mbox_take(e->commands, &cmd)))
        if (cmd.id) qh_core_submit(e->core, cmd.id, cmd.gen, &cmd.slot->flags, cmd.submitted_us);
    return st == QH_AGAIN;
}

static void run(void *arg)
{
    qh_engine *e = arg;
    while (take_commands(e)) {
        await_due_turns(e);
        bool did = qh_core_step(e->core);
        bool has_untold = qh_core_has_untold(e->core);
        atomic_store(&e->has_untold, has_untold);
        if (did || (has_untold && has_room(e))) continue;   /* room made before poll could know that we want it */
        int64_t wake_us = qh_core_wake_us(e->core), now = e->clock->now_us(e->clock);
        if (wake_us <= now) continue;
        qh_mbox_wait(e->commands, wake_us == INT64_MAX ? -1 : wake_us - now);
    }
}

/* Opening and closing ----------------------------------------------------------------------------*/

qh_status qh_engine_new(qh_engine **out, qh_backend *be, const qh_desc *desc,
                        const qh_tokenizer *tok, const qh_engine_config *cfg, qh_err *err)
{
    *out = NULL;
    const qh_vocab *own = be->ops->caps(be)->vocab, *vocab = own   ? own
                                                             : tok ? qh_tokenizer_vocab(tok)
                                                                   : NULL;
    if (!vocab)
        return qh_fail(err, QH_EINVAL, "backend '%s' has no vocabulary and no tokenizer was given",
                       be->ops->caps(be)->name);
    qh_engine *e = qh_new0(qh_engine);
    e->clock = cfg->clock ? cfg->clock : &qh_clock_real;
    e->max_queued = cfg->max_queued ? cfg->max_queued : DEFAULT_MAX_QUEUED;
    qh_event_sink sink = {.has_room = has_room, .put = put, .home = bring_home, .arg = e};
    qh_status st = qh_core_new(&e->core, be, desc, vocab, cfg, sink, err);
    if (st) goto fail;
    int max_seqs = qh_core_limits(e->core)->max_seqs;
    e->n_slots = e->max_queued + 2 * max_seqs;
    e->max_events = 4 * e->n_slots > MIN_EVENTS ? 4 * e->n_slots : MIN_EVENTS;
    e->slots = qh_try_alloc0((size_t)e->n_slots, sizeof *e->slots);
    if (!e->slots) st = qh_fail(err, QH_ENOMEM, "no memory for a queue of %d jobs", e->max_queued);
    if (!st) st = qh_mbox_new(&e->commands, sizeof(command), e->n_slots + 1, (qh_wakeup){0}, err);
    if (!st)
        st = qh_mbox_new(&e->turns, sizeof(qh_turn *), qh_core_max_asked(e->core),
                         (qh_wakeup){nudge, e}, err);
    if (!st) st = qh_mbox_new(&e->events, sizeof(qh_event), e->max_events, cfg->on_events, err);
    if (!st) st = qh_thread_start(&e->thread, "qh-engine", run, e, err);
    if (st) goto fail;
    e->be = be;
    *out = e;
    return QH_OK;
fail:
    qh_engine_free(e);
    return st;
}

/* Every turn comes home, for a policy's thread answers all that it was asked before it ends. */
static void await_all_turns(qh_engine *e)
{
    while (e->core && qh_core_n_asked(e->core) > 0) {
        qh_mbox_wait(e->turns, -1);
        take_turns(e);
    }
    while (atomic_load(&e->n_at_door)) qh_sleep_us(50);
}

void qh_engine_free(qh_engine *e)
{
    if (!e) return;
    command cmd;
    qh_event ev;
    if (e->commands) qh_mbox_close(e->commands);
    qh_thread_join(e->thread);
    while (e->commands && qh_mbox_take(e->commands, &cmd) == QH_OK) qh_gen_free(cmd.gen);
    while (e->events && qh_mbox_take(e->events, &ev) == QH_OK) qh_event_deinit(&ev);
    await_all_turns(e);
    qh_mbox_free(e->commands);
    qh_mbox_free(e->events);
    qh_mbox_free(e->turns);
    qh_core_free(e->core);
    qh_backend_close(e->be);
    qh_free(e->slots);
    qh_free(e);
}

/* Loop thread ------------------------------------------------------------------------------------*/

static slot *find_slot(qh_engine *e, qh_job_id id)
{
    for (int i = 0; i < e->n_slots; i++)
        if (e->slots[i].id == id) return &e->slots[i];
    return NULL;
}

static int count_queued(qh_engine *e)
{
    int n = 0;
    for (int i = 0; i < e->n_slots; i++)
        n += e->slots[i].id &&
             !(atomic_load_explicit(&e->slots[i].flags, memory_order_relaxed) & QH_FLAG_STARTED);
    return n;
}

qh_status qh_engine_submit(qh_engine *e, qh_gen *gen, qh_job_id *out_id, qh_err *err)
{
    *out_id = 0;
    qh_engine_stats now;
    qh_stats_get(qh_core_stats(e->core), &now);
    if (now.is_failed)
        return qh_fail(err, QH_EDEVICE, "the device failed; the model must be loaded again");
    qh_status st = qh_gen_check(gen, qh_core_limits(e->core), err);
    if (st) return st;
    slot *s = find_slot(e, 0);
    int n_queued = count_queued(e);
    if (!s || n_queued >= e->max_queued)
        return qh_fail(err, QH_AGAIN, "the queue is full: %d requests wait", n_queued);
    command cmd = {.id = atomic_fetch_add(&last_id, 1) + 1,
                   .gen = gen,
                   .slot = s,
                   .submitted_us = e->clock->now_us(e->clock)};
    s->id = cmd.id;
    s->n_left = gen->n_choices;
    atomic_store(&s->flags, 0);
    st = qh_mbox_put(e->commands, &cmd);
    if (st) {
        s->id = 0;
        return qh_fail(err, st, "the engine takes no requests: %s", qh_status_text(st));
    }
    *out_id = cmd.id;
    return QH_OK;
}

void qh_engine_cancel(qh_engine *e, qh_job_id id)
{
    slot *s = id ? find_slot(e, id) : NULL;
    if (!s) return;
    atomic_fetch_or(&s->flags, QH_FLAG_CANCEL);
    nudge(e);
}

void qh_engine_pause(qh_engine *e, qh_job_id id, bool is_paused)
{
    slot *s = id ? find_slot(e, id) : NULL;
    if (!s) return;
    if (is_paused) {
        atomic_fetch_or(&s->flags, QH_FLAG_PAUSED);
        return;
    }
    atomic_fetch_and(&s->flags, ~(unsigned)QH_FLAG_PAUSED);
    nudge(e);
}

qh_status qh_engine_poll(qh_engine *e, qh_event *out)
{
    qh_status st = qh_mbox_take(e->events, out);
    if (st) {
        *out = (qh_event){0};
        if (atomic_load(&e->has_untold)) nudge(e);
        return st;
    }
    if (out->type != QH_EVENT_DONE) return QH_OK;
    slot *s = find_slot(e, out->job);
    if (--s->n_left == 0) s->id = 0;
    return QH_OK;
}

int qh_engine_max_context(const qh_engine *e) { return qh_core_limits(e->core)->max_context; }
void qh_engine_get_stats(qh_engine *e, qh_engine_stats *out)
{
    qh_stats_get(qh_core_stats(e->core), out);
}
