/* lanes_avx2.h - the lane operations of matrix_level.h in 256 bits: 8 rows a vector.
 *
 * With QH_HAS_VNNI (avxvnni; VEX or EVEX form, whichever the file is compiled for) dots are
 * VPDPBUSD as in lanes_avx512.h. Without, VPMADDUBSW adds pairs of products in 16 bits, where
 * quants below 8 bits leave room for several steps before VPMADDWD widens them; 8-bit ones go in as
 * magnitudes, with their signs moved to the activations, since 255 * 127 * 2 would not fit. */
#pragma once
#include "kernels/cpu/matrix_layout.h"
#include <immintrin.h>

#define UNROLL QH_UNROLL
#ifdef QH_HAS_VNNI
enum { LANES = 8, TILE_V = 2, TILE_T = 3, FLOAT_TILE_T = 6, SIGNED_BYTES = 0 };
#define FLUSH_STEPS(bits) 8
#else
enum { LANES = 8, TILE_V = 2, TILE_T = 3, FLOAT_TILE_T = 6, SIGNED_BYTES = 1 };
/* steps of 2 * (2^bits - 1) * 127 that fit in 15 bits */
#define FLUSH_STEPS(bits) ((bits) <= 4 ? 8 : (bits) == 5 ? 4 : (bits) == 6 ? 2 : 1)
#endif

typedef __m256i vb, vi, vr;
typedef __m256 vf;

static inline vb vb_load(const void *p) { return _mm256_load_si256(p); }
static inline void vb_store(void *p, vb a) { _mm256_store_si256(p, a); }
static inline vb vb_set1(int x) { return _mm256_set1_epi8((char)x); }
static inline vb vb_load4(const int8_t *p)
{
    return _mm256_set1_epi32(*(const int32_t *)(const void *)p);
}
static inline vb vb_and(vb a, vb b) { return _mm256_and_si256(a, b); }
static inline vb vb_or(vb a, vb b) { return _mm256_or_si256(a, b); }
static inline vb vb_xor(vb a, vb b) { return _mm256_xor_si256(a, b); }
static inline vb vb_srl(vb a, int n) { return _mm256_srli_epi16(a, n); }
static inline vb vb_sll(vb a, int n) { return _mm256_slli_epi16(a, n); }
static inline vb vb_lookup_iq4(vb a)
{
    __m128i t = _mm_loadu_si128((const void *)qh_iq4_values);
    if (!SIGNED_BYTES) t = _mm_xor_si128(t, _mm_set1_epi8((char)0x80));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), a);
}

static inline vi vi_set1(int x) { return _mm256_set1_epi32(x); }
static inline vi vi_load1(const int32_t *p) { return _mm256_set1_epi32(*p); }
static inline vi vi_load_s8(const uint8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
}
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_srl(vi a, int n) { return _mm256_srli_epi32(a, n); }
static inline vi vi_sll(vi a, int n) { return _mm256_slli_epi32(a, n); }
static inline vi vi_from_vb(vb a) { return a; }

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_load1(const float *p) { return _mm256_broadcast_ss(p); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf vf_neg(vf a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_from_vi(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vf vf_from_bits(vi a) { return _mm256_castsi256_ps(a); }
static inline vf vf_load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_load_si128((const void *)p));
}

#ifdef QH_HAS_VNNI
static inline vr run_begin(vi dot) { return dot; }
static inline vr run_step(vr a, vb w, vb x, bool is_signed)
{
    (void)is_signed;
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(a, w, x);
#else
    return _mm256_dpbusd_epi32(a, w, x);
#endif
}
static inline vi run_end(vi dot, vr a)
{
    (void)dot;
    return a;
}
#else
static inline vr run_begin(vi dot)
{
    (void)dot;
    return _mm256_setzero_si256();
}
static inline vr run_step(vr a, vb w, vb x, bool is_signed)
{
    const vb pairs = is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                               : _mm256_maddubs_epi16(w, x);
    a = _mm256_add_epi16(a, pairs);
    __asm__("" : "+x"(a));          /* add now: GCC would keep all the pairs for later, in memory */
    return a;
}
static inline vi run_end(vi dot, vr a)
{
    return _mm256_add_epi32(dot, _mm256_madd_epi16(a, _mm256_set1_epi16(1)));
}
#endif

static inline int32_t sum_of_lanes(__m256i a)
{
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/* Largest magnitude of 32 floats; as integers, NaN and infinity rank on top. */
static inline float largest_32(const float *x)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 4; i++)
        top = _mm256_max_epi32(
            top, _mm256_and_si256(_mm256_loadu_si256((const void *)(x + 8 * i)), magnitude));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(m));
}

/* q = x * inverse, rounded to nearest even; sums of the halves. */
static inline void quantize_32(int8_t *q, int32_t sum[2], const float *x, float inverse)
{
    __m256i r[4];
    UNROLL for (int i = 0; i < 4; i++)
        r[i] =
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(inverse)));
    sum[0] = sum_of_lanes(_mm256_add_epi32(r[0], r[1]));
    sum[1] = sum_of_lanes(_mm256_add_epi32(r[2], r[3]));
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);    /* packs work in halves */
    _mm256_store_si256((void *)q, _mm256_permutevar8x32_epi32(bytes, order));
}
