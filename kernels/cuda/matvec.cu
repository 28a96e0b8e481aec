/* matvec: y = W x for one token, W in units of integers, x as 8-bit integers with a scale a 16
 *
 * One token leaves seven of the eight columns of a tensor core's B idle. They take groups of k:
 * column j holds group j of 128 columns and zeros elsewhere, so that one product of 16 rows x 128
 * columns gives every group's sum by itself, each to be scaled once.
 *
 * Shapes    units of one or two formats, row tiles of all matrices of a format behind each other
 *           (multiples of 16 rows); x float [dim], or integers and scales as a phase before left
 *           them, both padded with zeros to 128 columns; y float [n_rows], or integers and scales.
 * Launch    two blocks an SM (fewer for few tiles) of 8 warps, and room for one of the next launch.
 *           A block owns a contiguous range of unit pairs, a warp an equal part of it, so that all
 *           SMs end together. The first pairs are loaded before the inputs are waited for. x and
 *           the warps' partial sums are in shared memory.
 * Traffic   the units once; x once a block.
 * Numerics  x rounded to 127 steps of the largest of 16; integer sums exact; float sums in an order
 *           that the shape and the number of SMs fix. QH_MATVEC_ADD: a tile is shared by two blocks
 *           at most, and 0 + a + b has one value whoever comes first.
 * Oracle    double product over the packed weights and the integers of x, |err| <= 1e-5 of the sum
 *           of |w*x|, and over x itself, within 1.5 %; tests/gpu/kernels_test.c */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tile.cuh"

enum {
    WARPS = 8,
    BLOCKS_AN_SM = 2,
    THREADS = 32 * WARPS,
    PAIR = 2 * QH_UNIT_DIM,
    GROUP = QH_ACT8_GROUP
};

/* Adding 1.5 * 2^23 to an integer below 2^22 makes the bits of that float: no conversion needed. */
static constexpr int MAGIC_BITS = 0x4b400000;
static constexpr float MAGIC = 12582912.0f;

/* Shared memory of a block: what a pair reads of x, then partial sums. */
struct shared_x {
    uint32_t *words; /* [padded / 4] */
    float *scales;   /* [padded / 16] */
    float *extras;   /* [padded / 16] scale * sum, or bits of MAGIC less offset * sum */
    float *parts;    /* [WARPS][max_parts][16] */
};

static __host__ __device__ int padded_of(int dim)
{
    return (dim + PAIR - 1) / PAIR * PAIR;
}

static __device__ shared_x shared_of(uint8_t *base, int padded)
{
    shared_x s;
    s.words = (uint32_t *)base;
    s.scales = (float *)(base + padded);
    s.extras = s.scales + padded / GROUP;
    s.parts = s.extras + padded / GROUP;
    return s;
}

/* What a format asks of extras. */
struct extra_kind {
    int offset;
    bool has_min;
};

static __device__ __forceinline__ float extra_of(extra_kind kind, float scale, int sum)
{
    return kind.has_min ? scale * (float)sum : __int_as_float(MAGIC_BITS - kind.offset * sum);
}

/* ---- x ---- */

static __device__ __forceinline__ uint32_t pack4(float a, float b, float c, float d)
{
    /* The low byte of 1.5 * 2^23 + v is v rounded to the nearest integer. */
    const uint32_t ab = __byte_perm(__float_as_uint(a + MAGIC), __float_as_uint(b + MAGIC), 0x0040),
                   cd = __byte_perm(__float_as_uint(c + MAGIC), __float_as_uint(d + MAGIC), 0x0040);
    return __byte_perm(ab, cd, 0x5410);
}

static __device__ __forceinline__ float4 if_inside(const float *p, int k, int dim)
{
    return k < dim ? __ldcg((const float4 *)(p + k)) : make_float4(0, 0, 0, 0);
}

/* x times the norm's weights as integers; the factor of the norm comes later, in the result. Two
 * threads share a group. Returns this thread's part of the sum of squares. */
