/* sched.c - see sched.h */
#include "engine/sched.h"
#include <limits.h>

typedef struct {
    const qh_sched_state *s;
    qh_sched_verdict *run, *wait;
    int *order;                 /* indexes; waiting sequence i is n_running + i */
    int n_order;
    int n_pages;                /* not yet promised to anyone */
    int n_slots;
    bool has_preempted;         /* for the one that is admitted */
} plan;

static const qh_sched_seq *seq_at(const plan *p, int i)
{
    int n = p->s->n_running;
    return i < n ? &p->s->running[i] : &p->s->waiting[i - n];
}

static qh_sched_verdict *verdict_at(plan *p, int i)
{
    int n = p->s->n_running;
    return i < n ? &p->run[i] : &p->wait[i - n];
}

static int new_pages(const qh_sched_seq *q, int n_rows)
{
    return n_rows > q->n_room ? qh_pages_for(n_rows - q->n_room) : 0;
}

static int pages_needed(const qh_sched_seq *q, int n_rows)
{
    return new_pages(q, n_rows) + (n_rows > 0 && q->shared_tail != QH_NO_PAGE);
}

static bool is_senior(const qh_sched_seq *a, const qh_sched_seq *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->order < b->order;
}

/* 1. Admission -----------------------------------------------------------------------------------*/

/* Whom to preempt among those that are stalled or satisfy is_prey: a stalled one before the others, the
 * most junior first. -1: nobody. */
static int pick_victim(const plan *p, const qh_sched_seq *by,
                       bool (*is_prey)(const qh_sched_seq *, const qh_sched_seq *))
{
    int best = -1;
    for (int i = 0; i < p->s->n_running; i++) {
        const qh_sched_seq *q = &p->s->running[i];
        if (q == by || p->run[i].action == QH_SCHED_PREEMPT) continue;
        if (!q->is_stalled && !is_prey(q, by)) continue;
        const qh_sched_seq *b = best < 0 ? NULL : &p->s->running[best];
        if (!b || (q->is_stalled != b->is_stalled ? q->is_stalled : is_senior(b, q))) best = i;
    }
    return best;
}

static bool has_lower_priority(const qh_sched_seq *q, const qh_sched_seq *by)
{
    return q->priority < by->priority;
}
static bool is_junior(const qh_sched_seq *q, const qh_sched_seq *by) { return is_senior(by, q); }

/* A cushion for those that decode: a quarter of them reach a page's end within the next 16 steps. */
static int cushion(const plan *p)
{
    int n = 0;
    for (int i = 0; i < p->s->n_running; i++) n += p->run[i].action != QH_SCHED_PREEMPT;
    return n / 4;
}

/* Would preempting everybody it may preempt make room for w? Checked first: nobody is preempted in vain. */
static bool can_ever_fit(const plan *p, const qh_sched_seq *w, int n_need)
{
    int n_pages = p->n_pages, n_slots = p->n_slots, n_left = 0;
    for (int i = 0; i < p->s->n_running; i++) {
        const qh_sched_seq *q = &p->s->running[i];
        if (p->run[i].action == QH_SCHED_PREEMPT) continue;
        if (!q->is_stalled && !has_lower_priority(q, w)) {
            n_left++;
            continue;
        }
        n_pages += q->n_released + pages_needed(q, q->n_pending);
        n_slots += q->n_slots;
    }
    return n_slots >= w->n_slots && n_pages - n_left / 4 >= n_need;
}

static bool admit_into_room(plan *p, const qh_sched_seq *w)
{
    int n_need = pages_needed(w, w->n_pending) + w->n_idle;
    if (p->n_slots < w->n_slots || p->n_pages - cushion(p) < n_need) return false;
    p->n_pages -= n_need;
    p->n_slots -= w->n_slots;
    return true;
}

/* The cached pages it would use may be those of its victims, so all of them are counted. */
static bool admit_by_preempting(plan *p, const qh_sched_seq *w)
{
    int n_need = pages_needed(w, w->n_pending) + w->n_hit;
    if (!can_ever_fit(p, w, n_need)) return false;
    while (p->n_slots < w->n_slots || p->n_pages - cushion(p) < n_need) {
        int v = pick_victim(p, w, has_lower_priority);
        const qh_sched_seq *q = &p->s->running[v];
        p->run[v].action = QH_SCHED_PREEMPT;
        p->n_pages += q->n_released + pages_needed(q, q->n_pending);
        p->n_slots += q->n_slots;
    }
    return true;
}

/* Who preempts enters alone: nobody else's count of cached pages has to change with the victims. */
static void admit_in_order(plan *p)
{
    p->n_slots = p->s->n_slots;
    p->n_pages = p->s->n_pages;
    for (int i = 0; i < p->s->n_running; i++) {
        const qh_sched_seq *q = &p->s->running[i];
        p->n_slots -= q->n_slots;
        p->n_pages -= pages_needed(q, q->n_pending);
    }
    int n = 0;
    while (n < p->s->n_waiting && admit_into_room(p, &p->s->waiting[n]))
        p->wait[n++].action = QH_SCHED_RUN;
    if (n > 0 || p->s->n_waiting == 0 || !admit_by_preempting(p, &p->s->waiting[0])) return;
    p->wait[0].action = QH_SCHED_RUN;
    p->has_preempted = true;
}

/* 2. Rows ----------------------------------------------------------------------------------------*/

static bool goes_first(const qh_sched_seq *a, const qh_sched_seq *b)
{
    int starved_a = a->n_passed_over >= QH_SCHED_STARVED ? a->n_passed_over : 0;
    int starved_b = b->n_passed_over >= QH_SCHED_STARVED ? b->n_passed_over : 0;
    if (starved_a != starved_b) return starved_a > starved_b;
    if ((a->n_pending == 1) != (b->n_pending == 1)) return a->n_pending == 1;
    return is_senior(a, b);
}

