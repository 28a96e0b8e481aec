#include "test.h"
#include "model/quant.h"
#include <math.h>

/* quant_blocks.bin: random blocks and their values from an independent implementation; its maker,
 * tests/golden/make_quant_golden.py, states the origin and the layout. */
static unsigned char *golden(size_t *len)
{
    char path[4096];
    const char *dir = getenv("QH_TEST_GOLDEN");
    snprintf(path, sizeof path, "%s/quant_blocks.bin", dir ? dir : ".");
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    unsigned char *bytes = malloc(1 << 20);
    *len = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

static bool same_bits(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

static void check_record(uint32_t type, uint32_t n, const unsigned char *raw, const unsigned char *want)
{
    static float got[4096];
    CHECK(qh_dtype_is_known(type) && n <= 4096);
    qh_dequantize((qh_dtype)type, got, raw, n);
    for (uint32_t i = 0; i < n; i++) {
        float w;
        memcpy(&w, want + 4 * (size_t)i, 4);
        if (!same_bits(got[i], w))
            fail_msg("%s element %u: got %.9g, want %.9g", qh_dtype_name((qh_dtype)type), i, got[i], w);
    }
}

TEST(every_type_dequantizes_to_the_bits_of_the_independent_implementation)
{
    size_t len, n_types = 0;
    unsigned char *bytes = golden(&len), *p = bytes;
    while (p < bytes + len) {
        uint32_t head[3];
        memcpy(head, p, sizeof head);
        check_record(head[0], head[1], p + sizeof head, p + sizeof head + head[2]);
        p += sizeof head + head[2] + 4 * (size_t)head[1];
        n_types++;
    }
    size_t n_known = 0;
    for (uint32_t i = 0; i < 256; i++) n_known += qh_dtype_is_known(i);
    CHECK_INT(n_types, n_known);
    free(bytes);
}

TEST(half_precision_survives_a_round_trip_and_rounds_to_even)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = qh_f16_to_f32((uint16_t)h);
        if (isnan(f)) CHECK(isnan(qh_f16_to_f32(qh_f32_to_f16(f))));
        else CHECK_INT(qh_f32_to_f16(f), h);
    }
    CHECK_INT(qh_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);          /* tie: down to even */
    CHECK_INT(qh_f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);      /* tie: up to even */
    CHECK_INT(qh_f32_to_f16(1.0f + 0x1.002p-11f), 0x3c01);
    CHECK_INT(qh_f32_to_f16(65519.9f), 0x7bff);
    CHECK_INT(qh_f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(qh_f32_to_f16(-INFINITY), 0xfc00);
    CHECK_INT(qh_f32_to_f16(0x1p-25f), 0);                      /* tie between 0 and the smallest */
    CHECK_INT(qh_f32_to_f16(0x1.8p-25f), 1);
    CHECK_INT(qh_f32_to_f16(-0x1p-14f + 0x1p-25f), 0x83ff + 1); /* tie: up into the normals */
}

TEST(bfloat_rounds_to_even_and_keeps_nan)
{
    CHECK_INT(qh_f32_to_bf16(1.0f), 0x3f80);
    CHECK_INT(qh_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    CHECK_INT(qh_f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
    CHECK_INT(qh_f32_to_bf16(INFINITY), 0x7f80);
    CHECK_INT(qh_f32_to_bf16(0x1.fffffep127f), 0x7f80);
    union { uint32_t u; float f; } nan = {0x7f800001};
    CHECK(isnan(qh_bf16_to_f32(qh_f32_to_bf16(nan.f))));
}

TEST(row_sizes_need_whole_blocks)
{
    CHECK_INT(qh_dtype_row_bytes(QH_Q4_1, 576), 18 * 20);
    CHECK_INT(qh_dtype_row_bytes(QH_Q6_K, 512), 420);
    CHECK_INT(qh_dtype_row_bytes(QH_F32, 3), 12);
    CHECK_INT(qh_dtype_row_bytes(QH_Q4_1, 33), 0);
    CHECK_INT(qh_dtype_row_bytes(QH_Q4_K, 128), 0);
    CHECK_INT(qh_dtype_row_bytes(QH_F32, 0), 0);
    CHECK_INT(qh_dtype_row_bytes(QH_F32, -4), 0);
    CHECK_INT(qh_dtype_row_bytes(QH_F32, INT64_MAX), 0);
    CHECK_STR(qh_dtype_name(QH_IQ4_XS), "IQ4_XS");
    CHECK(!qh_dtype_is_known(4) && !qh_dtype_is_known(31) && !qh_dtype_is_known(0xffffffffu));
}
TEST_MAIN()
