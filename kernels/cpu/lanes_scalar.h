/* lanes_scalar.h - the lane operations of matrix_level.h in plain C, 4 rows a vector. */
#pragma once
#include "kernels/cpu/matrix_layout.h"
#include "model/quant.h"
#include <math.h>
#include <string.h>

enum { LANES = 4, TILE_V = 1, TILE_T = 6, FLOAT_TILE_T = 6, SIGNED_BYTES = 1 };
#define FLUSH_STEPS(bits) 8
#define UNROLL                          /* nothing to gain here, and the code would be megabytes */

typedef struct { uint8_t v[16]; } vb;
typedef struct { int32_t v[4]; } vi;
typedef struct { float v[4]; } vf;
typedef vi vr;

#define EACH(n) for (int i = 0; i < (n); i++)

static inline vb vb_load(const void *p) { vb r; memcpy(r.v, p, 16); return r; }
static inline void vb_store(void *p, vb a) { memcpy(p, a.v, 16); }
static inline vb vb_set1(int x) { vb r; memset(r.v, x, 16); return r; }
static inline vb vb_load4(const int8_t *p) { vb r; EACH(16) r.v[i] = (uint8_t)p[i % 4]; return r; }
static inline vb vb_and(vb a, vb b) { EACH(16) a.v[i] &= b.v[i]; return a; }
static inline vb vb_or(vb a, vb b) { EACH(16) a.v[i] |= b.v[i]; return a; }
static inline vb vb_xor(vb a, vb b) { EACH(16) a.v[i] ^= b.v[i]; return a; }
static inline vb vb_srl(vb a, int n) { EACH(16) a.v[i] = (uint8_t)(a.v[i] >> n); return a; }
static inline vb vb_sll(vb a, int n) { EACH(16) a.v[i] = (uint8_t)(a.v[i] << n); return a; }
static inline vb vb_lookup_iq4(vb a) { EACH(16) a.v[i] = (uint8_t)qh_iq4_values[a.v[i]]; return a; }

static inline vi vi_set1(int x) { vi r; EACH(4) r.v[i] = x; return r; }
static inline vi vi_load1(const int32_t *p) { return vi_set1(*p); }
static inline vi vi_load_s8(const uint8_t *p) { vi r; EACH(4) r.v[i] = (int8_t)p[i]; return r; }
static inline vi vi_and(vi a, vi b) { EACH(4) a.v[i] &= b.v[i]; return a; }
static inline vi vi_srl(vi a, int n)
{
    EACH(4) a.v[i] = (int32_t)((uint32_t)a.v[i] >> n);
    return a;
}
static inline vi vi_sll(vi a, int n)
{
    EACH(4) a.v[i] = (int32_t)((uint32_t)a.v[i] << n);
    return a;
}
static inline vi vi_from_vb(vb a) { vi r; memcpy(r.v, a.v, 16); return r; }

static inline vf vf_set1(float x) { vf r; EACH(4) r.v[i] = x; return r; }
static inline vf vf_zero(void) { return vf_set1(0.0f); }
static inline vf vf_load1(const float *p) { return vf_set1(*p); }
static inline vf vf_load(const float *p) { vf r; memcpy(r.v, p, 16); return r; }
static inline void vf_store(float *p, vf a) { memcpy(p, a.v, 16); }
static inline vf vf_neg(vf a) { EACH(4) a.v[i] = -a.v[i]; return a; }
static inline vf vf_mul(vf a, vf b) { EACH(4) a.v[i] *= b.v[i]; return a; }
static inline vf vf_fma(vf a, vf b, vf c)
{
    EACH(4) c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
static inline vf vf_from_vi(vi a) { vf r; EACH(4) r.v[i] = (float)a.v[i]; return r; }
static inline vf vf_from_bits(vi a) { vf r; memcpy(r.v, a.v, 16); return r; }
static inline vf vf_load_f16(const uint8_t *p)
{
    vf r;
    EACH(4) r.v[i] = qh_f16_to_f32((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
    return r;
}

static inline vr run_begin(vi dot) { return dot; }
static inline vr run_step(vr a, vb w, vb x, bool is_signed)
{
    (void)is_signed;                           /* quants of fewer bits are the same signed or not */
    EACH(16) a.v[i / 4] += (int8_t)w.v[i] * (int8_t)x.v[i];
    return a;
}
static inline vi run_end(vi dot, vr a) { (void)dot; return a; }

/* Largest magnitude of 32 floats; as integers, NaN and infinity rank on top. */
static inline float largest_32(const float *x)
{
    uint32_t top = 0;
    EACH(32) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        if (bits > top) top = bits;
    }
    float amax;
    memcpy(&amax, &top, sizeof amax);
    return amax;
}

/* q = x * inverse, rounded to nearest even (adding and taking away 1.5 * 2^23 does it); sums of the
 * halves. */
static inline void quantize_32(int8_t *q, int32_t sum[2], const float *x, float inverse)
{
    sum[0] = sum[1] = 0;
    EACH(32) {
        q[i] = (int8_t)((x[i] * inverse + 0x1.8p23f) - 0x1.8p23f);
        sum[i / 16] += q[i];
    }
}
#undef EACH
