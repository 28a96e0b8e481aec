/* batch.c - see batch.h */
#include "engine/batch.h"
#include "base/mem.h"
#include <string.h>

qh_status qh_batch_init(qh_batch *b, const qh_backend_limits *limits, qh_err *err)
{
    size_t n_seqs = (size_t)limits->max_seqs;
    *b = (qh_batch){.limits = *limits};
    b->tokens = qh_try_alloc0((size_t)limits->max_rows, sizeof *b->tokens);
    b->seqs = qh_try_alloc0(n_seqs, sizeof *b->seqs);
    b->output_rows = qh_try_alloc0((size_t)limits->max_outputs, sizeof *b->output_rows);
    b->first_output = qh_try_alloc0(n_seqs, sizeof *b->first_output);
    b->n_outputs = qh_try_alloc0(n_seqs, sizeof *b->n_outputs);
    if (b->tokens && b->seqs && b->output_rows && b->first_output && b->n_outputs) return QH_OK;
    qh_batch_deinit(b);
    return qh_fail(err, QH_ENOMEM, "no memory for a step of %d rows", limits->max_rows);
}

void qh_batch_deinit(qh_batch *b)
{
    qh_free(b->tokens);
    qh_free(b->seqs);
    qh_free(b->output_rows);
    qh_free(b->first_output);
    qh_free(b->n_outputs);
    *b = (qh_batch){0};
}

void qh_batch_clear(qh_batch *b)
{
    b->step = (qh_step){.tokens = b->tokens, .seqs = b->seqs, .output_rows = b->output_rows};
}

void qh_batch_add(qh_batch *b, const qh_seq *s, int n_rows, bool wants_all)
{
    qh_step *st = &b->step;
    int n_past = s->kv.n_tokens, at = st->n_seqs++;
    bool ends = n_past + n_rows == s->tokens.len;
    qh_assert(at < b->limits.max_seqs && st->n_rows + n_rows <= b->limits.max_rows);
    qh_assert(n_rows > 0 && n_rows <= qh_seq_n_pending(s));
    memcpy(b->tokens + st->n_rows, s->tokens.ids + n_past, sizeof *b->tokens * (size_t)n_rows);
    b->seqs[at] = (qh_step_seq){st->n_rows, n_rows, n_past, s->kv.pages};
    b->n_outputs[at] = wants_all ? n_rows : ends;
    b->first_output[at] = st->n_outputs;
    qh_assert(st->n_outputs + b->n_outputs[at] <= b->limits.max_outputs);
    for (int i = n_rows - b->n_outputs[at]; i < n_rows; i++)
        b->output_rows[st->n_outputs++] = st->n_rows + i;
    st->n_rows += n_rows;
}
