/* fold.cuh - a page's share of attention: scores to probabilities, values by them, and the folding
 * of pages into a total. See attention.cu for how keys are dealt to lanes. */
#pragma once
#include "kernels/cuda/mma.cuh"
#include <cuda_bf16.h>

static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* How total (m) and part (mt) are weighted when folded; m becomes the common maximum. */
static __device__ __forceinline__ void fold_weights(float &m, float mt, float &a, float &b)
{
    const float both = fmaxf(m, mt);
    a = both == -INFINITY ? 1.0f : exp2_fast(m - both);
    b = both == -INFINITY ? 0.0f : exp2_fast(mt - both);
    m = both;
}

static __device__ __forceinline__ float fold(float total, float a, float part, float b)
{
    return __fmaf_rn(total, a, __fmul_rn(part, b));
}

/* Probabilities of a page as A fragments: word [h][n] holds keys 32*(n/4) + 8t + 2*(n%4) + {0,
 * 1}. */
struct page_scores {
    uint32_t p[2][8];
    float m[2], l[2];
};

/* HALVES 1: rows g + 8 hold no queries. */
template <int HALVES>
static __device__ __forceinline__ void weigh_scores(page_scores &out, float (&s)[8][4],
                                                    const int (&position)[2], int first_key)
{
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        float m = -INFINITY, l = 0;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int key = first_key + 32 * (n / 4) + 8 * t + 2 * (n % 4) + e;
                float &v = s[n][2 * h + e];
                if (key > position[h]) v = -INFINITY;
                m = fmaxf(m, v);
            }
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        const float from = m == -INFINITY ? 0.0f : m; /* all masked: every p is 2^-inf = 0 */
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const __nv_bfloat162 p = __floats2bfloat162_rn(exp2_fast(s[n][2 * h] - from),
                                                           exp2_fast(s[n][2 * h + 1] - from));
            l += __low2float(p) + __high2float(p);
            out.p[h][n] = *(const uint32_t *)&p;
        }
        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        out.m[h] = m;
        out.l[h] = l;
    }
}

/* Keep the first n of the eight keys that a lane's 16 bytes of V hold: what lies in a page behind
 * the sequence's end may be anything, and 0 * NaN is not 0. */
static __device__ __forceinline__ void keep_keys(uint4 &v, int n)
{
    uint32_t *w = (uint32_t *)&v;
#pragma unroll
    for (int i = 0; i < 4; i++)
        w[i] &= (2 * i < n ? 0xffffu : 0u) | (2 * i + 1 < n ? 0xffff0000u : 0u);
}

/* o += p v for the 32 keys of block b (0, 1): v holds eight keys of a column of V. */
static __device__ __forceinline__ void mix_block(float (&o)[4], const page_scores &s,
                                                 const uint4 &v, int b)
{
    const uint32_t first[4] = {s.p[0][4 * b], s.p[1][4 * b], s.p[0][4 * b + 1], s.p[1][4 * b + 1]};
    const uint32_t second[4] = {s.p[0][4 * b + 2], s.p[1][4 * b + 2], s.p[0][4 * b + 3],
                                s.p[1][4 * b + 3]};
    mma_bf16(o, first, v.x, v.y);
    mma_bf16(o, second, v.z, v.w);
}
