/* vec.h - float vectors of the level that a translation unit is compiled for.
 *
 * The bodies of float_ops and attention are written once against these few operations and compiled
 * once a level; each unit names its level with one macro before including its body:
 *
 *     QH_VEC_AVX512   16 lanes     QH_VEC_NEON      4 lanes, fused multiply-add
 *     QH_VEC_AVX2      8 lanes     QH_VEC_PORTABLE  4 lanes, no fused multiply-add (SSE2 or less)
 *
 * Everything is elementwise, or a reduction in a fixed tree; contraction is off for the whole build
 * and fused multiply-add appears only as vfma. So the bits of a lane never depend on its neighbours
 * nor on what the compiler made of the code around it.
 *
 * "pairs" are VL 32-bit words, each holding two bf16: the low half first in memory. Stores round
 * finite values to nearest even. */
#pragma once
#include "base/err.h"
#include <float.h>
#include <stdint.h>
#include <string.h>

#if defined(QH_VEC_AVX512)
#include <immintrin.h>

enum { VL = 16 };
typedef __m512 vf;
typedef __m512i vpairs;

static inline vf vload(const float *p) { return _mm512_loadu_ps(p); }
static inline void vstore(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
static inline vf vload_n(const float *p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
static inline void vstore_n(float *p, vf v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
static inline vf vset1(float x) { return _mm512_set1_ps(x); }
static inline vf vadd(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vdiv(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vround(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vexp2i(vf n)           /* 2^n for whole n in [-126, 127] */
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
static inline vf vzero_below(vf v, vf x, vf limit) /* lanes of v, 0 where x < limit */
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
}
static inline vf vfirst(vf v, int n, float other) /* the first n lanes of v, other behind them */
{
    return _mm512_mask_mov_ps(vset1(other), first_lanes(n), v);
}
static inline vf vswap_pairs(vf v) { return _mm512_permute_ps(v, 0xB1); }
static inline float vsum(vf v) { return _mm512_reduce_add_ps(v); }
static inline float vmaxh(vf v) { return _mm512_reduce_max_ps(v); }
static inline vpairs vload_pairs(const uint32_t *p) { return _mm512_loadu_si512(p); }
static inline vf vpairs_lo(vpairs v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
static inline vf vpairs_hi(vpairs v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xFFFF0000u)));
}
static inline vf vload_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vf vload_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline __m512i rounded_bf16(vf v)        /* in the high half of each lane */
{
    const __m512i u = _mm512_castps_si512(v);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(u, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
}
static inline void vstore_pairs(uint32_t *p, vf lo, vf hi)
{
    const __m512i low = _mm512_srli_epi32(rounded_bf16(lo), 16);
    _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xAAAAAAAAu, low, rounded_bf16(hi)));
}

#elif defined(QH_VEC_AVX2)
#include <immintrin.h>

enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vpairs;

static inline vf vload(const float *p) { return _mm256_loadu_ps(p); }
static inline void vstore(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline __m256i first_lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vload_n(const float *p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
static inline void vstore_n(float *p, vf v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
static inline vf vset1(float x) { return _mm256_set1_ps(x); }
static inline vf vadd(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vsub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vmul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vdiv(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vround(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vexp2i(vf n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline vf vzero_below(vf v, vf x, vf limit)
{
    return _mm256_and_ps(v, _mm256_cmp_ps(x, limit, _CMP_NLT_UQ));
}
static inline vf vfirst(vf v, int n, float other)
{
    return _mm256_blendv_ps(vset1(other), v, _mm256_castsi256_ps(first_lanes(n)));
}
static inline vf vswap_pairs(vf v) { return _mm256_permute_ps(v, 0xB1); }
static inline float vsum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float vmaxh(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vpairs vload_pairs(const uint32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline vf vpairs_lo(vpairs v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
static inline vf vpairs_hi(vpairs v)
{
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xFFFF0000u)));
}
static inline vf vload_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
static inline vf vload_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline __m256i rounded_bf16(vf v)        /* in the high half of each lane */
{
    const __m256i u = _mm256_castps_si256(v);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(u, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF)));
}
static inline void vstore_pairs(uint32_t *p, vf lo, vf hi)
{
    const __m256i low = _mm256_srli_epi32(rounded_bf16(lo), 16);
    _mm256_storeu_si256((__m256i *)p, _mm256_blend_epi16(low, rounded_bf16(hi), 0xAA));
}

#elif defined(QH_VEC_NEON)
#include <arm_neon.h>

enum { VL = 4 };
typedef float32x4_t vf;
typedef uint32x4_t vpairs;

static inline vf vload(const float *p) { return vld1q_f32(p); }
static inline void vstore(float *p, vf v) { vst1q_f32(p, v); }
static inline vf vset1(float x) { return vdupq_n_f32(x); }
static inline vf vadd(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vsub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vmul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vdiv(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf vfma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vmax(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vmin(vf a, vf b) { return vminq_f32(a, b); }
static inline vf vround(vf a) { return vrndnq_f32(a); }
static inline vf vexp2i(vf n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline vf vzero_below(vf v, vf x, vf limit)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, limit)));
}
static inline uint32x4_t first_lanes(int n)
{
    static const int32_t lane[4] = {0, 1, 2, 3};
    return vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lane));
}
static inline vf vfirst(vf v, int n, float other)
{
    return vbslq_f32(first_lanes(n), v, vset1(other));
}
static inline vf vswap_pairs(vf v) { return vrev64q_f32(v); }
static inline float vsum(vf v)
{
    float32x2_t s = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}
static inline float vmaxh(vf v) { return vmaxvq_f32(v); }
static inline vpairs vload_pairs(const uint32_t *p) { return vld1q_u32(p); }
static inline vf vpairs_lo(vpairs v) { return vreinterpretq_f32_u32(vshlq_n_u32(v, 16)); }
static inline vf vpairs_hi(vpairs v)
{
    return vreinterpretq_f32_u32(vandq_u32(v, vdupq_n_u32(0xFFFF0000u)));
}
static inline vf vload_i8(const int8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}
static inline vf vload_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
static inline uint32x4_t rounded_bf16(vf v)     /* in the high half of each lane */
{
    const uint32x4_t u = vreinterpretq_u32_f32(v);
    const uint32x4_t even = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    return vaddq_u32(u, vaddq_u32(even, vdupq_n_u32(0x7FFF)));
}
static inline void vstore_pairs(uint32_t *p, vf lo, vf hi)
{
    const uint32x4_t low = vshrq_n_u32(rounded_bf16(lo), 16);
    vst1q_u32(p, vbslq_u32(vdupq_n_u32(0xFFFF0000u), rounded_bf16(hi), low));
}

#elif defined(QH_VEC_PORTABLE)
/* The compiler's own vectors: SSE2 on x86-64, NEON on AArch64, plain code elsewhere. */
enum { VL = 4 };
typedef float vf __attribute__((vector_size(16), aligned(16)));
typedef int32_t vi __attribute__((vector_size(16), aligned(16)));
typedef uint32_t vpairs __attribute__((vector_size(16), aligned(16)));

static inline vf vload(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vstore(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vf vset1(float x) { return (vf){x, x, x, x}; }
static inline vf vadd(vf a, vf b) { return a + b; }
static inline vf vsub(vf a, vf b) { return a - b; }
static inline vf vmul(vf a, vf b) { return a * b; }
static inline vf vdiv(vf a, vf b) { return a / b; }
static inline vf vfma(vf a, vf b, vf c) { return a * b + c; }
static inline vf vselect(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
static inline vf vmax(vf a, vf b) { return vselect(a > b, a, b); }
static inline vf vmin(vf a, vf b) { return vselect(a < b, a, b); }
/* |a| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction, so the sum is rounded to even. */
static inline vf vround(vf a)
{
    const vf big = vset1(12582912.0f);
    return (a + big) - big;
}
static inline vf vexp2i(vf n) { return (vf)((__builtin_convertvector(n, vi) + 127) << 23); }
static inline vf vzero_below(vf v, vf x, vf limit) { return (vf)((vi)v & ~(x < limit)); }
static inline vf vfirst(vf v, int n, float other)
{
    return vselect((vi){0, 1, 2, 3} < (vi){n, n, n, n}, v, vset1(other));
}
static inline vf vswap_pairs(vf v) { return (vf){v[1], v[0], v[3], v[2]}; }
static inline float vsum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
static inline float vmaxh(vf v)
{
    float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
}
static inline vpairs vload_pairs(const uint32_t *p)
{
    vpairs v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline vf vpairs_lo(vpairs v) { return (vf)(v << 16); }
static inline vf vpairs_hi(vpairs v) { return (vf)(v & 0xFFFF0000u); }
static inline vf vload_i8(const int8_t *p)
{
    return __builtin_convertvector((vi){p[0], p[1], p[2], p[3]}, vf);
}
static inline vf vload_bf16(const uint16_t *p)
{
    return (vf)((vpairs){p[0], p[1], p[2], p[3]} << 16);
}
static inline vpairs rounded_bf16(vf v)         /* in the high half of each lane */
{
    const vpairs u = (vpairs)v;
    return u + (u >> 16 & 1) + 0x7FFF;
}
static inline void vstore_pairs(uint32_t *p, vf lo, vf hi)
{
    const vpairs w = rounded_bf16(lo) >> 16 | (rounded_bf16(hi) & 0xFFFF0000u);
    memcpy(p, &w, sizeof w);
}

#else
#error "name the level before including vec.h"
#endif

#if defined(QH_VEC_NEON) || defined(QH_VEC_PORTABLE)
static inline vf vload_n(const float *p, int n)     /* lanes n and up are 0 */
{
    float t[VL] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vload(t);
}
static inline void vstore_n(float *p, vf v, int n)
{
    float t[VL];
    vstore(t, v);
    memcpy(p, t, (size_t)n * sizeof *p);
}
#endif

/* 2^x for x <= 126; 0 where x < -126, so that a masked score (-inf) weighs exactly nothing, and
 * 2^0 is exactly 1. Minimax polynomial of 2^f on [-1/2, 1/2]: relative error 1.1e-7. */
static inline vf vexp2(vf x)
{
    vf c = vmax(x, vset1(-126.0f));
    vf n = vround(c), f = vsub(c, n);
    vf p = vset1(0x1.5bba14p-10f);
    p = vfma(p, f, vset1(0x1.3cea88p-7f));
    p = vfma(p, f, vset1(0x1.c6b752p-5f));
    p = vfma(p, f, vset1(0x1.ebf9bcp-3f));
    p = vfma(p, f, vset1(0x1.62e42ap-1f));
    p = vfma(p, f, vset1(1.0f));
    return vzero_below(vmul(p, vexp2i(n)), x, vset1(-126.0f));
}

/* e^x. x * log2(e) is split so that a large x keeps its fraction; |x| is cut at 87.3. */
static inline vf vexp(vf x)
{
    const vf log2e_hi = vset1(0x1.715p+0f), log2e_lo = vset1(0x1.1d94aep-14f);
    x = vmin(vmax(x, vset1(-87.3f)), vset1(87.3f));
    vf n = vround(vmul(x, vset1(0x1.715476p+0f)));
    vf f = vfma(x, log2e_lo, vfma(x, log2e_hi, vsub(vset1(0.0f), n)));
    vf p = vset1(0x1.5bba14p-10f);
    p = vfma(p, f, vset1(0x1.3cea88p-7f));
    p = vfma(p, f, vset1(0x1.c6b752p-5f));
    p = vfma(p, f, vset1(0x1.ebf9bcp-3f));
    p = vfma(p, f, vset1(0x1.62e42ap-1f));
    p = vfma(p, f, vset1(1.0f));
    return vmul(p, vexp2i(n));
}
