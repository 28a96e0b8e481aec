/* sched.h - who runs in the next step, with how many rows, who is admitted and who is preempted.
 *
 * A pure function of counts: it reads no clock, touches no page and remembers nothing, so that it is
 * tested by simulation. The step gathers the counts, asks, and carries the verdicts out.
 *
 * The rules, in order:
 *  1. Admission, in queue order and never past one that does not fit: a sequence enters when there is a
 *     slot and when the pages it needs for all its tokens are left over by those that run. The first may
 *     preempt stalled sequences and ones of lower priority, and then enters alone.
 *  2. Rows: decode first, then the oldest prefill, higher priority before lower; but who has been ready
 *     and passed over for QH_SCHED_STARVED steps comes before everyone.
 *  3. Pages, from the most senior sequence (priority, then age) down: one that lacks a page takes fewer
 *     rows if that helps, else preempts stalled sequences, then the most junior ones; the most senior one
 *     can preempt everyone, so something always advances. Who can preempt nobody sits out the step.
 *
 * Thread: any. */
#pragma once
#include "engine/kvtable.h"

enum { QH_SCHED_STARVED = 32 };

typedef struct {
    int priority;               /* larger is sooner */
    int64_t order;              /* of arrival; smaller is older */
    int n_pending;              /* tokens whose keys and values are not computed; at least 1 */
    int n_room;                 /* tokens that fit the pages it holds (waiting: the ones it would find cached) */
    qh_page shared_tail;        /* the page its next write must copy, or QH_NO_PAGE */
    int n_tail_refs;            /* references to it */
    int n_slots;                /* sequences it stands for: choices that have not forked yet */
    bool wants_all;             /* every row gives logits, not only the last */
    /* running only */
    int n_released;             /* pages that become free or idle when it is preempted, at least */
    int n_passed_over;          /* steps in a row in which it was ready and got no rows */
    bool is_ready;              /* may run: not paused */
    bool is_stalled;            /* paused for long: the first to go */
    /* waiting only */
    int n_hit, n_idle;          /* cached pages it would use, and how many of them are idle now */
} qh_sched_seq;

typedef struct {
    const qh_sched_seq *running;
    const qh_sched_seq *waiting;    /* in queue order */
    int n_running, n_waiting;
    int n_pages;                    /* free and idle pages */
    int n_slots;                    /* sequences that may run at once */
    int max_rows, max_outputs;      /* of a step */
} qh_sched_state;

typedef enum { QH_SCHED_SIT, QH_SCHED_RUN, QH_SCHED_PREEMPT } qh_sched_action;

typedef struct {
    qh_sched_action action;         /* of a waiting one: SIT stays in the queue, RUN is admitted */
    int n_rows;                     /* with RUN; 0: admitted, but no rows yet */
} qh_sched_verdict;

/* running[n_running] and waiting[n_waiting] receive the verdicts. scratch: [n_running + n_waiting]. */
void qh_sched_decide(const qh_sched_state *s, qh_sched_verdict *running, qh_sched_verdict *waiting,
                     int *scratch);
