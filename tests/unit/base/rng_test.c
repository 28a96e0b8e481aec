#include "test.h"
#include "base/rng.h"
#include <math.h>

/* Known answers of philox4x32-10 from the Random123 distribution (kat_vectors). */
TEST(philox_gives_the_published_answers)
{
    qh_rng_block a = qh_rng_philox(0, 0, 0);
    CHECK(a.v[0] == 0x6627e8d5 && a.v[1] == 0xe169c58d && a.v[2] == 0xbc57ac4c && a.v[3] == 0x9b00dbd8);
    qh_rng_block b = qh_rng_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    CHECK(b.v[0] == 0x408f276d && b.v[1] == 0x41c83b0e && b.v[2] == 0xa20bc7c6 && b.v[3] == 0x6d5451fd);
    qh_rng_block c = qh_rng_philox(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u);
    CHECK(c.v[0] == 0xd16cfe09 && c.v[1] == 0x94fdcceb && c.v[2] == 0x5001e420 && c.v[3] == 0x24126ea1);
}

TEST(units_never_reach_zero_or_one)
{
    CHECK(qh_rng_unit(0) > 0.0f);
    CHECK(qh_rng_unit(UINT32_MAX) < 1.0f);
}

TEST(gumbel_argmax_samples_the_softmax)
{
    const float logit[3] = {0.0f, 1.0f, -1.0f};
    const double sum = 1 + exp(1) + exp(-1), want[3] = {1 / sum, exp(1) / sum, exp(-1) / sum};
    int n_draws = 40000, hits[3] = {0};
    for (int pos = 0; pos < n_draws; pos++) {
        int best = 0;
        float top = -INFINITY;
        for (int id = 0; id < 3; id++) {
            float v = logit[id] + qh_rng_gumbel(7, 0, (uint32_t)pos, (uint32_t)id);
            if (v > top) top = v, best = id;
        }
        hits[best]++;
    }
    for (int id = 0; id < 3; id++) CHECK(fabs(hits[id] / (double)n_draws - want[id]) < 0.01);
}
TEST(gumbel_noise_is_the_double_logarithm_and_below_its_bound)
{
    double worst = 0;
    for (uint32_t i = 0; i < 1u << 20; i++) {
        uint32_t bits = i < 4096 ? i << 9 : i < 8192 ? UINT32_MAX - ((i - 4096) << 9) : i * 0x9E3779B1u;
        double u = (double)qh_rng_unit(bits), want = -log(-log(u)), got = qh_rng_gumbel_of(bits);
        double off = fabs(got - want) / (1 + fabs(want));
        if (off > worst) worst = off;
        CHECK(got <= qh_rng_gumbel_bound(bits));
        CHECK(qh_rng_gumbel_bound(bits) <= QH_RNG_GUMBEL_MAX);
    }
    CHECK(worst < 3e-7);
}
TEST(noise_of_64_tokens_at_once_is_the_noise_of_each)
{
    uint32_t bits[64];
    for (uint32_t run = 0; run < 500; run++) {
        uint32_t first = run % 2 ? run * 64 : UINT32_MAX - 63 - 4 * run;
        qh_rng_gumbel_bits64(run * 0x123456789abcu, run % 5, run * 77, first, bits);
        for (uint32_t i = 0; i < 64; i++) CHECK(bits[i] == qh_rng_gumbel_bits(run * 0x123456789abcu, run % 5, run * 77, first + i));
    }
}
TEST_MAIN()
