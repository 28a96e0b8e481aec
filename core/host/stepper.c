/* stepper.c - see stepper.h */
#include "host/stepper.h"
#include "base/mem.h"

struct qh_stepper {
    qh_backend *be;
    int n_seqs, max_tokens, pages_per_seq;
    int *n_past;                    /* [n_seqs] */
    qh_page *pages;                 /* [n_seqs * pages_per_seq] */
    qh_step_seq *step_seqs;         /* [n_seqs] */
    int *output_rows;               /* [max(n_seqs, max_tokens)] */
};

qh_status qh_stepper_new(qh_stepper **out, qh_backend *be, int n_seqs, int max_tokens, qh_err *err)
{
    *out = NULL;
    qh_stepper *s = qh_new0(qh_stepper);
    s->be = be;
    s->n_seqs = n_seqs;
    s->max_tokens = max_tokens;
    s->pages_per_seq = (max_tokens + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS;
    size_t n_pages = (size_t)n_seqs * (size_t)s->pages_per_seq;
    s->n_past = qh_try_alloc0((size_t)n_seqs, sizeof *s->n_past);
    s->pages = qh_try_alloc0(n_pages, sizeof *s->pages);
    s->step_seqs = qh_try_alloc0((size_t)n_seqs, sizeof *s->step_seqs);
    s->output_rows = qh_try_alloc0((size_t)(n_seqs > max_tokens ? n_seqs : max_tokens), sizeof(int));
    if (!s->n_past || !s->pages || !s->step_seqs || !s->output_rows) {
        qh_stepper_free(s);
        return qh_fail(err, QH_ENOMEM, "%d sequences of %d tokens", n_seqs, max_tokens);
    }
    for (size_t i = 0; i < n_pages; i++) s->pages[i] = (qh_page)i;
    *out = s;
    return QH_OK;
}

void qh_stepper_free(qh_stepper *s)
{
    if (!s) return;
    qh_free(s->n_past);
    qh_free(s->pages);
    qh_free(s->step_seqs);
    qh_free(s->output_rows);
    qh_free(s);
}

void qh_stepper_rewind(qh_stepper *s, int n_past)
{
    for (int i = 0; i < s->n_seqs; i++)
        if (s->n_past[i] > n_past) s->n_past[i] = n_past;
}

static qh_step_seq step_seq(qh_stepper *s, int seq, int first_row, int n_rows)
{
    return (qh_step_seq){first_row, n_rows, s->n_past[seq], s->pages + (size_t)seq * (size_t)s->pages_per_seq};
}

static qh_status run(qh_stepper *s, const qh_step *step, const float **logits, qh_err *err)
{
    qh_status st = s->be->ops->submit(s->be, step, err);
    return st ? st : s->be->ops->wait(s->be, logits, err);
}

qh_status qh_stepper_extend(qh_stepper *s, int seq, const qh_token *tokens, int n_tokens, bool all_logits,
                            const float **logits, qh_err *err)
{
    if (n_tokens < 1 || n_tokens > s->max_tokens - s->n_past[seq])
        return qh_fail(err, QH_ECONTEXT, "%d tokens after %d: room for %d", n_tokens, s->n_past[seq],
                       s->max_tokens);
    s->step_seqs[0] = step_seq(s, seq, 0, n_tokens);
    int n_outputs = all_logits ? n_tokens : 1;
    for (int i = 0; i < n_outputs; i++) s->output_rows[i] = n_tokens - n_outputs + i;
    qh_step step = {n_tokens, 1, n_outputs, tokens, s->step_seqs, s->output_rows};
    qh_status st = run(s, &step, logits, err);
    if (!st) s->n_past[seq] += n_tokens;
    return st;
}

qh_status qh_stepper_decode(qh_stepper *s, const qh_token *tokens, int n_seqs, const float **logits,
                            qh_err *err)
{
    for (int i = 0; i < n_seqs; i++) {
        if (s->n_past[i] >= s->max_tokens)
            return qh_fail(err, QH_ECONTEXT, "sequence %d is full: %d tokens", i, s->max_tokens);
        s->step_seqs[i] = step_seq(s, i, i, 1);
        s->output_rows[i] = i;
    }
    qh_step step = {n_seqs, n_seqs, n_seqs, tokens, s->step_seqs, s->output_rows};
    qh_status st = run(s, &step, logits, err);
    for (int i = 0; !st && i < n_seqs; i++) s->n_past[i]++;
    return st;
}
