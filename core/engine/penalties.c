/* penalties.c - see penalties.h */
#include "engine/penalties.h"

bool qh_penalties_are_on(const qh_sampling *s)
{
    bool has_strength =
        s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
    return has_strength && s->penalty_window != 0;
}

void qh_bias_apply(const qh_sampling *s, float *logits)
{
    for (int i = 0; i < s->n_bias; i++) logits[s->bias[i].id] += s->bias[i].bias;
}

/* A count packs both: occurrences in the completion above, one bit for "in the window" below. */
enum { SEEN = 1, ONCE = 2 };

void qh_penalties_apply(const qh_sampling *s, const qh_history *h, float *logits, int *counts)
{
    int first = s->penalty_window < 0 || s->penalty_window > h->n_tokens
                    ? 0
                    : h->n_tokens - s->penalty_window;
    for (int i = first; i < h->n_tokens; i++) {
        int *c = &counts[h->tokens[i]];
        *c = (i >= h->n_prompt ? *c + ONCE : *c) | SEEN;
    }
    for (int i = first; i < h->n_tokens; i++) {
        qh_token id = h->tokens[i];
        int c = counts[id];
        if (!c) continue;                   /* done at an earlier occurrence */
        counts[id] = 0;
        float *l = &logits[id];
        *l = *l > 0 ? *l / s->repeat_penalty : *l * s->repeat_penalty;
        int n_seen = c / ONCE;
        if (n_seen) *l -= s->presence_penalty + (float)n_seen * s->frequency_penalty;
    }
}
