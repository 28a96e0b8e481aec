/* rng.c - see rng.h */
#include "base/rng.h"
#include "base/clock.h"
#include "base/hash.h"
#include <math.h>
#include <sys/random.h>

qh_rng_block qh_rng_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
    uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return (qh_rng_block){{c0, c1, c2, c3}};
}

float qh_rng_gumbel(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id)
{
    qh_rng_block b = qh_rng_philox(seed, choice, (uint64_t)position << 32 | token_id);
    return -logf(-logf(qh_rng_unit(b.v[0])));
}

uint64_t qh_rng_entropy(void)
{
    uint64_t x;
    if (getrandom(&x, sizeof x, 0) == sizeof x) return x;
    return qh_hash_mix((uint64_t)qh_wall_us() ^ (uint64_t)qh_now_us() << 20);
}
