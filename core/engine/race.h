/* race.h - the draw: every candidate runs with logit / temperature + noise, the largest wins.
 *
 * That is Gumbel-max sampling of softmax(logit / temperature). The noise of a token is a function of
 * (seed, choice, position, id) alone, so who else runs does not change it. It is bounded, so those who
 * are too far behind the leader are passed over without computing theirs, which changes nothing.
 * Scores are floats by exactly rounded operations; equal scores go to the lower id.
 * Thread: any. */
#pragma once
#include "engine/truncate.h"

typedef struct {
    uint64_t seed;
    uint32_t choice, position;
} qh_noise;

/* The set is not empty. Temperature 0: its largest logit, of equal ones the lower id. */
qh_token qh_race(const qh_cand_set *set, float temperature, const qh_noise *noise);

/* The same over a list, cut from a row whose largest logit was max. */
qh_token qh_race_list(const qh_cand *list, int n, float max, float temperature,
                      const qh_noise *noise);

/* Uniform in (0,1), keyed like the noise with an id that no token has. */
float qh_noise_coin(const qh_noise *noise);
