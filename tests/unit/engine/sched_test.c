/* The scheduler's decision on chosen and on random states. */
#include "test.h"
#include "base/rng.h"
#include "engine/sched.h"

enum { MAX_SEQS = 16 };

typedef struct {
    qh_sched_seq running[MAX_SEQS], waiting[MAX_SEQS];
    qh_sched_verdict run[MAX_SEQS], wait[MAX_SEQS];
    qh_sched_state s;
    int64_t next_order;
} table;

static table a_table(int n_pages, int max_rows)
{
    return (table){.s = {.n_pages = n_pages,
                         .n_slots = MAX_SEQS,
                         .max_rows = max_rows,
                         .max_outputs = MAX_SEQS}};
}

/* A ready sequence of the next age, with its pages full but for n_room tokens. */
static qh_sched_seq *add_running(table *t, int n_pending, int n_room)
{
    qh_sched_seq *q = &t->running[t->s.n_running++];
    *q = (qh_sched_seq){.order = t->next_order++, .n_pending = n_pending, .n_room = n_room, .shared_tail = QH_NO_PAGE,
                        .n_slots = 1, .n_released = 1, .is_ready = true};
    return q;
}

static qh_sched_seq *add_waiting(table *t, int n_pending)
{
    qh_sched_seq *q = &t->waiting[t->s.n_waiting++];
    *q = (qh_sched_seq){.order = t->next_order++, .n_pending = n_pending, .shared_tail = QH_NO_PAGE, .n_slots = 1};
    return q;
}

static void decide(table *t)
{
    int scratch[2 * MAX_SEQS];
    t->s.running = t->running;
    t->s.waiting = t->waiting;
    qh_sched_decide(&t->s, t->run, t->wait, scratch);
}

TEST(decode_goes_first_then_the_oldest_prefill_takes_what_is_left)
{
    table t = a_table(100, 100);
    add_running(&t, 300, 0);
    add_running(&t, 200, 0);
    add_running(&t, 1, 5);
    add_running(&t, 1, 5);
    decide(&t);
    CHECK_INT(t.run[2].n_rows, 1);
    CHECK_INT(t.run[3].n_rows, 1);
    CHECK_INT(t.run[0].n_rows, 98);
    CHECK_INT(t.run[1].n_rows, 0);
    CHECK_INT(t.run[1].action, QH_SCHED_SIT);
}

TEST(a_prefill_of_higher_priority_goes_before_an_older_one)
{
    table t = a_table(100, 64);
    add_running(&t, 300, 0);
    add_running(&t, 40, 0)->priority = 1;
    decide(&t);
    CHECK_INT(t.run[1].n_rows, 40);
    CHECK_INT(t.run[0].n_rows, 24);
}

TEST(who_was_passed_over_for_long_comes_before_everyone)
{
    table t = a_table(100, 2);
    for (int i = 0; i < 3; i++) add_running(&t, 1, 5);
    add_running(&t, 50, 0)->n_passed_over = QH_SCHED_STARVED;
    decide(&t);
    CHECK_INT(t.run[3].n_rows, 2);
    t.running[3].n_passed_over--;
    decide(&t);
    CHECK_INT(t.run[3].n_rows, 0);
}

TEST(rows_that_want_logits_stay_within_the_outputs)
{
    table t = a_table(100, 100);
    t.s.max_outputs = 10;
    add_running(&t, 1, 5);
    add_running(&t, 40, 0)->wants_all = true;
    add_running(&t, 20, 0);
    decide(&t);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.run[1].n_rows, 9);
    CHECK_INT(t.run[2].n_rows, 19);         /* all but the row that would need logits */
}

TEST(waiting_sequences_enter_in_order_and_none_passes_one_that_does_not_fit)
{
    table t = a_table(10, 1000);
    add_waiting(&t, 4 * QH_PAGE_TOKENS);
    add_waiting(&t, 7 * QH_PAGE_TOKENS);
    add_waiting(&t, 1);
    decide(&t);
    CHECK_INT(t.wait[0].action, QH_SCHED_RUN);
    CHECK_INT(t.wait[0].n_rows, 4 * QH_PAGE_TOKENS);
    CHECK_INT(t.wait[1].action, QH_SCHED_SIT);
    CHECK_INT(t.wait[2].action, QH_SCHED_SIT);
}