static __device__ __forceinline__ float quantize_x(const shared_x &s, const qh_matvec_args &a,
                                                   float4 w0, float4 w1, extra_kind kind,
                                                   int padded)
{
    float squares = 0;
    for (int k = 8 * threadIdx.x; k < padded; k += 8 * THREADS) {
        const float4 x0 = if_inside(a.x, k, a.dim), x1 = if_inside(a.x, k + 4, a.dim);
        if (k >= 8 * THREADS)
            w0 = if_inside(a.norm_weight, k, a.dim), w1 = if_inside(a.norm_weight, k + 4, a.dim);
        const float v[8] = {x0.x * w0.x, x0.y * w0.y, x0.z * w0.z, x0.w * w0.w,
                            x1.x * w1.x, x1.y * w1.y, x1.z * w1.z, x1.w * w1.w};
        squares += x0.x * x0.x + x0.y * x0.y + x0.z * x0.z + x0.w * x0.w + x1.x * x1.x +
                   x1.y * x1.y + x1.z * x1.z + x1.w * x1.w;
        float most = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
        const unsigned mask = __activemask(); /* both threads of a group are here or neither */
        most = fmaxf(most, __shfl_xor_sync(mask, most, 1));
        const float to_int = most > 0 ? 127.0f / most : 0.0f, scale = most * (1 / 127.0f);
        const uint2 q = {pack4(v[0] * to_int, v[1] * to_int, v[2] * to_int, v[3] * to_int),
                         pack4(v[4] * to_int, v[5] * to_int, v[6] * to_int, v[7] * to_int)};
        int sum = __dp4a((int)q.x, 0x01010101, __dp4a((int)q.y, 0x01010101, 0));
        sum += __shfl_xor_sync(mask, sum, 1);
        *(uint2 *)(s.words + k / 4) = q;
        if (threadIdx.x % 2 == 0) {
            s.scales[k / GROUP] = scale;
            s.extras[k / GROUP] = extra_of(kind, scale, sum);
        }
    }
    return squares;
}

static __device__ __forceinline__ void copy_x(const shared_x &s, const qh_matvec_args &a,
                                              extra_kind kind, int padded)
{
    enum { AT_ONCE = 2 }; /* loads before the first use */
    for (int first = threadIdx.x; first < padded / GROUP; first += AT_ONCE * THREADS) {
        int4 q[AT_ONCE];
        float scale[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int g = first + i * THREADS;
            if (g >= padded / GROUP) break;
            q[i] = __ldcg((const int4 *)(a.x8.q + g * GROUP));
            scale[i] = __ldcg(a.x8.scales + g);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int g = first + i * THREADS;
            if (g >= padded / GROUP) break;
            const int sum =
                __dp4a(q[i].x, 0x01010101,
                       __dp4a(q[i].y, 0x01010101,
                              __dp4a(q[i].z, 0x01010101, __dp4a(q[i].w, 0x01010101, 0))));
            *(int4 *)(s.words + g * GROUP / 4) = q[i];
            s.scales[g] = scale[i];
            s.extras[g] = extra_of(kind, scale[i], sum);
        }
    }
}

/* ---- Units ---- */

/* What a lane holds of 16 rows x 128 columns. Lane 4g + t scales groups 2t and 2t+1 of 16. */
template <class F> struct unit_pair {
    static constexpr int n_scales = F::groups / 2;
    lane_unit<F> u[2];
    uint32_t scale[n_scales], min[n_scales];

    static __device__ __forceinline__ void load_words(uint32_t (&w)[n_scales], const uint8_t *p)
    {
        if constexpr (n_scales == 2) {
            const uint2 v = __ldcs((const uint2 *)p);
            w[0] = v.x, w[1] = v.y;
        } else {
            w[0] = __ldcs((const uint32_t *)p);
        }
    }

    /* second: bytes from the first unit to the second, 0 where the row tile ends between them */
    __device__ __forceinline__ void load(const uint8_t *first, int second)
    {
        const int lane = threadIdx.x % 32, t = lane % 4;
        u[0].load_values(first, lane);
        u[1].load_values(first + second, lane);
        const uint8_t *record = first + (t / 2) * second + F::scales_at +
                                lane / 4 * lane_unit<F>::record_bytes + t % 2 * 4 * n_scales;
        load_words(scale, record);
        if constexpr (F::has_min) load_words(min, record + 4 * F::groups);
    }
};

