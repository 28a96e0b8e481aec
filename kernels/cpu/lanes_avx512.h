/* lanes_avx512.h - the lane operations of matrix_level.h in 512 bits: 16 rows a vector.
 *
 * Dots by VPDPBUSD: unsigned quants meet signed activations, so an 8-bit quant carries + 128 and
 * the dot starts at -128 times the sum of the activations. 2 vectors x 6 tokens keep 12 dots and 12
 * sums in registers and need 8 loads for 12 dots. */
#pragma once
#include "kernels/cpu/matrix_layout.h"
#include <immintrin.h>

enum { LANES = 16, TILE_V = 2, TILE_T = 6, FLOAT_TILE_T = 6, SIGNED_BYTES = 0 };
#define FLUSH_STEPS(bits) 8
#define UNROLL QH_UNROLL

typedef __m512i vb, vi, vr;
typedef __m512 vf;

static inline vb vb_load(const void *p) { return _mm512_load_si512(p); }
static inline void vb_store(void *p, vb a) { _mm512_store_si512(p, a); }
static inline vb vb_set1(int x) { return _mm512_set1_epi8((char)x); }
static inline vb vb_load4(const int8_t *p)
{
    return _mm512_set1_epi32(*(const int32_t *)(const void *)p);
}
static inline vb vb_and(vb a, vb b) { return _mm512_and_si512(a, b); }
static inline vb vb_or(vb a, vb b) { return _mm512_or_si512(a, b); }
static inline vb vb_xor(vb a, vb b) { return _mm512_xor_si512(a, b); }
static inline vb vb_srl(vb a, int n) { return _mm512_srli_epi16(a, (unsigned)n); }
static inline vb vb_sll(vb a, int n) { return _mm512_slli_epi16(a, (unsigned)n); }
static inline vb vb_lookup_iq4(vb a)
{
    const __m128i t =
        _mm_xor_si128(_mm_loadu_si128((const void *)qh_iq4_values), _mm_set1_epi8((char)0x80));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), a);
}

static inline vi vi_set1(int x) { return _mm512_set1_epi32(x); }
static inline vi vi_load1(const int32_t *p) { return _mm512_set1_epi32(*p); }
static inline vi vi_load_s8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_load_si128((const void *)p));
}
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_srl(vi a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
static inline vi vi_sll(vi a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
static inline vi vi_from_vb(vb a) { return a; }

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_load1(const float *p) { return _mm512_set1_ps(*p); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_neg(vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_from_vi(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vf vf_from_bits(vi a) { return _mm512_castsi512_ps(a); }
static inline vf vf_load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const void *)p));
}

static inline vr run_begin(vi dot) { return dot; }
static inline vr run_step(vr a, vb w, vb x, bool is_signed)
{
    (void)is_signed;
    return _mm512_dpbusd_epi32(a, w, x);
}
static inline vi run_end(vi dot, vr a)
{
    (void)dot;
    return a;
}

/* Largest magnitude of 32 floats; as integers, NaN and infinity rank on top. */
static inline float largest_32(const float *x)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), magnitude);
    const __m512i b = _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude);
    return _mm512_cvtss_f32(
        _mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(_mm512_max_epi32(a, b)))));
}

/* q = x * inverse, rounded to nearest even; sums of the halves. */
static inline void quantize_32(int8_t *q, int32_t sum[2], const float *x, float inverse)
{
    UNROLL for (int h = 0; h < 2; h++) {
        const __m512i r = _mm512_cvtps_epi32(
            _mm512_mul_ps(_mm512_loadu_ps(x + 16 * h), _mm512_set1_ps(inverse)));
        _mm_store_si128((void *)(q + 16 * h), _mm512_cvtsepi32_epi8(r));
        sum[h] = _mm512_reduce_add_epi32(r);
    }
}