TEST(admission_leaves_running_prefills_the_pages_of_their_whole_prompt)
{
    table t = a_table(10, 64);
    add_running(&t, 8 * QH_PAGE_TOKENS, 0);
    add_waiting(&t, 3 * QH_PAGE_TOKENS);
    decide(&t);
    CHECK_INT(t.wait[0].action, QH_SCHED_SIT);
    t.s.n_pages = 11;
    decide(&t);
    CHECK_INT(t.wait[0].action, QH_SCHED_RUN);
    CHECK_INT(t.wait[0].n_rows, 0);         /* the older prefill took the rows */
}

TEST(a_job_of_many_choices_needs_as_many_slots)
{
    table t = a_table(100, 64);
    t.s.n_slots = 4;
    add_running(&t, 1, 5)->n_slots = 2;
    add_waiting(&t, 10)->n_slots = 3;
    decide(&t);
    CHECK_INT(t.wait[0].action, QH_SCHED_SIT);
    t.running[0].n_slots = 1;
    decide(&t);
    CHECK_INT(t.wait[0].action, QH_SCHED_RUN);
}

TEST(without_a_page_the_youngest_is_preempted_and_nobody_senior)
{
    table t = a_table(0, 100);
    for (int i = 0; i < 4; i++) add_running(&t, 1, 0);
    decide(&t);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.run[1].n_rows, 1);
    CHECK_INT(t.run[2].action, QH_SCHED_PREEMPT);
    CHECK_INT(t.run[3].action, QH_SCHED_PREEMPT);
    t.running[3].priority = 1;              /* now the youngest is the most senior */
    decide(&t);
    CHECK_INT(t.run[3].n_rows, 1);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.run[1].action, QH_SCHED_PREEMPT);
    CHECK_INT(t.run[2].action, QH_SCHED_PREEMPT);
}

TEST(a_prefill_takes_fewer_rows_before_it_preempts)
{
    table t = a_table(1, 1000);
    add_running(&t, 300, 10);
    add_running(&t, 1, 3);
    decide(&t);
    CHECK_INT(t.run[0].n_rows, 10 + QH_PAGE_TOKENS);
    CHECK_INT(t.run[1].n_rows, 1);
}

TEST(a_stalled_sequence_is_the_first_to_go_even_if_senior)
{
    table t = a_table(0, 100);
    qh_sched_seq *old = add_running(&t, 1, 5);
    add_running(&t, 1, 0);
    add_running(&t, 1, 3);
    old->is_ready = false;
    old->is_stalled = true;
    decide(&t);
    CHECK_INT(t.run[0].action, QH_SCHED_PREEMPT);
    CHECK_INT(t.run[1].n_rows, 1);
    CHECK_INT(t.run[2].n_rows, 1);
}

TEST(rows_of_one_that_gets_no_page_go_to_the_others)
{
    table t = a_table(0, 4);
    add_running(&t, 1, 3);
    qh_sched_seq *blocked = add_running(&t, 50, 0);
    blocked->n_passed_over = 2 * QH_SCHED_STARVED;
    decide(&t);
    CHECK_INT(t.run[1].action, QH_SCHED_SIT);
    CHECK_INT(t.run[0].n_rows, 1);
}

TEST(a_shared_tail_costs_one_copy_for_all_but_the_last_that_writes)
{
    table t = a_table(1, 100);
    for (int i = 0; i < 2; i++) {
        qh_sched_seq *q = add_running(&t, 1, 30);
        q->shared_tail = 5, q->n_tail_refs = 2;
    }
    decide(&t);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.run[1].n_rows, 1);
    t.running[0].n_tail_refs = t.running[1].n_tail_refs = 3;    /* somebody else holds it too */
    decide(&t);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.run[1].action, QH_SCHED_SIT);
}