template <class F>
static __device__ __forceinline__ void multiply(float (&acc)[2], const unit_pair<F> &w,
                                                const shared_x &x, int pair)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t word = x.words[PAIR / 4 * pair + lane];
    const uint32_t even = g % 2 ? 0 : word, odd = g % 2 ? word : 0;
    const float2 scale = ((const float2 *)x.scales)[4 * pair + t],
                 extra = ((const float2 *)x.extras)[4 * pair + t];
    const int c0 = F::has_min ? MAGIC_BITS : __float_as_int(extra.x),
              c1 = F::has_min ? MAGIC_BITS : __float_as_int(extra.y);
    int c[4] = {c0, c1, c0, c1}, d[4] = {0, 0, 0, 0}; /* two chains: half the latency */
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const lane_unit<F> &u = w.u[j / 2];
        const bool is_mine = g / 2 == j;
        mma_u8s8(j % 2 ? d : c, u.bytes(j % 2, 0, 0), u.bytes(j % 2, 1, 0), u.bytes(j % 2, 0, 1),
                 u.bytes(j % 2, 1, 1), is_mine ? even : 0, is_mine ? odd : 0);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) c[e] += d[e];
    const float low0 = (__int_as_float(c[0]) - MAGIC) * scale.x,
                low1 = (__int_as_float(c[1]) - MAGIC) * scale.y,
                high0 = (__int_as_float(c[2]) - MAGIC) * scale.x,
                high1 = (__int_as_float(c[3]) - MAGIC) * scale.y;
    const float2 s0 = halves_of(w.scale[0]);
    if constexpr (unit_pair<F>::n_scales == 2) {
        const float2 s1 = halves_of(w.scale[1]);
        acc[0] = fmaf(s0.x, low0, fmaf(s1.x, low1, acc[0]));
        acc[1] = fmaf(s0.y, high0, fmaf(s1.y, high1, acc[1]));
    } else {
        acc[0] = fmaf(s0.x, low0 + low1, acc[0]);
        acc[1] = fmaf(s0.y, high0 + high1, acc[1]);
    }
    if constexpr (F::has_min) {
        const float2 m0 = halves_of(w.min[0]), m1 = halves_of(w.min[unit_pair<F>::n_scales - 1]);
        acc[0] = fmaf(m0.x, extra.x, fmaf(m1.x, extra.y, acc[0]));
        acc[1] = fmaf(m0.y, extra.x, fmaf(m1.y, extra.y, acc[1]));
    }
}

/* A warp's pairs, one behind the other: next to load. */
struct pair_stream {
    const uint8_t *at;
    int pair, n_pairs, left; /* of the row tile: which, how many; pairs to come */
    bool is_odd;             /* row tiles end with half a pair */

    template <class F> __device__ __forceinline__ void load(unit_pair<F> &p)
    {
        if (left <= 0) return;
        left--;
        const bool is_half = is_odd && pair == n_pairs - 1;
        p.load(at, is_half ? 0 : F::unit_bytes);
        at += is_half ? F::unit_bytes : 2 * F::unit_bytes;
        if (++pair == n_pairs) pair = 0;
    }
};

/* ---- Blocks ---- */

struct unit_range {
    int begin, end; /* pairs, counted over all row tiles */
};

/* Block c of n: whole tiles, in twos where columns are quantized together; any pair with ADD. */
static __host__ __device__ unit_range range_of(int c, int n, int n_tiles, int n_pairs,
                                               qh_matvec_epilogue epilogue)
{
    const unsigned grain = epilogue == QH_MATVEC_ADD    ? 1
                           : epilogue == QH_MATVEC_SILU ? 2 * n_pairs
                                                        : n_pairs;
    const unsigned grains = epilogue == QH_MATVEC_ADD    ? n_tiles * n_pairs
                            : epilogue == QH_MATVEC_SILU ? (n_tiles + 1) / 2
                                                         : n_tiles;
    const unsigned total = n_tiles * n_pairs, end = grains * (c + 1) / n * grain;
    return {(int)(grains * c / n * grain), (int)(end < total ? end : total)};
}

static __host__ __device__ unit_range warp_range(unit_range block, int warp)
{
    const int n = block.end - block.begin;
    return {block.begin + n * warp / WARPS, block.begin + n * (warp + 1) / WARPS};
}

