/* matmul: y[n, r] = sum over k of W[r, k] * x[n, k], W in units, x bf16
 *
 * Shapes    W [n_rows, dim] as tile.h says; x [n_tokens, padded dim] bf16, zeros beyond dim, rows
 *           16-byte aligned; y float [n_tokens, ldy], or with SILU_MUL bf16, of gate and up that
 *           share row tiles.
 * Launch    grid (row tiles of all products, blocks of 8*N8 tokens), block 256. A warp takes an
 *           eighth of k; no operand goes through shared memory: fragments are loaded as they are,
 *           weights from DRAM once per token block and several units ahead, the first ones before
 *           the inputs are waited for, activations from L1 and L2. Neighbouring products of one
 *           format are one launch. (Choosing the format inside the kernel costs 120 registers for
 *           all: half the blocks an SM, 1.5 times the time.) Partial sums meet in 4 KB * N8 of
 *           shared memory.
 * Traffic   the units, once for each 64 tokens; 2*dim*n_tokens bytes of x a row tile out of L2.
 * Numerics  integers and bf16 weights exact, x bf16, float accumulation in a fixed order: columns
 *           of a group by the tensor core, groups of an eighth of k in order, then the eighths in
 *           order. None depends on n_tokens: a token gives the same bits in any batch.
 * Oracle    double product over the packed weights and the same x: |err| <= 3e-5 of the sum of
 *           |w*x|; tests/gpu/kernels_test.c */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

enum { WARPS = 8, MAX_N8 = 8 };

struct products {
    qh_product p[QH_MAX_PRODUCTS];
    int n;
};

/* Activations of a unit's columns: B fragments, one load for both steps of a half. With few
 * tokens they are loaded a unit ahead, with many when they are needed: registers hold no more. */
template <int N8>
struct lane_acts {
    static constexpr bool is_ahead = N8 <= 2;
    uint4 held[is_ahead ? N8 : 1][2];
    const qh_bf16 *x;

    __device__ __forceinline__ uint4 read(int n, int c, int ldx, int n_tokens) const
    {
        const bool is_in = 8 * n + (int)(threadIdx.x % 32 / 4) < n_tokens;
        return is_in ? *(const uint4 *)(x + (size_t)(8 * n) * ldx + 32 * c)
                     : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ void load(const qh_bf16 *from, int ldx, int n_tokens)
    {
        x = from;
        if constexpr (is_ahead) {
#pragma unroll
            for (int n = 0; n < N8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) held[n][c] = read(n, c, ldx, n_tokens);
        }
    }

    __device__ __forceinline__ uint4 get(int n, int c, int ldx, int n_tokens) const
    {
        if constexpr (is_ahead) return held[n][c];
        else return read(n, c, ldx, n_tokens);
    }
};

/* acc += scale * c for both rows of a lane, and minimum * xs. */
template <class F>
static __device__ __forceinline__ void add_group(float (&acc)[4], const lane_unit<F> &w, int group,
                                                 const float (&c)[4], const float (&xs)[4])
{
    const float2 s = halves_of(w.scale[group]);
    acc[0] = fmaf(s.x, c[0], acc[0]), acc[1] = fmaf(s.x, c[1], acc[1]);
    acc[2] = fmaf(s.y, c[2], acc[2]), acc[3] = fmaf(s.y, c[3], acc[3]);
    if constexpr (F::has_min) {
        const float2 m = halves_of(w.min[group]);
        acc[0] = fmaf(m.x, xs[0], acc[0]), acc[1] = fmaf(m.x, xs[1], acc[1]);
        acc[2] = fmaf(m.y, xs[2], acc[2]), acc[3] = fmaf(m.y, xs[3], acc[3]);
    }
}

/* 64 columns for all tokens of the block. Integers are multiplied as they are and a group's sum is
 * scaled; the sums of x that minima need are a product with ones, on tensor cores that are idle. */
template <class F, int N8>
static __device__ __forceinline__ void multiply_unit(float (&acc)[N8][4], const lane_unit<F> &w,
                                                     const lane_acts<N8> &x, int ldx, int n_tokens)
{
    const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int c = 0; c < 2; c++) {
        uint32_t a[2][4];
        w.fragment(a[0], c, 0);
        w.fragment(a[1], c, 1);
#pragma unroll
        for (int n = 0; n < N8; n++) {
            const uint4 b = x.get(n, c, ldx, n_tokens);
            float sum[4] = {0, 0, 0, 0}, xs[4] = {0, 0, 0, 0};
#pragma unroll
            for (int s = 0; s < 2; s++) {
                const uint32_t b0 = s ? b.z : b.x, b1 = s ? b.w : b.y;
                if constexpr (F::group == 0) {
                    mma_bf16(acc[n], a[s], b0, b1);
                } else {
                    mma_bf16(sum, a[s], b0, b1);
                    if constexpr (F::has_min) mma_bf16(xs, ones, b0, b1);
                    if (F::group == 16) {
                        add_group<F>(acc[n], w, 2 * c + s, sum, xs);
#pragma unroll
                        for (int e = 0; e < 4; e++) sum[e] = xs[e] = 0;
                    } else if (s == 1) {
                        add_group<F>(acc[n], w, c, sum, xs);
                    }
                }
            }
        }
    }
}

