/* heads: what lies between the projections and attention, and the rotation table.
 *
 * rope_table: cos_sin[row] = magnitude * (cos[half_dim], sin[half_dim]) of positions[row] * freqs
 * Shapes    freqs [half_dim] double; cos_sin [n_rows, 2*half_dim] float.
 * Launch    grid n_rows, block 128.
 * Numerics  angles in double: at position 262,144 a float is 0.01 radians off.
 *
 * heads: each head of q, k, v gets its bias, q and k their RMS norm and rotation; q goes out
 * scaled, k and v to their place in the page, v transposed.
 * Shapes    qkv [n_rows, n_heads + 2*n_kv_heads, head_dim] float; q [n_rows, n_heads, padded]
 *           bf16, zeros beyond head_dim; of each page the row's token of K [64, padded] and V
 *           [padded, 64].
 * Launch    a warp a head, 4 warps a block, grid (ceil(heads / 4), n_rows); 4 * head_dim floats
 *           shared.
 * Traffic   4 bytes in and 2 out an element; V's are single 2-byte writes.
 * Numerics  float, a fixed order; one rounding to bf16.
 * Oracle    qh_ref_rms_norm, qh_ref_rope, qh_ref_add (double), |err| <= 2^-8*|y| + 1e-5;
 *           tests/gpu/kernels_test.c */
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

enum { WARPS = 4, MAX_PADDED = 256 };

static __global__ void rope_table(float *cos_sin, const double *freqs, const int *positions,
                                  int half_dim, double magnitude)
{
    start_next();
    wait_for_inputs();
    float *out = cos_sin + (size_t)blockIdx.x * 2 * half_dim;
    for (int i = threadIdx.x; i < half_dim; i += blockDim.x) {
        double s, c;
        sincos(positions[blockIdx.x] * freqs[i], &s, &c);
        out[i] = (float)(c * magnitude);
        out[half_dim + i] = (float)(s * magnitude);
    }
}

cudaError_t qh_cuda_rope_table(float *cos_sin, const double *freqs, const int *positions,
                               int n_rows, int half_dim, double magnitude, cudaStream_t stream)
{
    if (n_rows == 0 || half_dim == 0) return cudaSuccess;
    return launch(rope_table, n_rows, 128, stream, cos_sin, freqs, positions, half_dim, magnitude);
}

/* x[i] of a rotated head, i < rope_dim. */
static __device__ float rotated(const float *x, const float *cos_sin, int i, int rope_dim,
                                bool is_interleaved)
{
    const int half = rope_dim / 2;
    const int pair = is_interleaved ? i / 2 : i % half,
              partner = is_interleaved ? i ^ 1 : (i + half) % rope_dim;
    const bool is_first = is_interleaved ? i % 2 == 0 : i < half;
    const float c = cos_sin[pair], s = cos_sin[half + pair];
    return is_first ? fmaf(x[i], c, -x[partner] * s) : fmaf(x[i], c, x[partner] * s);
}

static __global__ __launch_bounds__(WARPS * 32)
void heads(qh_heads_args a)
{
    __shared__ float shared[WARPS][MAX_PADDED];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y;
    const int n_kv = a.kv.n_kv_heads, n_all = a.n_heads + 2 * n_kv,
              head = blockIdx.x * WARPS + warp;
    start_next();
    wait_for_inputs();
    if (head >= n_all) return;
    const int hd = a.kv.head_dim;
    const bool is_q = head < a.n_heads, is_v = head >= a.n_heads + n_kv;
    const float *in = a.qkv + ((size_t)row * n_all + head) * hd,
                *bias = a.bias ? a.bias + (size_t)head * hd : NULL;
    const float *norm = is_q ? a.q_norm : is_v ? NULL : a.k_norm;
    float *x = shared[warp];

    float sum = 0;
    for (int i = lane; i < hd; i += 32) {
        const float v = bias ? in[i] + bias[i] : in[i];
        sum = fmaf(v, v, sum);
        x[i] = v;
    }
    if (norm) {
        const float scale = rsqrtf(warp_sum(sum) / hd + a.eps);
        for (int i = lane; i < hd; i += 32) x[i] *= scale * norm[i];
    }
    __syncwarp();

    const float *cos_sin = a.cos_sin + (size_t)row * a.rope_dim;
    __nv_bfloat16 *q = (__nv_bfloat16 *)a.q + ((size_t)row * a.n_heads + head) * a.kv.padded;
    const int slot = a.positions[row] % KV_PAGE_TOKENS;
    const int kv_head = is_v ? head - a.n_heads - n_kv : head - a.n_heads;
    __nv_bfloat16 *k = is_q ? NULL : kv_keys(a.kv, a.pages[row], kv_head),
                  *v = is_q ? NULL : kv_values(a.kv, k);
    for (int i = lane; i < a.kv.padded; i += 32) {
        float y = i < hd ? x[i] : 0.0f;
        if (!is_v && i < a.rope_dim) y = rotated(x, cos_sin, i, a.rope_dim, a.is_interleaved);
        if (is_q) q[i] = __float2bfloat16_rn(y * a.q_scale);
        else if (is_v) v[i * KV_PAGE_TOKENS + slot] = __float2bfloat16_rn(y);
        else k[slot * a.kv.padded + i] = __float2bfloat16_rn(y);
    }
}

cudaError_t qh_cuda_heads(const qh_heads_args *a, cudaStream_t stream)
{
    if (a->n_rows == 0) return cudaSuccess;
    const int n_all = a->n_heads + 2 * a->kv.n_kv_heads;
    return launch(heads, dim3((n_all + WARPS - 1) / WARPS, a->n_rows), WARPS * 32, stream, *a);
}
