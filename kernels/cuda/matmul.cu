/* matmul: y[n, r] = sum over k of W[r, k] * x[n, k], W in units, x bf16
 *
 * Shapes    W [n_rows, dim] as tile.h says; x [n_tokens, padded dim] bf16, zeros beyond dim, rows 16-byte
 *           aligned; y float [n_tokens, ldy], or with SILU_MUL bf16, of gate and up that share row tiles.
 * Launch    grid (row tiles, blocks of 8*N8 tokens), block 256. A warp takes an eighth of k; no operand
 *           goes through shared memory: both fragments are 16-byte loads, weights from DRAM once per
 *           token block, activations from L1 and L2. Partial sums meet in 4 KB * N8 of shared memory.
 * Traffic   the units, once for each 64 tokens; 2*dim*n_tokens bytes of x a row tile out of L2.
 * Numerics  weights to bf16 (scale * q + minimum in float, rounded once), float accumulation in the
 *           order: an eighth of k by the tensor core, then the eighths in order. Neither depends on
 *           n_tokens: a token gives the same bits in any batch.
 * Oracle    double product over the packed weights and the same x: |err| <= 2^-8 of the sum of |w*x|;
 *           tests/gpu/kernels_test.c */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

enum { WARPS = 8, MAX_N8 = 8 };

template <class F, int N8>
static __device__ __forceinline__ void multiply_unit(float (&acc)[N8][4], const lane_unit<F> &w, const qh_bf16 *x,
                                                     int ldx, int n_tokens)
{
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int c = 0; c < 2; c++) {
        uint32_t a[2][4];
        w.fragment(a[0], c, 0);
        w.fragment(a[1], c, 1);
#pragma unroll
        for (int n = 0; n < N8; n++) {
            uint4 b = make_uint4(0, 0, 0, 0);
            if (8 * n + g < n_tokens) b = *(const uint4 *)(x + (size_t)(8 * n) * ldx + 32 * c);
            mma_bf16(acc[n], a[0], b.x, b.y);
            mma_bf16(acc[n], a[1], b.z, b.w);
        }
    }
}

template <qh_epilogue EPILOGUE>
static __device__ __forceinline__ void write_out(void *y, int64_t ldy, int token, int row, float v)
{
    float *p = (float *)y + token * ldy + row;
    *p = EPILOGUE == QH_EPILOGUE_ADD ? *p + v : v;
}

template <class F, int N8, qh_epilogue EPILOGUE>
static __global__ __launch_bounds__(WARPS * 32)
void matmul(void *y, int64_t ldy, qh_tiles w, const qh_bf16 *x, int ldx, int n_tokens)
{
    constexpr int TOKENS = 8 * N8;
    __shared__ float parts[WARPS][QH_TILE_ROWS][TOKENS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_token = blockIdx.y * TOKENS, tokens = min(n_tokens - first_token, TOKENS);
    const int begin = w.n_units * warp / WARPS, end = w.n_units * (warp + 1) / WARPS;
    const uint8_t *units = w.units + (size_t)blockIdx.x * w.n_units * F::unit_bytes;
    const qh_bf16 *xl = x + (size_t)(first_token + g) * ldx + 8 * t;

    float acc[N8][4] = {};
    lane_unit<F> next;
    if (begin < end) next.load(units + (size_t)begin * F::unit_bytes, lane);
    for (int u = begin; u < end; u++) {
        const lane_unit<F> unit = next;
        if (u + 1 < end) next.load(units + (size_t)(u + 1) * F::unit_bytes, lane);
        multiply_unit<F, N8>(acc, unit, xl + u * QH_UNIT_DIM, ldx, tokens);
    }

#pragma unroll
    for (int n = 0; n < N8; n++) {
        *(float2 *)&parts[warp][g][8 * n + 2 * t] = make_float2(acc[n][0], acc[n][1]);
        *(float2 *)&parts[warp][g + 8][8 * n + 2 * t] = make_float2(acc[n][2], acc[n][3]);
    }
    __syncthreads();
    auto total = [&](int row, int token) {
        float v = 0;
#pragma unroll
        for (int i = 0; i < WARPS; i++) v += parts[i][row][token];
        return v;
    };
    constexpr int ROWS = EPILOGUE == QH_EPILOGUE_SILU_MUL ? 8 : 16;
    for (int i = threadIdx.x; i < ROWS * tokens; i += WARPS * 32) {
        const int token = i / ROWS, row = blockIdx.x * ROWS + i % ROWS;
        if (row >= w.n_rows) continue;
        const float v = total(i % ROWS, token);
        if constexpr (EPILOGUE == QH_EPILOGUE_SILU_MUL) {
            const float h = v / (1.0f + __expf(-v)) * total(i % ROWS + 8, token);
            ((__nv_bfloat16 *)y)[(first_token + token) * ldy + row] = __float2bfloat16_rn(h);
        } else {
            write_out<EPILOGUE>(y, ldy, first_token + token, row, v);
        }
    }
}

template <class F, int N8>
static void launch(void *y, int64_t ldy, const qh_tiles *w, const qh_bf16 *x, int n_tokens, qh_epilogue epilogue,
                   cudaStream_t stream)
{
    const dim3 grid(w->n_row_tiles, (n_tokens + 8 * N8 - 1) / (8 * N8));
    const int ldx = qh_padded_dim(w->dim);
    switch (epilogue) {
    case QH_EPILOGUE_STORE:
        matmul<F, N8, QH_EPILOGUE_STORE><<<grid, WARPS * 32, 0, stream>>>(y, ldy, *w, x, ldx, n_tokens);
        break;
    case QH_EPILOGUE_ADD:
        matmul<F, N8, QH_EPILOGUE_ADD><<<grid, WARPS * 32, 0, stream>>>(y, ldy, *w, x, ldx, n_tokens);
        break;
    case QH_EPILOGUE_SILU_MUL:
        matmul<F, N8, QH_EPILOGUE_SILU_MUL><<<grid, WARPS * 32, 0, stream>>>(y, ldy, *w, x, ldx, n_tokens);
        break;
    }
}

template <class F>
static void choose(void *y, int64_t ldy, const qh_tiles *w, const qh_bf16 *x, int n_tokens, qh_epilogue epilogue,
                   cudaStream_t stream)
{
    if (n_tokens <= 8) launch<F, 1>(y, ldy, w, x, n_tokens, epilogue, stream);
    else if (n_tokens <= 16) launch<F, 2>(y, ldy, w, x, n_tokens, epilogue, stream);
    else if (n_tokens <= 32) launch<F, 4>(y, ldy, w, x, n_tokens, epilogue, stream);
    else launch<F, MAX_N8>(y, ldy, w, x, n_tokens, epilogue, stream);
}

cudaError_t qh_cuda_matmul(void *y, int64_t ldy, const qh_tiles *w, const qh_bf16 *x, int n_tokens,
                           qh_epilogue epilogue, cudaStream_t stream)
{
    if (n_tokens == 0 || w->n_row_tiles == 0) return cudaSuccess;
    switch (w->tile) {
#define X(name, low, high, group, has_min, offset)                                                 \
    case QH_TILE_##name: choose<tile_##name>(y, ldy, w, x, n_tokens, epilogue, stream); break;
        QH_TILE_LIST(X)
#undef X
    case QH_N_TILES: return cudaErrorInvalidValue;
    }
    return cudaGetLastError();
}