/* Where a row tile of the list lies and goes. Constant indices, or the list would move to local
 * memory. */
struct place {
    const uint8_t *units;
    void *y;
    int row_tile, n_rows;
};

template <class F>
static __device__ __forceinline__ place place_of(const products &all, int tile)
{
    place p = {all.p[0].w.units, all.p[0].y, tile, all.p[0].w.n_rows};
    bool is_found = false;
#pragma unroll
    for (int i = 1; i < QH_MAX_PRODUCTS; i++) {
        is_found |= i >= all.n || p.row_tile < all.p[i - 1].w.n_row_tiles;
        if (!is_found)
            p = {all.p[i].w.units, all.p[i].y, p.row_tile - all.p[i - 1].w.n_row_tiles,
                 all.p[i].w.n_rows};
    }
    p.units += (size_t)p.row_tile * all.p[0].w.n_units * F::unit_bytes;
    return p;
}

/* A warp's units: its eighth of k of the block's row tiles, one after the other. */
template <class F>
struct unit_stream {
    const products *all;
    const uint8_t *at;
    int tile, n_tiles, begin, n, left;      /* tile: the next to begin; left: of the present one */

    __device__ __forceinline__ void load(lane_unit<F> &u)
    {
        if (left == 0) {
            if (tile >= n_tiles || n == 0) return;
            at = place_of<F>(*all, tile).units + (size_t)begin * F::unit_bytes;
            tile += gridDim.x;
            left = n;
        }
        u.load(at, threadIdx.x % 32);
        at += F::unit_bytes;
        left--;
    }
};

/* Sum of the warps' parts in order, and out. */
template <int N8, qh_epilogue EPILOGUE>
static __device__ __forceinline__ void write_tile(const place &p,
                                                  float (*parts)[QH_TILE_ROWS][8 * N8], int64_t ldy,
                                                  int first_token, int n_tokens)
{
    auto total = [&](int row, int token) {
        float v = 0;
#pragma unroll
        for (int i = 0; i < WARPS; i++) v += parts[i][row][token];
        return v;
    };
    constexpr int ROWS = EPILOGUE == QH_EPILOGUE_SILU_MUL ? 8 : 16;
    for (int i = threadIdx.x; i < ROWS * n_tokens; i += WARPS * 32) {
        const int token = i / ROWS, row = p.row_tile * ROWS + i % ROWS;
        if (row >= p.n_rows) continue;
        const int64_t line = (first_token + token) * ldy;
        const float v = total(i % ROWS, token);
        if constexpr (EPILOGUE == QH_EPILOGUE_SILU_MUL) {
            const float h = v / (1.0f + __expf(-v)) * total(i % ROWS + 8, token);
            ((__nv_bfloat16 *)p.y)[line + qh_act_place(row)] = __float2bfloat16_rn(h);
        } else {
            float *y = (float *)p.y + line + row;
            *y = EPILOGUE == QH_EPILOGUE_ADD ? *y + v : v;
        }
    }
}

/* Blocks that fit an SM; registers are set to it. */
template <class F, int N8>
struct residency {
    static constexpr int blocks = N8 > 1 ? 2 : F::unit_bytes > 1088 ? 3 : 4;
};

