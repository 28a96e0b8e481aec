/* fake_backend.h - a backend without a model: logits are a hash of the prefix, read from its KV pages.
 *
 * A page stores the token ids themselves, so a wrong page table, a missed copy or a stale page shows as
 * a wrong token. Its logits depend on the prefix only; fake_logits computes the same from a plain list.
 * It checks what the engine promises: limits, pages in range, no page written that another sequence of
 * the step uses, no read of what was never written. A violation aborts the test. */
#pragma once
#include "base/clock.h"
#include "kernels/backend.h"

typedef struct {
    qh_backend_limits limits;
    int n_vocab;
    qh_token eos;                   /* a likely token: texts end by themselves. QH_NO_TOKEN: none */
    qh_clock_virtual *clock;        /* a step takes 1000 us + 100 us a row; may be NULL */
    const qh_vocab *vocab;          /* own vocabulary, or NULL */
} fake_config;

typedef struct {
    qh_backend base;
    fake_config cfg;
    qh_backend_caps caps;
    qh_memory_plan plan;
    qh_token *kv;                   /* [n_pages][64]; -1: never written */
    float *logits;                  /* [max_outputs][n_vocab] */
    /* for tests */
    int64_t n_steps, n_rows, n_copies;
    int max_rows_seen;
    int fail_in;                    /* the step in that many steps fails (1: the next); 0: none */
    qh_status fail_with;            /* from submit when fails_wait is false */
    bool fails_wait, fails_copy;
    bool is_closed;                 /* close was called; storage is the test's */
} fake_backend;

void fake_open(fake_backend *f, const fake_config *cfg);
void fake_deinit(fake_backend *f);      /* frees what close leaves to the test */

/* Logits after tokens[0..n). */
void fake_logits(const qh_token *tokens, int n, int n_vocab, qh_token eos, float *out);
