/* attn_work.c - see attn_work.h */
#include "kernels/cpu/attn_work.h"
#include "kernels/cpu/attention.h"

enum {
    BLOCK_QUERIES = 96,   /* of an item: enough to reuse a page from the first-level cache */
    ITEMS_PER_THREAD = 4, /* aimed at, so that a slow thread holds up little */
};

void qh_attn_work_size(qh_attn_work *w, const qh_backend_limits *limits, int n_kv_heads,
                       int n_group, int n_threads)
{
    *w = (qh_attn_work){.n_kv_heads = n_kv_heads, .n_threads = n_threads};
    w->max_block_rows = n_group < BLOCK_QUERIES ? BLOCK_QUERIES / n_group : 1;
    w->max_splits = n_kv_heads * limits->max_seqs;
    w->max_states = n_kv_heads * qh_attn_n_ranges(limits->max_context);
    w->max_items = n_kv_heads * limits->max_rows + w->max_states;
}

static void push(qh_attn_work *w, qh_attn_item item)
{
    qh_assert(w->n_items < w->max_items);
    w->items[w->n_items++] = item;
}

/* One row: one item, or as many as its share of the work asks for and slots allow. */
static void push_row(qh_attn_work *w, qh_attn_item item, int64_t share)
{
    int n_items = (int)((item.n_ranges + share - 1) / share);
    if (n_items < 2 || w->n_states + item.n_ranges > w->max_states) {
        push(w, item);
        return;
    }
    int n_ranges = item.n_ranges;
    item.split = w->n_splits++;
    w->splits[item.split] = (qh_attn_split){
        .state = w->n_states, .n_ranges = n_ranges, .n_items = n_items, .n_left = n_items};
    w->n_states += n_ranges;
    for (int i = 0; i < n_items; i++) {
        item.range = n_ranges * i / n_items;
        item.n_ranges = n_ranges * (i + 1) / n_items - item.range;
        push(w, item);
    }
}

/* Neighbouring rows of one sequence, cut into equal blocks; the last ones see most keys and come
 * first, so that the small ones fill the gaps at the end. */
static void push_rows(qh_attn_work *w, const qh_step_seq *s, qh_attn_item item, int64_t share)
{
    const int row = item.row, out = item.out, n_rows = item.n_rows;
    const int most = qh_attn_n_ranges(s->n_past + row - s->first_row + n_rows);
    int64_t block = share / most;
    if (block > w->max_block_rows) block = w->max_block_rows;
    if (block < 1) block = 1;
    const int n_blocks = (int)((n_rows + block - 1) / block);
    for (int b = n_blocks - 1; b >= 0; b--) {
        int begin = n_rows * b / n_blocks, end = n_rows * (b + 1) / n_blocks;
        item.row = row + begin;
        item.out = out + begin;
        item.n_rows = end - begin;
        item.n_ranges = qh_attn_n_ranges(s->n_past + item.row - s->first_row + item.n_rows);
        for (item.kv_head = 0; item.kv_head < w->n_kv_heads; item.kv_head++) {
            if (n_rows == 1) push_row(w, item, share);
            else push(w, item);
        }
    }
}

static int row_at(const int *rows, int i) { return rows ? rows[i] : i; }

void qh_attn_work_build(qh_attn_work *w, const qh_step *step, const int *rows, int n_rows)
{
    int64_t total = 0;
    w->n_items = w->n_splits = w->n_states = 0;
    for (int i = 0, s = 0; i < n_rows; i++) {
        int row = row_at(rows, i);
        while (row >= step->seqs[s].first_row + step->seqs[s].n_rows) s++;
        total += qh_attn_n_ranges(step->seqs[s].n_past + row - step->seqs[s].first_row + 1);
    }
    int64_t share = total * w->n_kv_heads / (ITEMS_PER_THREAD * w->n_threads);
    if (w->n_threads == 1) share = total;
    if (share < 1) share = 1;
    for (int i = 0, s = 0, n; i < n_rows; i += n) {
        int row = row_at(rows, i);
        while (row >= step->seqs[s].first_row + step->seqs[s].n_rows) s++;
        const int seq_end = step->seqs[s].first_row + step->seqs[s].n_rows;
        for (n = 1; i + n < n_rows && row_at(rows, i + n) == row + n && row + n < seq_end;) n++;
        push_rows(w, &step->seqs[s],
                  (qh_attn_item){.seq = s, .row = row, .out = i, .n_rows = n, .split = -1}, share);
    }
}