/* Sum of the warps' parts of a row, in order. */
static __device__ __forceinline__ float total_of(const shared_x &s, const int2 *tiles,
                                                 int max_parts, int tile, int row)
{
    float v = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        if (tile >= tiles[w].x && tile <= tiles[w].y)
            v += s.parts[(w * max_parts + tile - tiles[w].x) * QH_TILE_ROWS + row];
    return v;
}

static __device__ __forceinline__ float silu(float v)
{
    return v / (1.0f + __expf(-v));
}

/* Sixteen neighbouring threads hold a group's values; warps come whole. */
static __device__ __forceinline__ void store_group(const qh_act8 &out, int k, float v, bool is_in)
{
    float most = fabsf(v);
#pragma unroll
    for (int o = 1; o < GROUP; o *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
    if (!is_in) return;
    const float to_int = most > 0 ? 127.0f / most : 0.0f;
    out.q[k] = (int8_t)__float2int_rn(v * to_int);
    if (k % GROUP == 0) out.scales[k / GROUP] = most * (1 / 127.0f);
}

/* What row i of a block's tiles adds to. Whoever has a tile's first pair brings it. */
static __device__ __forceinline__ float residual_of(const qh_matvec_args &a,
                                                    const qh_matvec_part &part, unit_range block,
                                                    int n_pairs, int i)
{
    const int tile = block.begin / n_pairs + i / QH_TILE_ROWS,
              k = tile * QH_TILE_ROWS + i % QH_TILE_ROWS, at = tile * n_pairs;
    return at >= block.begin && at < block.end && k < part.n_rows ? __ldcg(a.residual + k) : 0.0f;
}

static __device__ __forceinline__ void write_results(const qh_matvec_args &a,
                                                     const qh_matvec_part &part, const shared_x &s,
                                                     const int2 *tiles, int max_parts,
                                                     unit_range block, int n_pairs, float factor,
                                                     float before)
{
    const int first = block.begin / n_pairs, n_tiles = (block.end - 1) / n_pairs - first + 1;
    const int rows = a.epilogue == QH_MATVEC_SILU ? 8 : 16, n = n_tiles * rows;
    /* Whole warps: groups are exchanged among lanes. */
    for (int i = threadIdx.x; i - (int)threadIdx.x % 32 < n; i += THREADS) {
        const bool is_in = i < n;
        const int tile = first + (is_in ? i / rows : 0), row = i % rows, k = tile * rows + row;
        const float v = total_of(s, tiles, max_parts, tile, row) * factor;
        if (a.epilogue == QH_MATVEC_STORE) {
            if (is_in && k < part.n_rows) part.y[k] = v;
        } else if (a.epilogue == QH_MATVEC_ADD) {
            if (i >= THREADS) before = residual_of(a, part, block, n_pairs, i);
            if (is_in && k < part.n_rows) atomicAdd(part.y + k, v + before);
        } else {
            const float up = total_of(s, tiles, max_parts, tile, row + 8) * factor;
            const float h = is_in && k < part.n_rows ? silu(v) * up : 0.0f;
            /* Ranges begin at even tiles; the last group may have only one. */
            store_group(a.out, rows * first + i, h, i < (n + GROUP - 1) / GROUP * GROUP);
        }
    }
}

/* AHEAD: pairs on their way, in registers. */
template <class F, int AHEAD>
static __device__ __forceinline__ void run_part(const qh_matvec_args &a, const qh_matvec_part &part,
                                                int index, int n_blocks, int max_parts,
                                                uint8_t *memory)
{
    __shared__ int2 tiles[WARPS];
    __shared__ float squares[WARPS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int n_pairs = (a.n_units + 1) / 2, padded = padded_of(a.dim);
    const shared_x s = shared_of(memory, padded);
    const unit_range block = range_of(index, n_blocks, part.n_row_tiles, n_pairs, a.epilogue),
                     mine = warp_range(block, warp);
    const int n = mine.end - mine.begin, first_tile = mine.begin / n_pairs;
    int pair = mine.begin - first_tile * n_pairs;
    pair_stream stream = {part.units +
                              ((size_t)first_tile * a.n_units + 2 * (size_t)pair) * F::unit_bytes,
                          pair, n_pairs, n, a.n_units % 2 != 0};
    unit_pair<F> ring[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) stream.load(ring[i]);
    if (lane == 0)
        tiles[warp] = n ? make_int2(first_tile, (mine.end - 1) / n_pairs) : make_int2(1, 0);
    const extra_kind kind = {F::offset, F::has_min};
    float4 w0 = make_float4(0, 0, 0, 0), w1 = w0;
    if (a.x && 8 * (int)threadIdx.x < a.dim)
        w0 = *(const float4 *)(a.norm_weight + 8 * threadIdx.x),
        w1 = *(const float4 *)(a.norm_weight + 8 * threadIdx.x + 4);
    start_next();
    wait_for_inputs();
    const float before =
        a.epilogue == QH_MATVEC_ADD ? residual_of(a, part, block, n_pairs, threadIdx.x) : 0.0f;
    if (a.x) {
        const float sum = warp_sum(quantize_x(s, a, w0, w1, kind, padded));
        if (lane == 0) squares[warp] = sum;
    } else {
        copy_x(s, a, kind, padded);
    }
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < a.n_zero; i += gridDim.x * THREADS)
        a.zero[i] = 0;
    __syncthreads();

    float acc[2] = {0, 0};
    float *parts = s.parts + (size_t)warp * max_parts * QH_TILE_ROWS;
    for (int i = 0; i < n; i += AHEAD) {
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            if (i + j >= n) break;
            multiply<F>(acc, ring[j], s, pair);
            stream.load(ring[j]);
            if (++pair < n_pairs && i + j + 1 < n) continue;
                /* The row tile or the range ends. */
#pragma unroll
            for (int h = 0; h < 2; h++) {
                acc[h] += __shfl_xor_sync(~0u, acc[h], 1);
                acc[h] += __shfl_xor_sync(~0u, acc[h], 2);
                if (lane % 4 == 0) parts[lane / 4 + 8 * h] = acc[h];
                acc[h] = 0;
            }
            parts += QH_TILE_ROWS;
            pair = 0;
        }
    }
    __syncthreads();
    float factor = 1;
    if (a.x) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < WARPS; i++) sum += squares[i];
        factor = rsqrtf(sum / a.dim + a.eps);
    }
    write_results(a, part, s, tiles, max_parts, block, n_pairs, factor, before);
}