static void sort_order(plan *p, bool (*before)(const qh_sched_seq *, const qh_sched_seq *))
{
    for (int i = 1; i < p->n_order; i++) {
        int x = p->order[i], j = i;
        for (; j > 0 && before(seq_at(p, x), seq_at(p, p->order[j - 1])); j--)
            p->order[j] = p->order[j - 1];
        p->order[j] = x;
    }
}

/* A mark in n_rows while the plan is made: no page for it in this step, so it gets no rows either. */
enum { NO_PAGE = -1 };

static void list_candidates(plan *p)
{
    p->n_order = 0;
    for (int i = 0; i < p->s->n_running; i++) {
        if (!p->s->running[i].is_ready || p->run[i].action == QH_SCHED_PREEMPT ||
            p->run[i].n_rows == NO_PAGE)
            continue;
        p->run[i] = (qh_sched_verdict){QH_SCHED_SIT, 0};
        p->order[p->n_order++] = i;
    }
    for (int i = 0; i < p->s->n_waiting && p->wait[i].action == QH_SCHED_RUN; i++) {
        p->wait[i].n_rows = 0;
        p->order[p->n_order++] = p->s->n_running + i;
    }
}

static void hand_out_rows(plan *p)
{
    int n_rows = p->s->max_rows, n_outputs = p->s->max_outputs;
    sort_order(p, goes_first);
    for (int i = 0; i < p->n_order; i++) {
        const qh_sched_seq *q = seq_at(p, p->order[i]);
        int n = q->n_pending < n_rows ? q->n_pending : n_rows;
        if (q->wants_all && n > n_outputs) n = n_outputs;
        if (n == q->n_pending && n_outputs == 0) n--;       /* its last row would need an output */
        if (n <= 0) continue;
        n_rows -= n;
        n_outputs -= q->wants_all ? n : n == q->n_pending;
        *verdict_at(p, p->order[i]) = (qh_sched_verdict){QH_SCHED_RUN, n};
    }
}

/* 3. Pages ---------------------------------------------------------------------------------------*/

/* A tail shared by two that both write in this step is copied once: the second finds itself alone. */
static bool is_left_alone(plan *p, int n_done, const qh_sched_seq *q)
{
    int n_refs = q->n_tail_refs;
    for (int i = 0; i < n_done; i++)
        n_refs -= verdict_at(p, p->order[i])->n_rows > 0 &&
                  seq_at(p, p->order[i])->shared_tail == q->shared_tail;
    return n_refs <= 1;
}

static int rows_that_fit(const qh_sched_seq *q, int n_copies, int n_pages)
{
    if (n_pages < n_copies) return 0;
    int64_t n = q->n_room + (int64_t)(n_pages - n_copies) * QH_PAGE_TOKENS;
    return n > INT_MAX ? INT_MAX : (int)n;
}

static void count_pages(plan *p)
{
    p->n_pages = p->s->n_pages;
    for (int i = 0; i < p->s->n_running; i++)
        if (p->run[i].action == QH_SCHED_PREEMPT) p->n_pages += p->s->running[i].n_released;
    for (int i = 0; i < p->s->n_waiting; i++)
        if (p->wait[i].action == QH_SCHED_RUN)
            p->n_pages -= p->has_preempted ? p->s->waiting[i].n_hit : p->s->waiting[i].n_idle;
}

/* True when a sequence that had rows lost them all: others may have use for them. */
static bool hand_out_pages(plan *p)
{
    bool has_lost = false;
    count_pages(p);
    sort_order(p, is_senior);
    for (int i = 0; i < p->n_order; i++) {
        const qh_sched_seq *q = seq_at(p, p->order[i]);
        qh_sched_verdict *v = verdict_at(p, p->order[i]);
        if (v->n_rows == 0) continue;
        int n_copies = q->shared_tail != QH_NO_PAGE && !is_left_alone(p, i, q);
        int n_fit = rows_that_fit(q, n_copies, p->n_pages), prey;
        while (n_fit == 0 && (prey = pick_victim(p, q, is_junior)) >= 0) {
            has_lost |= p->run[prey].n_rows > 0;
            p->run[prey] = (qh_sched_verdict){QH_SCHED_PREEMPT, 0};
            p->n_pages += p->s->running[prey].n_released;
            n_fit = rows_that_fit(q, n_copies, p->n_pages);
        }
        if (v->n_rows > n_fit) v->n_rows = n_fit;
        if (v->n_rows > 0) {
            p->n_pages -= n_copies + new_pages(q, v->n_rows);
        } else if (p->order[i] < p->s->n_running) {     /* admitted ones were promised theirs */
            *v = (qh_sched_verdict){QH_SCHED_SIT, NO_PAGE};
            has_lost = true;
        }
    }
    return has_lost;
}

void qh_sched_decide(const qh_sched_state *s, qh_sched_verdict *running, qh_sched_verdict *waiting,
                     int *scratch)
{
    plan p = {.s = s, .run = running, .wait = waiting, .order = scratch};
    for (int i = 0; i < s->n_running; i++) running[i] = (qh_sched_verdict){QH_SCHED_SIT, 0};
    for (int i = 0; i < s->n_waiting; i++) waiting[i] = (qh_sched_verdict){QH_SCHED_SIT, 0};
    admit_in_order(&p);
    do {                        /* each round takes one more sequence out, so it ends */
        list_candidates(&p);
        hand_out_rows(&p);
    } while (hand_out_pages(&p));
    for (int i = 0; i < s->n_running; i++)
        if (running[i].n_rows == NO_PAGE) running[i].n_rows = 0;
}
