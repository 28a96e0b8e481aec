/* attn_work.h - the attention of a step cut into items that threads take one by one.
 *
 * An item is a block of neighbouring rows of one sequence, one KV head, and some of the key ranges.
 * Rows of a chunk are cut into blocks that see all their ranges. A single row (decode) is cut by
 * ranges where one sequence would otherwise keep one thread busy and the others idle: then each
 * item leaves the state of each of its ranges in a slot, and whoever finishes last merges them in
 * order. The cut decides who computes what and when, never a bit of the result.
 *
 * Thread: built by one; items are read-only afterwards but for qh_attn_split.n_left. */
#pragma once
#include "kernels/backend.h"
#include <stdatomic.h>

typedef struct {
    int seq, kv_head;
    int row, n_rows;                /* rows of the step */
    int out;                        /* where the first row's result goes */
    int range, n_ranges;
    int split;                      /* index of its split, or -1: the item sees every range */
} qh_attn_item;

/* A row whose ranges are spread over items. */
typedef struct {
    int state, n_ranges;            /* first slot, in states of one range and query group */
    int n_items;
    _Atomic int n_left;             /* items not done; the last one sets it back to n_items */
} qh_attn_split;

typedef struct {
    int n_kv_heads, n_threads;
    int max_block_rows;             /* rows of an item at most */
    qh_attn_item *items;
    int n_items, max_items;
    qh_attn_split *splits;
    int n_splits, max_splits;
    int n_states, max_states;
} qh_attn_work;

/* Capacities for any step within the limits; max_states: enough to split one sequence of the
 * longest context. The caller provides the arrays. */
void qh_attn_work_size(qh_attn_work *w, const qh_backend_limits *limits, int n_kv_heads,
                       int n_group, int n_threads);
/* Items for all rows of the step (rows NULL), or for the given ascending ones; results are numbered
 * in order of rows. */
void qh_attn_work_build(qh_attn_work *w, const qh_step *step, const int *rows, int n_rows);