template <class F, int N8, qh_epilogue EPILOGUE>
static __global__ __launch_bounds__(WARPS * 32, (residency<F, N8>::blocks)) void matmul(
    const __grid_constant__ products all, int n_tiles, int64_t ldy, const qh_bf16 *x, int ldx,
    int n_tokens)
{
    /* Units on their way: with few tokens the latency of DRAM is all there is to hide. */
    constexpr int TOKENS = 8 * N8, AHEAD = N8 > 2 || F::unit_bytes > 1088 ? 1 : 2;
    __shared__ float parts[WARPS][QH_TILE_ROWS][TOKENS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_token = blockIdx.y * TOKENS, tokens = min(n_tokens - first_token, TOKENS);
    const int n_units = all.p[0].w.n_units, begin = n_units * warp / WARPS,
              n = n_units * (warp + 1) / WARPS - begin;
    x += (size_t)(first_token + g) * ldx + begin * QH_UNIT_DIM + 8 * t;

    unit_stream<F> stream = {&all, nullptr, (int)blockIdx.x, n_tiles, begin, n, 0};
    lane_unit<F> ring[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) stream.load(ring[i]);
    start_next();
    wait_for_inputs();
    lane_acts<N8> next;
    if (n > 0) next.load(x, ldx, tokens);
    for (int tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        float acc[N8][4] = {};
        for (int u = 0; u < n; u++) {
            const lane_unit<F> unit = ring[0];
            const lane_acts<N8> acts = next;
#pragma unroll
            for (int i = 1; i < AHEAD; i++) ring[i - 1] = ring[i];
            stream.load(ring[AHEAD - 1]);
            next.load(x + (u + 1 < n ? u + 1 : 0) * QH_UNIT_DIM, ldx, tokens);
            multiply_unit<F, N8>(acc, unit, acts, ldx, tokens);
        }
#pragma unroll
        for (int i = 0; i < N8; i++) {
            *(float2 *)&parts[warp][g][8 * i + 2 * t] = make_float2(acc[i][0], acc[i][1]);
            *(float2 *)&parts[warp][g + 8][8 * i + 2 * t] = make_float2(acc[i][2], acc[i][3]);
        }
        __syncthreads();
        write_tile<N8, EPILOGUE>(place_of<F>(all, tile), parts, ldy, first_token, tokens);
        __syncthreads();
    }
}

/* Products of one format. */
struct batch {
    products all;
    int n_row_tiles, ldx, n_tokens;
    int64_t ldy;
    const qh_bf16 *x;
    qh_epilogue epilogue;
    cudaStream_t stream;
};

template <class F, int N8>
static cudaError_t launch_wide(const batch &b)
{
    const int most = selected_gpu().n_sms * residency<F, N8>::blocks;
    const dim3 grid(b.n_row_tiles < most ? b.n_row_tiles : most,
                    (b.n_tokens + 8 * N8 - 1) / (8 * N8));
    auto *kernel = b.epilogue == QH_EPILOGUE_STORE ? matmul<F, N8, QH_EPILOGUE_STORE>
                   : b.epilogue == QH_EPILOGUE_ADD ? matmul<F, N8, QH_EPILOGUE_ADD>
                                                   : matmul<F, N8, QH_EPILOGUE_SILU_MUL>;
    return launch(kernel, grid, WARPS * 32, b.stream, b.all, b.n_row_tiles, b.ldy, b.x, b.ldx,
                  b.n_tokens);
}

template <class F>
static cudaError_t launch_format(const batch &b)
{
    if (b.n_tokens <= 8) return launch_wide<F, 1>(b);
    if (b.n_tokens <= 16) return launch_wide<F, 2>(b);
    if (b.n_tokens <= 32) return launch_wide<F, 4>(b);
    return launch_wide<F, MAX_N8>(b);
}

static cudaError_t launch_batch(const batch &b)
{
    switch (b.all.p[0].w.tile) {
#define X(name, low, high, group, has_min, offset)                                                 \
    case QH_TILE_##name: return launch_format<tile_##name>(b);
        QH_TILE_LIST(X)
#undef X
    case QH_N_TILES: break;
    }
    return cudaErrorInvalidValue;
}

cudaError_t qh_cuda_matmul(const qh_product *list, int n_products, int64_t ldy, const qh_bf16 *x,
                           int n_tokens, qh_epilogue epilogue, cudaStream_t stream)
{
    if (n_products < 1 || n_products > QH_MAX_PRODUCTS) return cudaErrorInvalidValue;
    if (n_tokens == 0) return cudaSuccess;
    for (int i = 0; i < n_products;) {
        batch b = {{}, 0, qh_padded_dim(list[0].w.dim), n_tokens, ldy, x, epilogue, stream};
        do {
            b.all.p[b.all.n++] = list[i];
            b.n_row_tiles += list[i].w.n_row_tiles;
            i++;
        } while (i < n_products && list[i].w.tile == list[i - 1].w.tile);
        const cudaError_t e = launch_batch(b);
        if (e) return e;
    }
    return cudaSuccess;
}
