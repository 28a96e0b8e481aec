/* stepper.h - raw steps on a backend: sequences with pages of their own, no scheduler, no sampler.
 *
 * For measuring and for scoring given ids. Sequence i owns the pages [i*pages_per_seq, ...).
 * Thread: one owner; the backend's thread rules hold. */
#pragma once
#include "kernels/backend.h"

typedef struct qh_stepper qh_stepper;

/* be is borrowed and must have n_seqs * ceil(max_tokens/64) pages and room for n_seqs in a step. */
qh_status qh_stepper_new(qh_stepper **out, qh_backend *be, int n_seqs, int max_tokens, qh_err *err);
void qh_stepper_free(qh_stepper *s);

/* Forget all tokens of every sequence from position n_past on. */
void qh_stepper_rewind(qh_stepper *s, int n_past);

/* One step: n_tokens more tokens for one sequence. *logits is [n_tokens][n_vocab] with all_logits,
 * else [1][n_vocab] for the last token; valid until the next step. */
qh_status qh_stepper_extend(qh_stepper *s, int seq, const qh_token *tokens, int n_tokens, bool all_logits,
                            const float **logits, qh_err *err);
/* One step: one more token for each of the first n_seqs sequences; logits [n_seqs][n_vocab]. */
qh_status qh_stepper_decode(qh_stepper *s, const qh_token *tokens, int n_seqs, const float **logits,
                            qh_err *err);
