/* rms_norm: y[i, k] = bf16(x[r, k] * w[k] / sqrt(mean over k of x[r, k]^2 + eps)), r = rows ?
 * rows[i] : i
 *
 * Shapes    x [any, dim] and w [dim] float; y [n_rows, padded dim] bf16, columns in act order,
 *           beyond dim left as they are (zeros).
 * Launch    grid n_rows, block 512. One block owns one row, up to 4,096 columns of it in registers.
 * Traffic   4*dim in, 2*dim out per row; w through cache.
 * Numerics  float sum in a fixed order: a row gives the same bits alone or in any batch.
 * Oracle    qh_ref_rms_norm (double), |err| <= 2^-8*|y| + 1e-6; tests/gpu/kernels_test.c */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include <cuda_bf16.h>

enum { THREADS = 512, HELD = 8 }; /* values that a thread keeps from the first read to the second */

static __global__ __launch_bounds__(THREADS) void rms_norm(qh_bf16 *y, const float *x,
                                                           const float *w, const int *rows, int dim,
                                                           int ld, float eps)
{
    float held[HELD], weight[HELD], sum = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int k = threadIdx.x + i * THREADS;
        weight[i] = k < dim ? w[k] : 0;
    }
    start_next();
    wait_for_inputs();
    const float *xr = x + (size_t)(rows ? rows[blockIdx.x] : blockIdx.x) * dim;
    __nv_bfloat16 *yr = (__nv_bfloat16 *)y + (size_t)blockIdx.x * ld;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int k = threadIdx.x + i * THREADS;
        held[i] = k < dim ? xr[k] : 0;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++) sum = fmaf(held[i], held[i], sum);
    for (int k = threadIdx.x + HELD * THREADS; k < dim; k += THREADS) sum = fmaf(xr[k], xr[k], sum);
    const float scale = rsqrtf(block_sum<THREADS>(sum) / dim + eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int k = threadIdx.x + i * THREADS;
        if (k < dim) yr[qh_act_place(k)] = __float2bfloat16_rn(held[i] * scale * weight[i]);
    }
    for (int k = threadIdx.x + HELD * THREADS; k < dim; k += THREADS)
        yr[qh_act_place(k)] = __float2bfloat16_rn(xr[k] * scale * w[k]);
}

cudaError_t qh_cuda_rms_norm(qh_bf16 *y, const float *x, const float *w, const int *rows,
                             int n_rows, int dim, float eps, cudaStream_t stream)
{
    if (n_rows == 0) return cudaSuccess;
    return launch(rms_norm, n_rows, THREADS, stream, y, x, w, rows, dim, qh_padded_dim(dim), eps);
}
