#include "test.h"
#include "model/quant.h"
#include "model/quantize.h"
#include <math.h>

enum { N = 4096 };

static uint64_t seed;

static float uniform(void)      /* -1..1; xorshift64 */
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (float)((double)(seed >> 11) * 0x1p-52 - 1);
}

/* Sums of four: bell-shaped, as weights are. */
static void fill(float *x, int n, float size)
{
    seed = 88172645463325252ull;
    for (int i = 0; i < n; i++) x[i] = size * (uniform() + uniform() + uniform() + uniform()) / 2;
}

static double relative_error(qh_dtype t, const float *x, int n)
{
    static uint8_t blocks[N * 4];
    static float again[N];
    CHECK(qh_dtype_row_bytes(t, n) <= sizeof blocks);
    qh_quantize(t, blocks, x, n);
    qh_dequantize(t, again, blocks, n);
    double value = 0, error = 0;
    for (int i = 0; i < n; i++) {
        value += (double)x[i] * x[i];
        error += ((double)again[i] - x[i]) * ((double)again[i] - x[i]);
    }
    return sqrt(error / value);
}

/* What rounding x by itself to the block's steps costs, without a search: max-based scales. */
static double plain_error(const float *x, int n, int group, int hi)
{
    double value = 0, error = 0;
    for (int g = 0; g < n; g += group) {
        float top = 0;
        for (int i = g; i < g + group; i++) top = fmaxf(top, fabsf(x[i]));
        const float d = top / (float)hi;
        for (int i = g; i < g + group; i++) {
            const double e = (double)(roundf(x[i] / d) * d) - x[i];
            value += (double)x[i] * x[i];
            error += e * e;
        }
    }
    return sqrt(error / value);
}

TEST(errors_are_below_those_of_plain_rounding)
{
    static float x[N];
    static const struct {
        qh_dtype type;
        int group, hi;
    } CASES[] = {{QH_Q4_0, 32, 7}, {QH_Q4_1, 32, 7}, {QH_Q5_0, 32, 15}, {QH_Q4_K, 32, 7}, {QH_Q6_K, 16, 31}};
    static const float SIZES[] = {1e-3f, 0.05f, 1, 300};
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++) {
        fill(x, N, SIZES[s]);
        for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
            const double e = relative_error(CASES[i].type, x, N), plain = plain_error(x, N, CASES[i].group, CASES[i].hi);
            if (!(e < plain)) fail_msg("%s: %g, plain rounding has %g", qh_dtype_name(CASES[i].type), e, plain);
        }
        CHECK(relative_error(QH_Q8_0, x, N) < 0.006);
        CHECK(relative_error(QH_BF16, x, N) < 0x1p-9 && relative_error(QH_F32, x, N) == 0);
    }
}

TEST(values_on_the_grid_of_a_type_come_back_as_they_were)
{
    static const qh_dtype TYPES[] = {QH_F16, QH_BF16, QH_Q4_0, QH_Q4_1, QH_Q5_0, QH_Q8_0};
    float x[32];
    for (int i = 0; i < 32; i++) x[i] = 0.25f * (float)(i % 16 - 8);    /* -8..7 steps of 1/4 */
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++) {
        double e = relative_error(TYPES[i], x, 32);
        if (e > (TYPES[i] == QH_Q8_0 ? 0.01 : 0)) fail_msg("%s: %g", qh_dtype_name(TYPES[i]), e);
    }
}

TEST(extreme_blocks_stay_finite)
{
    static const qh_dtype TYPES[] = {QH_F16, QH_Q4_0, QH_Q4_1, QH_Q5_0, QH_Q8_0, QH_Q4_K, QH_Q6_K};
    static const float FILLS[] = {0, 1, -1, 1e-30f, -1e-30f, 1e30f, -1e30f, 3.4e38f};
    float x[256], again[256];
    uint8_t block[1024];
    for (size_t t = 0; t < sizeof TYPES / sizeof *TYPES; t++)
        for (size_t f = 0; f < sizeof FILLS / sizeof *FILLS; f++)
            for (int odd = 0; odd < 2; odd++) {
                for (int i = 0; i < 256; i++) x[i] = i == 77 && odd ? -FILLS[f] : FILLS[f];
                qh_quantize(TYPES[t], block, x, 256);
                qh_dequantize(TYPES[t], again, block, 256);
                for (int i = 0; i < 256; i++)
                    if (!isfinite(again[i])) fail_msg("%s of %g: %g", qh_dtype_name(TYPES[t]), FILLS[f], again[i]);
            }
}

TEST(zero_blocks_are_zero_and_constant_blocks_constant)
{
    static const qh_dtype TYPES[] = {QH_Q4_0, QH_Q4_1, QH_Q5_0, QH_Q8_0, QH_Q4_K, QH_Q6_K};
    float x[256] = {0}, again[256];
    uint8_t block[1024];
    for (size_t t = 0; t < sizeof TYPES / sizeof *TYPES; t++)
        for (int c = -1; c <= 1; c++) {
            for (int i = 0; i < 256; i++) x[i] = 0.5f * (float)c;
            qh_quantize(TYPES[t], block, x, 256);
            qh_dequantize(TYPES[t], again, block, 256);
            for (int i = 0; i < 256; i++)
                if (fabsf(again[i] - x[i]) > 0.005f * fabsf(x[i])) fail_msg("%s: %g for %g", qh_dtype_name(TYPES[t]), again[i], x[i]);
        }
}

TEST_MAIN()
