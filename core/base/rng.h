/* rng.h - counter-based randomness: a pure function of a key and a counter, no state.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The
 * sampler's draws are keyed (seed, choice, position, token id), so that a token's luck is the same
 * on every backend, in every batch and after every preemption. Thread: any. */
#pragma once
#include <stdint.h>

typedef struct {
    uint32_t v[4];
} qh_rng_block;

qh_rng_block qh_rng_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo);

/* Uniform in (0, 1): never 0, never 1; 23 bits and a half, exact in float. */
static inline float qh_rng_unit(uint32_t bits) { return ((float)(bits >> 9) + 0.5f) * 0x1p-23f; }

/* Standard Gumbel noise for one candidate: argmax(logit + noise) samples softmax(logit). */
float qh_rng_gumbel(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id);

uint64_t qh_rng_entropy(void); /* 64 bits from the system, for seeds nobody gave */
