/* sampling.h - what a request may ask of the sampler: plain data, validated at admission.
 *
 * Order of application (as users of llama.cpp and vLLM expect): logit bias, penalties, DRY, then
 * the truncations in the order given here, then temperature, then the draw. Randomness is
 * Gumbel-max keyed (seed, choice, position, token id): the same on every backend. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

typedef struct {
    qh_token id;
    float bias;                     /* added to the logit; -INFINITY bans */
} qh_logit_bias;

typedef struct {
    float temperature;              /* 0: greedy; default 1 */
    int   top_k;                    /* 0: off */
    float top_p;                    /* 1: off */
    float min_p;                    /* 0: off */
    float typical_p;                /* 1: off */
    float xtc_probability, xtc_threshold;           /* 0: off; threshold default 0.1 */
    float repeat_penalty;           /* 1: off (CTRL; divides positive logits, multiplies negative) */
    float presence_penalty, frequency_penalty;      /* 0: off, -2..2 */
    int   penalty_window;           /* last tokens looked at; default 64; -1: all, prompt included for
                                       repeat_penalty, completion only for presence and frequency */
    float dry_multiplier, dry_base; /* 0: off; base default 1.75 */
    int   dry_allowed_length;       /* default 2 */
    int   dry_window;               /* -1: all */
    char **dry_breakers;            /* sequences that end a match; owned; default \n : " * */
    int   n_dry_breakers;
    qh_logit_bias *bias;            /* owned, n_bias <= 1024 */
    int   n_bias;
    uint64_t seed;
    bool  has_seed;                 /* false: the engine draws one */
} qh_sampling;

void qh_sampling_init(qh_sampling *s);              /* the defaults above */
void qh_sampling_deinit(qh_sampling *s);
/* QH_EINVAL names the field, its value and its range. */
qh_status qh_sampling_check(const qh_sampling *s, int n_vocab, qh_err *err);
