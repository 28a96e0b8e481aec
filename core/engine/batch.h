/* batch.h - lays a step out flat, as the backend wants it: rows grouped by sequence.
 *
 * Thread: engine thread only. Nothing is allocated after init. */
#pragma once
#include "engine/seq.h"

typedef struct {
    qh_step step;               /* points into the arrays below */
    qh_token *tokens;           /* [max_rows] */
    qh_step_seq *seqs;          /* [max_seqs] */
    int *output_rows;           /* [max_outputs] */
    int *first_output;          /* [max_seqs] index of a sequence's first output */
    int *n_outputs;             /* [max_seqs] */
    qh_backend_limits limits;
} qh_batch;

qh_status qh_batch_init(qh_batch *b, const qh_backend_limits *limits, qh_err *err);
void      qh_batch_deinit(qh_batch *b);             /* zeroed is fine */
void      qh_batch_clear(qh_batch *b);
/* The next n_rows pending tokens of s, whose pages are reserved. Logits for all of them, or only for the
 * last, and only when that is the sequence's last token. */
void      qh_batch_add(qh_batch *b, const qh_seq *s, int n_rows, bool wants_all);
