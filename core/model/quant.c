/* quant.c - one small function a block type; see quant.h
 *
 * The order of float operations (scale times scale first, then times the integer, then plus or
 * minus the minimum) is the one of ggml's reference, so results agree to the bit. */
#include "model/quant.h"
#include "base/err.h"
#include <string.h>

/* Values of the non-linear 4-bit types. */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* ---- scalar conversions ---- */

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

float qh_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 0x3ff;
    if (exp == 31) return float_of(sign | 0x7f800000 | frac << 13);
    if (exp) return float_of(sign | (exp + 112) << 23 | frac << 13);
    float f = (float)frac * 0x1p-24f;   /* subnormal: exact in float */
    return sign ? -f : f;
}

uint16_t qh_f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (mag >= 0x477ff000) return (uint16_t)(sign | 0x7c00);        /* rounds to infinity */
    if (mag < 0x38800000) {                                         /* subnormal or zero */
        /* Adding 0.5 puts the unit of float's last place at 2^-24, f16's smallest step. */
        return (uint16_t)(sign | (bits_of(float_of(mag) + 0.5f) - 0x3f000000));
    }
    mag += 0xfff + (mag >> 13 & 1);                                 /* ties go to even */
    return (uint16_t)(sign | (mag - 0x38000000) >> 13);
}

uint16_t qh_f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t load_u32(const uint8_t *p)
{
    return load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}
static float load_f16(const uint8_t *p) { return qh_f16_to_f32(load_u16(p)); }

/* ---- one element a block ---- */

static void block_f32(float *y, const uint8_t *b) { *y = float_of(load_u32(b)); }
static void block_f16(float *y, const uint8_t *b) { *y = load_f16(b); }
static void block_bf16(float *y, const uint8_t *b) { *y = qh_bf16_to_f32(load_u16(b)); }

/* ---- blocks of 32: [scale][minimum][fifth bits][nibbles: element i low, i+16 high] ---- */

static void block_q4_0(float *y, const uint8_t *b)
{
    const float d = load_f16(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void block_q4_1(float *y, const uint8_t *b)
{
    const float d = load_f16(b), m = load_f16(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

static void block_q5_0(float *y, const uint8_t *b)
{
    const float d = load_f16(b);
    const uint32_t high = load_u32(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((int)((b[6 + i] & 15u) | (high >> i & 1) << 4) - 16);
        y[i + 16] = d * (float)((int)(b[6 + i] >> 4u | (high >> (i + 16) & 1) << 4) - 16);
    }
}

static void block_q5_1(float *y, const uint8_t *b)
{
    const float d = load_f16(b), m = load_f16(b + 2);
    const uint32_t high = load_u32(b + 4);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[8 + i] & 15u) | (high >> i & 1) << 4) + m;
        y[i + 16] = d * (float)(b[8 + i] >> 4u | (high >> (i + 16) & 1) << 4) + m;
    }
}

static void block_q8_0(float *y, const uint8_t *b)
{
    const float d = load_f16(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}

static void block_iq4_nl(float *y, const uint8_t *b)
{
    const float d = load_f16(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)iq4_values[b[2 + i] & 15];
        y[i + 16] = d * (float)iq4_values[b[2 + i] >> 4];
    }
}

/* ---- super-blocks of 256 ---- */

/* [16 x (scale nibble, minimum nibble)][64 bytes of 2-bit][d][dmin]; groups of 16 elements */
static void block_q2_k(float *y, const uint8_t *b)
{
    const uint8_t *q = b + 16;
    const float d = load_f16(b + 80), dmin = load_f16(b + 82);
    for (int g = 0; g < 16; g++) {
        const float dl = d * (float)(b[g] & 15), ml = dmin * (float)(b[g] >> 4);
        const uint8_t *qg = q + g / 8 * 32 + g % 2 * 16;
        const int shift = g % 8 / 2 * 2;
        for (int i = 0; i < 16; i++) *y++ = dl * (float)(qg[i] >> shift & 3) - ml;
    }
}

/* [32 bytes of third bits, set: offset 0, clear: -4][64 bytes of 2-bit][12 bytes: 16 6-bit scales][d] */
static void block_q3_k(float *y, const uint8_t *b)
{
    const uint8_t *q = b + 32, *s = b + 96;
    const float d = load_f16(b + 108);
    for (int g = 0; g < 16; g++) {
        const int low = s[g % 8] >> (g / 8 * 4) & 15, high = s[8 + g % 4] >> (g / 4 * 2) & 3;
        const float dl = d * (float)((low | high << 4) - 32);
        const uint8_t *qg = q + g / 8 * 32 + g % 2 * 16, *hg = b + g % 2 * 16;
        const int shift = g % 8 / 2 * 2, bit = g / 2;
        for (int i = 0; i < 16; i++)
            *y++ = dl * (float)((qg[i] >> shift & 3) - (hg[i] >> bit & 1 ? 0 : 4));
    }
}

/* Q4_K and Q5_K: 6-bit scale and minimum of group g (0..7) out of 12 bytes. */
static void scale_min_k(const uint8_t *s, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        *min = s[g + 4] >> 4 | (s[g] >> 6) << 4;
    }
}

