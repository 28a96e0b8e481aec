/* rng.c - see rng.h */
#include "base/rng.h"
#include "base/clock.h"
#include "base/hash.h"
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

uint32_t qh_rng_gumbel_bits(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id)
{
    return qh_rng_philox(seed, choice, (uint64_t)position << 32 | token_id >> 2).v[token_id & 3];
}

/* Sixteen blocks side by side, in loops that compilers turn into vectors. */
void qh_rng_gumbel_bits64(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first_id, uint32_t bits[64])
{
    enum { N = 16 };
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32), c0[N], c1[N], c2[N], c3[N];
    for (uint32_t i = 0; i < N; i++) c0[i] = (first_id >> 2) + i, c1[i] = position, c2[i] = choice, c3[i] = 0;
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < N; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)p1, c3[i] = (uint32_t)p0, c0[i] = n0, c2[i] = n2;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < N; i++) bits[4 * i] = c0[i], bits[4 * i + 1] = c1[i], bits[4 * i + 2] = c2[i], bits[4 * i + 3] = c3[i];
}

/* 1 - u = (2j - 1) / 2^24 with j = 2^23 - (bits >> 9), at least 2^-(24 - floor(log2(2j - 1))). */
float qh_rng_gumbel_bound(uint32_t bits)
{
    uint32_t odd = 2 * ((1u << 23) - (bits >> 9)) - 1;
    return (float)(__builtin_clz(odd) - 7) * 0.69315f;
}

/* log(x) for a normal x > 0: x = m 2^e with m in [sqrt 1/2, sqrt 2), log m = 2 atanh(s) with
 * s = (m - 1) / (m + 1), |s| < 0.172, its series cut after s^9 (remainder 1e-9). */
static float log_of(float x)
{
    union { float f; uint32_t u; } v = {x};
    int e = (int)(v.u >> 23) - 127;
    v.u = (v.u & 0x7fffff) | 0x3f800000;
    if (v.f > 1.41421356f) v.f *= 0.5f, e++;
    float f = v.f - 1.0f, s = f / (2.0f + f), z = s * s;
    float p = ((z * (1.0f / 9) + 1.0f / 7) * z + 1.0f / 5) * z + 1.0f / 3;
    float tail = (float)e * -2.12194440e-4f + (2.0f * s) * (z * p);     /* ln 2 = 0.693359375 - 2.12e-4 */
    return (float)e * 0.693359375f + (2.0f * s + tail);
}

float qh_rng_gumbel_of(uint32_t bits) { return -log_of(-log_of(qh_rng_unit(bits))); }

uint64_t qh_rng_entropy(void)
{
    uint64_t x;
    if (getrandom(&x, sizeof x, 0) == sizeof x) return x;
    return qh_hash_mix((uint64_t)qh_wall_us() ^ (uint64_t)qh_now_us() << 20);
}
