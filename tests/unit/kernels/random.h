/* random.h - reproducible test data on qhost's own counter-based generator */
#pragma once
#include "base/rng.h"
#include <math.h>

typedef struct {
    uint64_t key, n;                    /* start with {seed, 0} */
} random_source;

static inline uint32_t random_bits(random_source *r)
{
    return qh_rng_philox(r->key, 0, r->n++).v[0];
}
static inline int random_below(random_source *r, int n)
{
    return (int)(random_bits(r) % (uint32_t)n);
}

static inline float random_normal(random_source *r)
{
    qh_rng_block b = qh_rng_philox(r->key, 0, r->n++);
    double radius = sqrt(-2 * log(qh_rng_unit(b.v[0])));
    return (float)(radius * cos(6.283185307179586 * qh_rng_unit(b.v[1])));
}

static inline void random_fill(random_source *r, float *x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) x[i] = random_normal(r) * scale;
}