/* Pairs that fit about half of a lane's 85 registers. */
template <class F> static __host__ __device__ constexpr int pairs_in(int n_registers)
{
    return n_registers / (2 * (F::low + F::high) + unit_pair<F>::n_scales * (1 + F::has_min));
}

template <class F0, class F1>
static __global__ __launch_bounds__(THREADS,
                                    2) void matvec(const __grid_constant__ qh_matvec_args a,
                                                   int n_first, int max_parts)
{
    extern __shared__ __align__(16) uint8_t memory[];
    if ((int)blockIdx.x < n_first)
        run_part<F0, pairs_in<F0>(34)>(a, a.parts[0], blockIdx.x, n_first, max_parts, memory);
    else
        run_part<F1, pairs_in<F1>(34)>(a, a.parts[1], blockIdx.x - n_first, gridDim.x - n_first,
                                       max_parts, memory);
}

/* The same without a second format: its code is not there. */
template <class F>
static __global__ __launch_bounds__(THREADS,
                                    2) void matvec_one(const __grid_constant__ qh_matvec_args a,
                                                       int max_parts)
{
    extern __shared__ __align__(16) uint8_t memory[];
    run_part<F, pairs_in<F>(42)>(a, a.parts[0], blockIdx.x, gridDim.x, max_parts, memory);
}

/* ---- Launching ---- */

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

/* Most row tiles that a warp touches. */
static int parts_of(const qh_matvec_part &p, int n_pairs, int n_blocks, qh_matvec_epilogue e)
{
    int most = 1;
    for (int c = 0; c < n_blocks; c++) {
        const unit_range block = range_of(c, n_blocks, p.n_row_tiles, n_pairs, e);
        for (int w = 0; w < WARPS; w++) {
            const unit_range r = warp_range(block, w);
            if (r.end > r.begin) most = max_of(most, (r.end - 1) / n_pairs - r.begin / n_pairs + 1);
        }
    }
    return most;
}

