/* dry.h - "don't repeat yourself": a penalty that grows with the length of the repetition.
 *
 * When the last m tokens stood earlier in the sequence, the token that followed them there would make
 * the repetition m + 1 long. From m = allowed_length on its logit loses
 * multiplier * base^(m - allowed_length); the longest m counts (p-e-w, 2024).
 * Breakers end a match: a token in which a breaker string ends is never part of one, and a token that
 * contains a breaker is never penalized. Matches count up to QH_DRY_MAX_MATCH tokens.
 * A pure function of the tokens. Thread: one owner. */
#pragma once
#include "engine/penalties.h"

enum { QH_DRY_MAX_MATCH = 256, QH_DRY_MAX_BREAKER_BYTES = 128 };

static inline bool qh_dry_is_on(const qh_sampling *s)
{
    return s->dry_multiplier > 0 && s->dry_window != 0;
}

/* lengths: scratch [n_tokens]; matches: [n_vocab] zeros, left as zeros. */
void qh_dry_apply(const qh_sampling *spec, const qh_vocab *vocab, const qh_history *h,
                  float *logits, int *lengths, int *matches);