TEST(higher_priority_takes_slots_and_pages_of_lower_and_equal_does_not)
{
    table t = a_table(0, 100);
    t.s.n_slots = 2;
    add_running(&t, 1, 5);
    add_running(&t, 1, 5)->priority = -1;
    add_waiting(&t, 20);
    decide(&t);
    CHECK_INT(t.run[1].action, QH_SCHED_PREEMPT);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.wait[0].n_rows, 20);
    t.running[1].priority = 0;
    decide(&t);
    CHECK_INT(t.wait[0].action, QH_SCHED_SIT);
    CHECK_INT(t.run[1].n_rows, 1);
}

TEST(nobody_is_preempted_for_one_who_would_not_fit_anyway)
{
    table t = a_table(0, 100);
    add_running(&t, 1, 5);
    add_waiting(&t, 5 * QH_PAGE_TOKENS)->priority = 3;
    decide(&t);
    CHECK_INT(t.run[0].n_rows, 1);
    CHECK_INT(t.wait[0].action, QH_SCHED_SIT);
}

/* Random states ----------------------------------------------------------------------------------*/

static uint64_t luck;
static int between(int lo, int hi)
{
    return lo + (int)(qh_rng_philox(luck++, 10, 11).v[0] % (uint32_t)(hi - lo + 1));
}

static void random_seq(qh_sched_seq *q)
{
    q->priority = between(-1, 1);
    if (between(0, 3) == 0)
        q->shared_tail = between(0, 3), q->n_tail_refs = between(2, 3), q->n_room = between(1, 63);
    q->wants_all = between(0, 5) == 0;
}

static table random_table(void)
{
    table t = a_table(between(0, 12), between(1, 200));
    int n_running = between(0, 8), n_waiting = between(0, 5);
    t.s.max_outputs = between(1, 12);
    t.s.n_slots = 0;
    for (int i = 0; i < n_running; i++) {
        qh_sched_seq *q = add_running(&t, between(0, 1) ? 1 : between(1, 300), between(0, 63));
        random_seq(q);
        q->n_released = between(0, 4);
        q->n_passed_over = between(0, 3) ? 0 : between(0, 100);
        q->is_ready = between(0, 5) > 0;
        q->is_stalled = !q->is_ready && between(0, 1);
        q->n_slots = between(0, 3) ? 1 : between(1, 3);
        t.s.n_slots += q->n_slots;
    }
    t.s.n_slots += between(0, 3);
    for (int i = 0; i < n_waiting; i++) {
        qh_sched_seq *q = add_waiting(&t, between(1, 300));
        random_seq(q);
        q->n_room = q->shared_tail == QH_NO_PAGE ? 0 : q->n_room;
        q->n_hit = between(q->n_room > 0, 3), q->n_idle = between(0, q->n_hit);
        q->n_slots = between(0, 3) ? 1 : between(1, 3);
    }
    return t;
}

static bool is_senior(const qh_sched_seq *a, const qh_sched_seq *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->order < b->order;
}

typedef struct {
    int n_rows, n_outputs, n_slots, n_new_pages, n_tails, n_ran;
} totals;

static void add_up(totals *sum, const qh_sched_seq *q, const qh_sched_verdict *v)
{
    sum->n_slots += q->n_slots;
    if (v->n_rows == 0) return;
    CHECK(v->action == QH_SCHED_RUN && v->n_rows > 0 && v->n_rows <= q->n_pending);
    sum->n_ran++;
    sum->n_rows += v->n_rows;
    sum->n_outputs += q->wants_all ? v->n_rows : v->n_rows == q->n_pending;
    if (v->n_rows > q->n_room) sum->n_new_pages += qh_pages_for(v->n_rows - q->n_room);
    sum->n_tails += q->shared_tail != QH_NO_PAGE;
}