/* Blocks that have work: with ADD a range is a tile or more, so that two at most share one. */
static int blocks_of(const qh_matvec_part &p, int most, qh_matvec_epilogue e)
{
    const int grains = e == QH_MATVEC_SILU ? (p.n_row_tiles + 1) / 2 : p.n_row_tiles;
    return grains < most ? grains : most;
}

static size_t shared_bytes(int padded, int max_parts)
{
    return (size_t)padded + padded / GROUP * 8 +
           (size_t)WARPS * max_parts * QH_TILE_ROWS * sizeof(float);
}

static cudaError_t launch_grid(void (*kernel)(qh_matvec_args, int), const qh_matvec_args &a,
                               cudaStream_t stream)
{
    const int n_pairs = (a.n_units + 1) / 2,
              n = blocks_of(a.parts[0], BLOCKS_AN_SM * selected_gpu().n_sms, a.epilogue),
              parts = parts_of(a.parts[0], n_pairs, n, a.epilogue);
    return launch_shared(kernel, n, THREADS, shared_bytes(padded_of(a.dim), parts), stream, a,
                         parts);
}

static cudaError_t launch_mixed(void (*kernel)(qh_matvec_args, int, int), const qh_matvec_args &a,
                                cudaStream_t stream)
{
    const int n_pairs = (a.n_units + 1) / 2, n_sms = BLOCKS_AN_SM * selected_gpu().n_sms;
    const double first = (double)a.parts[0].n_row_tiles * a.parts[0].unit_bytes,
                 second = (double)a.parts[1].n_row_tiles * a.parts[1].unit_bytes;
    int n1 = (int)(n_sms * second / (first + second) + 0.5);
    n1 = blocks_of(a.parts[1], max_of(n1, 1), a.epilogue);
    const int n0 = blocks_of(a.parts[0], max_of(n_sms - n1, 1), a.epilogue);
    const int parts = max_of(parts_of(a.parts[0], n_pairs, n0, a.epilogue),
                             parts_of(a.parts[1], n_pairs, n1, a.epilogue));
    return launch_shared(kernel, n0 + n1, THREADS, shared_bytes(padded_of(a.dim), parts), stream, a,
                         n0, parts);
}

bool qh_cuda_matvec_takes(qh_tile tile)
{
    return tile != QH_TILE_BF16;
}

cudaError_t qh_cuda_matvec(const qh_matvec_args *a, cudaStream_t stream)
{
    if (a->n_parts == 2) {
        const qh_tile t0 = a->parts[0].tile, t1 = a->parts[1].tile;
        /* The mixes of K-quantized files; others take a launch each. */
        if (t0 == QH_TILE_Q4M && t1 == QH_TILE_Q6S)
            return launch_mixed(matvec<tile_Q4M, tile_Q6S>, *a, stream);
        if (t0 == QH_TILE_Q5M && t1 == QH_TILE_Q6S)
            return launch_mixed(matvec<tile_Q5M, tile_Q6S>, *a, stream);
        qh_matvec_args one = *a;
        one.n_parts = 1;
        const cudaError_t e = qh_cuda_matvec(&one, stream);
        one.parts[0] = a->parts[1];
        return e ? e : qh_cuda_matvec(&one, stream);
    }
    switch (a->parts[0].tile) {
    case QH_TILE_Q2M: return launch_grid(matvec_one<tile_Q2M>, *a, stream);
    case QH_TILE_Q3S: return launch_grid(matvec_one<tile_Q3S>, *a, stream);
    case QH_TILE_Q4S: return launch_grid(matvec_one<tile_Q4S>, *a, stream);
    case QH_TILE_Q4M: return launch_grid(matvec_one<tile_Q4M>, *a, stream);
    case QH_TILE_Q5S: return launch_grid(matvec_one<tile_Q5S>, *a, stream);
    case QH_TILE_Q5M: return launch_grid(matvec_one<tile_Q5M>, *a, stream);
    case QH_TILE_Q6S: return launch_grid(matvec_one<tile_Q6S>, *a, stream);
    case QH_TILE_Q8S: return launch_grid(matvec_one<tile_Q8S>, *a, stream);
    case QH_TILE_BF16:
    case QH_N_TILES: break;
    }
    return cudaErrorInvalidValue;
}
