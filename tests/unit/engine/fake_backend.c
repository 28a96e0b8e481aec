/* fake_backend.c - see fake_backend.h */
#include "fake_backend.h"
#include "base/hash.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(cond) ((cond) ? (void)0 : violated(#cond, __LINE__))
static _Noreturn void violated(const char *what, int line)
{
    fprintf(stderr, "fake backend: '%s' does not hold (line %d)\n", what, line);
    abort();
}

static uint64_t add_token(uint64_t h, qh_token t)
{
    return qh_hash_mix(h * 0x9e3779b97f4a7c15u + (uint64_t)(uint32_t)t + 1);
}

/* Logits between -4 and 4, a few of them up to 8; the end-of-text token a little more likely. */
static void logits_of(uint64_t h, int n_vocab, qh_token eos, float *out)
{
    for (int i = 0; i < n_vocab; i++) {
        uint64_t r = qh_hash_mix(h + (uint64_t)i * 0xd1342543de82ef95u);
        out[i] = (float)(r & 0xffff) / 8192.0f - 4.0f;
        if ((r >> 16 & 15) == 0) out[i] += 4.0f;
    }
    if (eos >= 0 && (h >> 40) % 24 == 0) out[eos] = 9.0f;
}

void fake_logits(const qh_token *tokens, int n, int n_vocab, qh_token eos, float *out)
{
    uint64_t h = 1;
    for (int i = 0; i < n; i++) h = add_token(h, tokens[i]);
    logits_of(h, n_vocab, eos, out);
}

static qh_token *slot(fake_backend *f, const qh_page *pages, int at)
{
    qh_page page = pages[at / QH_PAGE_TOKENS];
    MUST(page >= 0 && page < f->cfg.limits.n_pages);
    return &f->kv[(size_t)page * QH_PAGE_TOKENS + (size_t)(at % QH_PAGE_TOKENS)];
}

