/* silu_mul: y[n, k] = silu(gate[n, k]) * up[n, k], of products in the order of gate-and-up row
 * tiles
 *
 * Shapes    x [n_rows][16 * n_row_tiles] bf16, eight of gate and eight of up by turns; y
 * [n_rows][ld] bf16 in act order, 8 * n_row_tiles columns of it. Launch    grid (ceil(n_row_tiles /
 * 128), n_rows), block 128: a thread a row tile. Traffic   32 bytes in and 16 out a tile. Numerics
 * float, one rounding to bf16. Oracle    the formula in double, |err| <= 2^-8 * |y|;
 * tests/gpu/kernels_test.c */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include <cuda_bf16.h>

enum { THREADS = 128 };

static __global__ __launch_bounds__(THREADS) void silu_mul(qh_bf16 *y, const qh_bf16 *x,
                                                           int n_row_tiles, int ld)
{
    start_next();
    wait_for_inputs();
    const int tile = blockIdx.x * THREADS + threadIdx.x;
    if (tile >= n_row_tiles) return;
    const uint4 *from = (const uint4 *)(x + ((size_t)blockIdx.y * n_row_tiles + tile) * 16);
    const uint4 gate = from[0], up = from[1];
    const uint32_t g[4] = {gate.x, gate.y, gate.z, gate.w}, u[4] = {up.x, up.y, up.z, up.w};
    __nv_bfloat16 h[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t gw = i % 2 ? g[i / 2] & 0xffff0000u : g[i / 2] << 16,
                       uw = i % 2 ? u[i / 2] & 0xffff0000u : u[i / 2] << 16;
        const float v = __uint_as_float(gw), w = __uint_as_float(uw);
        /* Columns beyond dim are products of zero rows. */
        h[i] = __float2bfloat16_rn(v / (1.0f + __expf(-v)) * w);
    }
    /* Four columns stay together, in the order 0, 2, 1, 3. */
    __nv_bfloat16 *out = (__nv_bfloat16 *)y + (size_t)blockIdx.y * ld;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const __nv_bfloat162 first(h[i], h[i + 2]), second(h[i + 1], h[i + 3]);
        *(uint2 *)(out + qh_act_place(8 * tile + i)) =
            make_uint2(*(const uint32_t *)&first, *(const uint32_t *)&second);
    }
}

cudaError_t qh_cuda_silu_mul(qh_bf16 *y, const qh_bf16 *x, int n_rows, int n_row_tiles, int ld,
                             cudaStream_t stream)
{
    if (n_rows == 0) return cudaSuccess;
    return launch(silu_mul, dim3((n_row_tiles + THREADS - 1) / THREADS, n_rows), THREADS, stream, y,
                  x, n_row_tiles, ld);
}