/* [d][dmin][12 bytes of scales and minima][128 bytes of nibbles]; groups of 32 */
static void block_q4_k(float *y, const uint8_t *b)
{
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_min_k(b + 4, g, &scale, &min);
        const float dl = d * (float)scale, ml = dmin * (float)min;
        const uint8_t *qg = b + 16 + g / 2 * 32;
        for (int i = 0; i < 32; i++) *y++ = dl * (float)(qg[i] >> (g % 2 * 4) & 15) - ml;
    }
}

/* as Q4_K, with 32 bytes of fifth bits (bit g of byte i) in front of the nibbles */
static void block_q5_k(float *y, const uint8_t *b)
{
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_min_k(b + 4, g, &scale, &min);
        const float dl = d * (float)scale, ml = dmin * (float)min;
        const uint8_t *qg = b + 48 + g / 2 * 32, *hg = b + 16;
        for (int i = 0; i < 32; i++)
            *y++ = dl * (float)((qg[i] >> (g % 2 * 4) & 15) | (hg[i] >> g & 1) << 4) - ml;
    }
}

/* [128 bytes of low nibbles][64 bytes of high 2 bits][16 int8 scales][d]; groups of 16, in runs of 32 */
static void block_q6_k(float *y, const uint8_t *b)
{
    const float d = load_f16(b + 208);
    for (int g = 0; g < 16; g++) {
        const float dl = d * (float)(int8_t)b[192 + g];
        const int half = g / 8, run = g % 8 / 2, at = g % 2 * 16;
        const uint8_t *lg = b + half * 64 + run % 2 * 32 + at, *hg = b + 128 + half * 32 + at;
        for (int i = 0; i < 16; i++) {
            const int low = lg[i] >> (run / 2 * 4) & 15, high = hg[i] >> (run * 2) & 3;
            *y++ = dl * (float)((low | high << 4) - 32);
        }
    }
}

/* [d][16 bits: high 2 bits of scales][4 bytes: low nibbles of scales][128 bytes of nibbles] */
static void block_iq4_xs(float *y, const uint8_t *b)
{
    const float d = load_f16(b);
    const unsigned high = load_u16(b + 2);
    for (int g = 0; g < 8; g++) {
        const int scale = (b[4 + g / 2] >> (g % 2 * 4) & 15) | (int)(high >> (2 * g) & 3) << 4;
        const float dl = d * (float)(scale - 32);
        const uint8_t *qg = b + 8 + g * 16;
        for (int i = 0; i < 16; i++) {
            y[i] = dl * (float)iq4_values[qg[i] & 15];
            y[i + 16] = dl * (float)iq4_values[qg[i] >> 4];
        }
        y += 32;
    }
}

typedef void (*block_fn)(float *y, const uint8_t *b);

static block_fn block_of(qh_dtype t)
{
    switch (t) {
    case QH_F32: return block_f32;
    case QH_F16: return block_f16;
    case QH_BF16: return block_bf16;
    case QH_Q4_0: return block_q4_0;
    case QH_Q4_1: return block_q4_1;
    case QH_Q5_0: return block_q5_0;
    case QH_Q5_1: return block_q5_1;
    case QH_Q8_0: return block_q8_0;
    case QH_Q2_K: return block_q2_k;
    case QH_Q3_K: return block_q3_k;
    case QH_Q4_K: return block_q4_k;
    case QH_Q5_K: return block_q5_k;
    case QH_Q6_K: return block_q6_k;
    case QH_IQ4_NL: return block_iq4_nl;
    case QH_IQ4_XS: return block_iq4_xs;
    }
    return NULL;
}

void qh_dequantize(qh_dtype t, float *dst, const void *src, int64_t n)
{
    const block_fn block = block_of(t);
    const int len = qh_dtype_block_len(t);
    const size_t bytes = qh_dtype_block_bytes(t);
    const uint8_t *b = src;
    qh_assert(block && n % len == 0);
    for (const float *end = dst + n; dst < end; dst += len, b += bytes) block(dst, b);
}