/* Pages that one sequence writes belong to no other sequence of the step. */
static void check_writes(const qh_step *s)
{
    for (int a = 0; a < s->n_seqs; a++) {
        int first = s->seqs[a].n_past / QH_PAGE_TOKENS,
            last = (s->seqs[a].n_past + s->seqs[a].n_rows - 1) / QH_PAGE_TOKENS;
        for (int b = 0; b < s->n_seqs; b++) {
            int n_pages =
                (s->seqs[b].n_past + s->seqs[b].n_rows + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS;
            for (int i = first; b != a && i <= last; i++)
                for (int j = 0; j < n_pages; j++) MUST(s->seqs[a].pages[i] != s->seqs[b].pages[j]);
        }
    }
}

static qh_status fake_submit(qh_backend *b, const qh_step *s, qh_err *err)
{
    fake_backend *f = (fake_backend *)b;
    const qh_backend_limits *lim = &f->cfg.limits;
    MUST(!f->is_closed);
    MUST(s->n_rows > 0 && s->n_rows <= lim->max_rows && s->n_seqs <= lim->max_seqs &&
         s->n_outputs <= lim->max_outputs);
    if (f->fail_in > 0 && --f->fail_in == 0 && !f->fails_wait)
        return qh_fail(err, f->fail_with, "the fake device failed");
    check_writes(s);
    for (int q = 0, row = 0; q < s->n_seqs; q++) {
        const qh_step_seq *seq = &s->seqs[q];
        MUST(seq->first_row == row && seq->n_rows > 0 &&
             seq->n_past + seq->n_rows <= lim->max_context);
        for (int i = 0; i < seq->n_rows; i++, row++)
            *slot(f, seq->pages, seq->n_past + i) = s->tokens[row];
    }
    for (int q = 0, out = 0; q < s->n_seqs; q++) {
        const qh_step_seq *seq = &s->seqs[q];
        uint64_t h = 1;
        for (int i = 0; i < seq->n_past + seq->n_rows; i++) {
            qh_token t = *slot(f, seq->pages, i);
            MUST(t >= 0);
            h = add_token(h, t);
            if (i < seq->n_past || out == s->n_outputs ||
                s->output_rows[out] != seq->first_row + i - seq->n_past)
                continue;
            logits_of(h, f->cfg.n_vocab, f->cfg.eos,
                      f->logits + (size_t)out++ * (size_t)f->cfg.n_vocab);
        }
        if (q == s->n_seqs - 1) MUST(out == s->n_outputs);
    }
    f->n_steps++;
    f->n_rows += s->n_rows;
    if (s->n_rows > f->max_rows_seen) f->max_rows_seen = s->n_rows;
    if (f->cfg.clock) f->cfg.clock->t_us += 1000 + 100 * s->n_rows;
    return QH_OK;
}

static qh_status fake_wait(qh_backend *b, const float **logits, qh_err *err)
{
    fake_backend *f = (fake_backend *)b;
    *logits = f->logits;
    if (f->fails_wait && f->fail_in == 0) {
        f->fails_wait = false;
        return qh_fail(err, f->fail_with, "the fake device failed");
    }
    return QH_OK;
}

static qh_status fake_copy(qh_backend *b, qh_page dst, qh_page src, int n_tokens, qh_err *err)
{
    fake_backend *f = (fake_backend *)b;
    MUST(dst != src && dst >= 0 && dst < f->cfg.limits.n_pages && src >= 0 &&
         src < f->cfg.limits.n_pages);
    MUST(n_tokens > 0 && n_tokens < QH_PAGE_TOKENS);
    if (f->fails_copy) return qh_fail(err, QH_EIO, "the fake copy failed");
    qh_token *to = f->kv + (size_t)dst * QH_PAGE_TOKENS;
    for (int i = 0; i < QH_PAGE_TOKENS; i++)
        to[i] = i < n_tokens ? f->kv[(size_t)src * QH_PAGE_TOKENS + (size_t)i] : -1;
    f->n_copies++;
    return QH_OK;
}

static qh_status fake_read(qh_backend *b, void *dst, qh_page src, qh_err *err)
{
    (void)err;
    memcpy(dst, ((fake_backend *)b)->kv + (size_t)src * QH_PAGE_TOKENS,
           sizeof(qh_token) * QH_PAGE_TOKENS);
    return QH_OK;
}

static qh_status fake_write(qh_backend *b, qh_page dst, const void *src, qh_err *err)
{
    (void)err;
    memcpy(((fake_backend *)b)->kv + (size_t)dst * QH_PAGE_TOKENS, src,
           sizeof(qh_token) * QH_PAGE_TOKENS);
    return QH_OK;
}

static const qh_backend_caps *fake_caps(const qh_backend *b)
{
    return &((const fake_backend *)b)->caps;
}
static const qh_memory_plan *fake_plan(const qh_backend *b)
{
    return &((const fake_backend *)b)->plan;
}
static void fake_close(qh_backend *b) { ((fake_backend *)b)->is_closed = true; }

static const qh_backend_ops FAKE_OPS = {
    .close = fake_close,
    .caps = fake_caps,
    .plan = fake_plan,
    .submit = fake_submit,
    .wait = fake_wait,
    .copy_page = fake_copy,
    .read_page = fake_read,
    .write_page = fake_write,
};

void fake_open(fake_backend *f, const fake_config *cfg)
{
    *f = (fake_backend){.base.ops = &FAKE_OPS, .cfg = *cfg};
    f->caps = (qh_backend_caps){
        .name = "fake", .is_exact = true, .vocab = cfg->vocab, .limits = cfg->limits};
    f->plan.page_bytes = sizeof(qh_token) * QH_PAGE_TOKENS;
    size_t n_slots = (size_t)cfg->limits.n_pages * QH_PAGE_TOKENS;
    f->kv = malloc(n_slots * sizeof *f->kv);
    for (size_t i = 0; i < n_slots; i++) f->kv[i] = -1;
    f->logits = malloc((size_t)cfg->limits.max_outputs * (size_t)cfg->n_vocab * sizeof *f->logits);
}

void fake_deinit(fake_backend *f)
{
    free(f->kv);
    free(f->logits);
}
