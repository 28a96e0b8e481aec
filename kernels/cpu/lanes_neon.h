/* lanes_neon.h - the lane operations of matrix_level.h in 128 bits of AArch64: 4 rows a vector.
 *
 * Both factors of a dot are signed here, so 8-bit quants lose their + 128 on unpacking. With
 * QH_HAS_DOT (neondot) a step is one SDOT; without, SMULL and SMLAL add in 16 bits as long as
 * products of the quants fit, and pairwise adds widen them. */
#pragma once
#include "kernels/cpu/matrix_layout.h"
#include <arm_neon.h>
#include <string.h>

#define UNROLL QH_UNROLL
enum { LANES = 4, TILE_V = 2, FLOAT_TILE_T = 6, SIGNED_BYTES = 1 };
#ifdef QH_HAS_DOT
enum { TILE_T = 6 };
#define FLUSH_STEPS(bits) 8
#else
enum { TILE_T = 3 };
/* steps of 2^bits * 127 (128 * 127 when signed) that fit in 15 bits */
#define FLUSH_STEPS(bits) ((bits) <= 5 ? 8 : (bits) == 6 ? 4 : 2)
#endif

typedef uint8x16_t vb;
typedef int32x4_t vi;
typedef float32x4_t vf;

static inline vb vb_load(const void *p) { return vld1q_u8(p); }
static inline void vb_store(void *p, vb a) { vst1q_u8(p, a); }
static inline vb vb_set1(int x) { return vdupq_n_u8((uint8_t)x); }
static inline vb vb_load4(const int8_t *p)
{
    return vreinterpretq_u8_s32(vld1q_dup_s32((const int32_t *)(const void *)p));
}
static inline vb vb_and(vb a, vb b) { return vandq_u8(a, b); }
static inline vb vb_or(vb a, vb b) { return vorrq_u8(a, b); }
static inline vb vb_xor(vb a, vb b) { return veorq_u8(a, b); }
static inline vb vb_srl(vb a, int n) { return a >> n; }
static inline vb vb_sll(vb a, int n) { return a << n; }
static inline vb vb_lookup_iq4(vb a)
{
    return vqtbl1q_u8(vld1q_u8((const uint8_t *)qh_iq4_values), a);
}

static inline vi vi_set1(int x) { return vdupq_n_s32(x); }
static inline vi vi_load1(const int32_t *p) { return vld1q_dup_s32(p); }
static inline vi vi_load_s8(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four))));
}
static inline vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
static inline vi vi_srl(vi a, int n)
{
    return vreinterpretq_s32_u32(vreinterpretq_u32_s32(a) >> n);
}
static inline vi vi_sll(vi a, int n)
{
    return vreinterpretq_s32_u32(vreinterpretq_u32_s32(a) << n);
}
static inline vi vi_from_vb(vb a) { return vreinterpretq_s32_u8(a); }

static inline vf vf_zero(void) { return vdupq_n_f32(0.0f); }
static inline vf vf_load1(const float *p) { return vld1q_dup_f32(p); }
static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf a) { vst1q_f32(p, a); }
static inline vf vf_neg(vf a) { return vnegq_f32(a); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vf_from_vi(vi a) { return vcvtq_f32_s32(a); }
static inline vf vf_from_bits(vi a) { return vreinterpretq_f32_s32(a); }
static inline vf vf_load_f16(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

#ifdef QH_HAS_DOT
typedef int32x4_t vr;
static inline vr run_begin(vi dot) { return dot; }
static inline vr run_step(vr a, vb w, vb x, bool is_signed)
{
    (void)is_signed;
    return vdotq_s32(a, vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x));
}
static inline vi run_end(vi dot, vr a)
{
    (void)dot;
    return a;
}
#else
typedef int16x8x2_t vr;                         /* rows 0 and 1, rows 2 and 3 */
static inline vr run_begin(vi dot)
{
    (void)dot;
    return (vr){{vdupq_n_s16(0), vdupq_n_s16(0)}};
}
static inline vr run_step(vr a, vb w, vb x, bool is_signed)
{
    (void)is_signed;
    const int8x16_t ws = vreinterpretq_s8_u8(w), xs = vreinterpretq_s8_u8(x);
    a.val[0] = vmlal_s8(a.val[0], vget_low_s8(ws), vget_low_s8(xs));
    a.val[1] = vmlal_high_s8(a.val[1], ws, xs);
    return a;
}
static inline vi run_end(vi dot, vr a)
{
    return vaddq_s32(dot, vpaddq_s32(vpaddlq_s16(a.val[0]), vpaddlq_s16(a.val[1])));
}
#endif

/* Largest magnitude of 32 floats; as integers, NaN and infinity rank on top. */
static inline float largest_32(const float *x)
{
    uint32x4_t top = vdupq_n_u32(0);
    UNROLL for (int i = 0; i < 8; i++)
        top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + 4 * i))));
    return vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(top))), 0);
}

/* q = x * inverse, rounded to nearest even; sums of the halves. */
static inline void quantize_32(int8_t *q, int32_t sum[2], const float *x, float inverse)
{
    for (int h = 0; h < 2; h++) {
        int32x4_t r[4];
        UNROLL for (int i = 0; i < 4; i++)
            r[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * i), inverse));
        sum[h] = vaddvq_s32(vaddq_s32(vaddq_s32(r[0], r[1]), vaddq_s32(r[2], r[3])));
        const int16x8_t a = vcombine_s16(vqmovn_s32(r[0]), vqmovn_s32(r[1]));
        const int16x8_t b = vcombine_s16(vqmovn_s32(r[2]), vqmovn_s32(r[3]));
        vst1q_s8(q + 16 * h, vcombine_s8(vqmovn_s16(a), vqmovn_s16(b)));
    }
}
