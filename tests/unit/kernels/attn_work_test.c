/* The cut of a step's attention covers every (row, KV head, range) exactly once, whatever the step.
 */
#include "test.h"
#include "base/mem.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attn_work.h"
#include "random.h"

enum { MAX_SEQS = 20, MAX_ROWS = 600, MAX_CONTEXT = 8192, KV_HEADS = 3, MAX_RANGES = 40 };

static qh_attn_work work_of(int n_group, int n_threads)
{
    const qh_backend_limits l = {.n_pages = 1,
                                 .max_rows = MAX_ROWS,
                                 .max_seqs = MAX_SEQS,
                                 .max_outputs = 1,
                                 .max_context = MAX_CONTEXT};
    qh_attn_work w;
    qh_attn_work_size(&w, &l, KV_HEADS, n_group, n_threads);
    w.items = qh_alloc0((size_t)w.max_items * sizeof *w.items);
    w.splits = qh_alloc0((size_t)w.max_splits * sizeof *w.splits);
    return w;
}

static void drop(qh_attn_work *w)
{
    qh_free(w->items);
    qh_free(w->splits);
}

static int row_of(const int *rows, int i) { return rows ? rows[i] : i; }

static int seq_of(const qh_step *step, int row)
{
    for (int s = 0; s < step->n_seqs; s++)
        if (row < step->seqs[s].first_row + step->seqs[s].n_rows) return s;
    return -1;
}

static void check_covered(const qh_attn_work *w, const qh_step *step, const int *rows, int n_rows)
{
    static uint8_t seen[MAX_ROWS][KV_HEADS][MAX_RANGES];
    memset(seen, 0, sizeof seen);
    int n_of_split[MAX_SEQS * KV_HEADS] = {0};
    for (int i = 0; i < w->n_items; i++) {
        const qh_attn_item *it = &w->items[i];
        CHECK(it->n_rows >= 1 && it->n_rows <= w->max_block_rows);
        if (it->split >= 0) {
            CHECK_INT(it->n_rows, 1);
            n_of_split[it->split]++;
            CHECK_INT(w->splits[it->split].n_ranges,
                      qh_attn_n_ranges(step->seqs[it->seq].n_past + it->row -
                                       step->seqs[it->seq].first_row + 1));
        }
        for (int r = 0; r < it->n_rows; r++) {
            CHECK_INT(it->row + r, row_of(rows, it->out + r));
            CHECK_INT(seq_of(step, it->row + r), it->seq);
            for (int k = it->range; k < it->range + it->n_ranges; k++)
                seen[it->out + r][it->kv_head][k]++;
        }
    }
    for (int i = 0; i < n_rows; i++) {
        const qh_step_seq *s = &step->seqs[seq_of(step, row_of(rows, i))];
        int needed = qh_attn_n_ranges(s->n_past + row_of(rows, i) - s->first_row + 1);
        for (int h = 0; h < KV_HEADS; h++)
            for (int k = 0; k < needed; k++) CHECK_INT(seen[i][h][k], 1);
    }
    int n_states = 0;
    for (int i = 0; i < w->n_splits; i++) {
        CHECK_INT(w->splits[i].n_items, n_of_split[i]);
        CHECK_INT(w->splits[i].n_left, n_of_split[i]);
        CHECK_INT(w->splits[i].state, n_states);
        n_states += w->splits[i].n_ranges;
    }
    CHECK_INT(n_states, w->n_states);
    CHECK(w->n_states <= w->max_states && w->n_splits <= w->max_splits &&
          w->n_items <= w->max_items);
}

TEST(random_steps_are_covered_once)
{
    random_source r = {1, 0};
    for (int round = 0; round < 400; round++) {
        qh_attn_work w = work_of(1 + random_below(&r, 120), 1 + random_below(&r, 9));
        qh_step_seq seqs[MAX_SEQS];
        int rows[MAX_ROWS], n_outputs = 0;
        qh_step step = {
            .seqs = seqs, .output_rows = rows, .n_seqs = 1 + random_below(&r, MAX_SEQS)};
        for (int s = 0; s < step.n_seqs; s++) {
            int n = random_below(&r, 3) ? 1 : 1 + random_below(&r, MAX_ROWS / MAX_SEQS - 1);
            seqs[s] = (qh_step_seq){
                .first_row = step.n_rows,
                .n_rows = n,
                .n_past = random_below(&r, random_below(&r, 2) ? 300 : MAX_CONTEXT - n)};
            step.n_rows += n;
        }
        for (int i = 0; i < step.n_rows; i++)
            if (random_below(&r, 3) == 0) rows[n_outputs++] = i;
        qh_attn_work_build(&w, &step, NULL, step.n_rows);
        check_covered(&w, &step, NULL, step.n_rows);
        qh_attn_work_build(&w, &step, rows, n_outputs);
        check_covered(&w, &step, rows, n_outputs);
        drop(&w);
    }
}

TEST(one_long_sequence_is_shared_by_all_threads)
{
    qh_attn_work w = work_of(3, 2);
    const qh_step_seq seq = {.first_row = 0, .n_rows = 1, .n_past = 8000};
    const qh_step step = {.n_rows = 1, .n_seqs = 1, .seqs = &seq};
    qh_attn_work_build(&w, &step, NULL, 1);
    CHECK(w.n_items >= 6);
    for (int i = 0; i < w.n_items; i++) CHECK(w.items[i].n_ranges <= 12);
    drop(&w);
}

TEST(one_thread_does_not_split)
{
    qh_attn_work w = work_of(3, 1);
    const qh_step_seq seq = {.first_row = 0, .n_rows = 1, .n_past = 8000};
    const qh_step step = {.n_rows = 1, .n_seqs = 1, .seqs = &seq};
    qh_attn_work_build(&w, &step, NULL, 1);
    CHECK_INT(w.n_splits, 0);
    CHECK_INT(w.n_items, KV_HEADS);
    drop(&w);
}

TEST_MAIN()
