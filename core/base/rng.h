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

/* Standard Gumbel noise for one candidate: argmax(logit + noise) samples softmax(logit). It is
 * -log(-log(u)) with u = qh_rng_unit(bits), in float by a logarithm of our own that uses only exactly
 * rounded operations, so that a GPU gives the same bits. The bits of token id are word id % 4 of the
 * block with key seed and counter (choice, position, id / 4), so neighbours share a block. In parts,
 * because most candidates lose already by the bound: noise <= -log(1 - u), taken up to the next power
 * of two. */
uint32_t qh_rng_gumbel_bits(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id);
/* The same for ids first_id to first_id + 63; first_id % 4 == 0. A fraction of the cost of 64 calls. */
void     qh_rng_gumbel_bits64(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first_id,
                              uint32_t bits[64]);
float    qh_rng_gumbel_bound(uint32_t bits);     /* at least the noise of these bits */
float    qh_rng_gumbel_of(uint32_t bits);
#define QH_RNG_GUMBEL_MAX 16.6356f                /* no bits give more: 24 ln 2, rounded up */

static inline float qh_rng_gumbel(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id)
{
    return qh_rng_gumbel_of(qh_rng_gumbel_bits(seed, choice, position, token_id));
}

uint64_t qh_rng_entropy(void); /* 64 bits from the system, for seeds nobody gave */