static void check_verdicts(const table *t)
{
    totals sum = {0};
    int n_gained = 0, n_admitted = 0, n_preempted = 0, n_pinned = 0;
    bool is_blocked = false;
    for (int i = 0; i < t->s.n_waiting; i++) {
        bool is_in = t->wait[i].action == QH_SCHED_RUN;
        CHECK(!(is_in && is_blocked));
        is_blocked |= !is_in;
        if (!is_in) continue;
        n_admitted++;
        n_pinned += t->waiting[i].n_idle;
        add_up(&sum, &t->waiting[i], &t->wait[i]);
    }
    for (int i = 0; i < t->s.n_running; i++) {
        const qh_sched_seq *q = &t->running[i];
        if (t->run[i].action != QH_SCHED_PREEMPT) {
            add_up(&sum, q, &t->run[i]);
            if (!q->is_ready) CHECK_INT(t->run[i].n_rows, 0);
            continue;
        }
        bool has_cause = q->is_stalled;
        for (int k = 0; k < t->s.n_running; k++)
            has_cause |= t->run[k].n_rows > 0 && is_senior(&t->running[k], q);
        for (int k = 0; k < n_admitted; k++) has_cause |= t->waiting[k].priority > q->priority;
        for (int k = 0; k < t->s.n_running; k++)                /* its preemptor took its pages and sits after all */
            has_cause |= t->run[k].action != QH_SCHED_PREEMPT && t->running[k].is_ready &&
                         is_senior(&t->running[k], q);
        CHECK(has_cause);
        n_preempted++;
        n_gained += q->n_released;
    }
    CHECK(sum.n_rows <= t->s.max_rows && sum.n_outputs <= t->s.max_outputs);
    CHECK(n_admitted == 0 || sum.n_slots <= t->s.n_slots);
    CHECK(sum.n_new_pages + n_pinned <= t->s.n_pages + n_gained);
    CHECK(n_preempted == 0 || n_admitted <= 1);
}

/* If every page held were given back, the most senior ready one could run: then somebody does. */
static void check_progress(const table *t)
{
    const qh_sched_seq *first = NULL;
    int n_pages = t->s.n_pages, n_ran = 0;
    for (int i = 0; i < t->s.n_running; i++) {
        const qh_sched_seq *q = &t->running[i];
        n_ran += t->run[i].n_rows > 0;
        if (q->is_ready && (!first || is_senior(q, first))) first = q;
    }
    for (int i = 0; i < t->s.n_waiting; i++) n_ran += t->wait[i].n_rows > 0;
    if (!first) return;
    for (int i = 0; i < t->s.n_running; i++) {
        const qh_sched_seq *q = &t->running[i];
        if (q != first && (q->is_stalled || is_senior(first, q))) n_pages += q->n_released;
    }
    if (n_pages >= 1 + (first->shared_tail != QH_NO_PAGE)) CHECK(n_ran > 0);
}

TEST(random_states_keep_every_promise)
{
    for (int run = 0; run < 60000; run++) {
        luck = (uint64_t)run << 16;
        table t = random_table(), again;
        decide(&t);
        check_verdicts(&t);
        check_progress(&t);
        again = t;
        decide(&again);
        CHECK(!memcmp(again.run, t.run, sizeof t.run) &&
              !memcmp(again.wait, t.wait, sizeof t.wait));
    }
}
TEST(with_pages_for_all_everyone_advances_within_a_bounded_number_of_steps)
{
    for (int run = 0; run < 200; run++) {
        luck = (uint64_t)run << 16 | 1u << 15;
        table t = a_table(1000, between(1, 4));
        t.s.max_outputs = between(1, 4);
        int n = between(1, MAX_SEQS), worst = 0;
        for (int i = 0; i < n; i++) random_seq(add_running(&t, between(0, 1) ? 1 : 1000000, 30));
        for (int step = 0; step < 600; step++) {        /* endless decodes beside endless prefills */
            decide(&t);
            for (int i = 0; i < n; i++) {
                qh_sched_seq *q = &t.running[i];
                q->n_passed_over = t.run[i].n_rows ? 0 : q->n_passed_over + 1;
                if (q->n_passed_over > worst) worst = q->n_passed_over;
            }
        }
        CHECK(worst <= QH_SCHED_STARVED + n);
    }
}
TEST_MAIN()
