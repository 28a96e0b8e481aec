/* rms_norm: y[i, k] = bf16(x[r, k] * w[k] / sqrt(mean over k of x[r, k]^2 + eps)), r = rows ? rows[i] : i
 *
 * Shapes    x [any, dim] and w [dim] float; y [n_rows, padded dim] bf16, beyond dim left as it is (zeros).
 * Launch    grid n_rows, block 256. One block owns one row.
 * Traffic   4*dim in (the second read hits cache), 2*dim out per row.
 * Numerics  float sum in a fixed order: a row gives the same bits alone or in any batch.
 * Oracle    qh_ref_rms_norm (double), |err| <= 2^-8*|y| + 1e-6; tests/gpu/kernels_test.c */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include <cuda_bf16.h>

static __global__ __launch_bounds__(256)
void rms_norm(qh_bf16 *y, const float *x, const float *w, const int *rows, int dim, int ld, float eps)
{
    const float *xr = x + (size_t)(rows ? rows[blockIdx.x] : blockIdx.x) * dim;
    __nv_bfloat16 *yr = (__nv_bfloat16 *)y + (size_t)blockIdx.x * ld;
    float sum = 0;
    for (int k = threadIdx.x; k < dim; k += 256) sum = fmaf(xr[k], xr[k], sum);
    const float scale = rsqrtf(block_sum<256>(sum) / dim + eps);
    for (int k = threadIdx.x; k < dim; k += 256) yr[k] = __float2bfloat16_rn(xr[k] * scale * w[k]);
}

cudaError_t qh_cuda_rms_norm(qh_bf16 *y, const float *x, const float *w, const int *rows, int n_rows, int dim,
                             float eps, cudaStream_t stream)
{
    if (n_rows == 0) return cudaSuccess;
    rms_norm<<<n_rows, 256, 0, stream>>>(y, x, w, rows, dim, qh_padded_dim(dim), eps);
    return cudaGetLastError();
}
