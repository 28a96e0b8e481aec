/* penalties.h - logit bias and the repetition, presence and frequency penalties.
 *
 * Both are pure functions of the tokens so far, so a rewind or a fork has nothing to undo. They edit a
 * writable copy of the row. Thread: one owner. */
#pragma once
#include "engine/sampling.h"

/* The sequence that a token is drawn for. */
typedef struct {
    const qh_token *tokens;     /* [n_tokens], prompt first; borrowed */
    int n_tokens, n_prompt;
} qh_history;

bool qh_penalties_are_on(const qh_sampling *spec);
void qh_bias_apply(const qh_sampling *spec, float *logits);
/* repeat_penalty: for tokens in the window, positive logits are divided, others multiplied (Keskar et al.
 * 2019). presence and frequency: for completion tokens in the window, one subtraction, and one per
 * occurrence. counts: [n_vocab] zeros, left as zeros. */
void qh_penalties_apply(const qh_sampling *spec, const qh_history *h, float *logits, int *counts);
