/* unpack: rows of bf16 out of units, columns in act order: what a library's matrix product reads
 *
 * Shapes    units of n_row_tiles x n_units; y [16 * n_row_tiles][64 * n_units] bf16. Gate and up
 *           keep the order of their row tiles: eight rows of each by turns.
 * Launch    a warp a unit, 8 warps a block, no shared memory.
 * Traffic   units in, 2,048 bytes a unit out in pieces of 64.
 * Numerics  scale * (q - offset) + minimum in float, one rounding to bf16.
 * Oracle    embed of every row, |err| <= 2^-8 * |y|; tests/gpu/kernels_test.c */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

template <class F> static __global__ __launch_bounds__(256) void unpack(qh_bf16 *y, qh_tiles w)
{
    const int64_t u = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    if (u >= (int64_t)w.n_row_tiles * w.n_units) return;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int tile = (int)(u / w.n_units), column = (int)(u % w.n_units) * QH_UNIT_DIM;
    lane_unit<F> unit;
    unit.load(w.units + (size_t)u * F::unit_bytes, lane);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        uint32_t a[2][4];
        unit.fragment(a[0], c, 0);
        unit.fragment(a[1], c, 1);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t words[4] = {a[0][h], a[0][2 + h], a[1][h], a[1][2 + h]};
            if constexpr (F::group != 0) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int group = F::group == 16 ? 2 * c + i / 2 : c;
                    const float2 s2 = halves_of(unit.scale[group]),
                                 m2 = halves_of(unit.min[F::has_min ? group : 0]);
                    const float s = h ? s2.y : s2.x, m = F::has_min ? h ? m2.y : m2.x : 0.0f;
                    const float2 q = __bfloat1622float2(*(const __nv_bfloat162 *)&words[i]);
                    words[i] = lane_unit<F>::pair_of(
                        __floats2bfloat162_rn(fmaf(q.x, s, m), fmaf(q.y, s, m)));
                }
            }
            const size_t row = (size_t)tile * QH_TILE_ROWS + g + 8 * h;
            *(uint4 *)(y + row * w.n_units * QH_UNIT_DIM + column + 32 * c + 8 * t) =
                make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
}

cudaError_t qh_cuda_unpack(qh_bf16 *y, const qh_tiles *w, cudaStream_t stream)
{
    const int64_t n = (int64_t)w->n_row_tiles * w->n_units;
    if (n == 0) return cudaSuccess;
    const unsigned grid = (unsigned)((n + 7) / 8);
    switch (w->tile) {
#define X(name, low, high, group, has_min, offset)                                                 \
    case QH_TILE_##name: unpack<tile_##name><<<grid, 256, 0, stream>>>(y, *w); break;
        QH_TILE_LIST(X)
#undef X
    case QH_N_TILES: return cudaErrorInvalidValue;
    }
    return cudaGetLastError();
}
