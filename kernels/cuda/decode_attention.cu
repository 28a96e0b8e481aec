/* decode_attention: heads and attention of sequences that add one token each, in one launch
 *
 * A block takes one KV head of a sequence and a run of its pages. It prepares the head's queries
 * (bias, norm, rotation; cheap enough to redo in every block), walks along its pages, and leaves a
 * state; the last block of a head to finish folds the states in order. The block that has the last
 * page also prepares the new key and value, stores them, and takes its own copy.
 *
 * Shapes    qkv, pages and heads as in heads.cu; out bf16 [n_rows][ld_out] in act order, or for one
 *           row integers and scales (head_dim % 16 == 0); states [n_rows][n_kv_heads][max_splits]
 *           [n_group][padded + 4] float; counters [n_rows][n_kv_heads] zeros before and after.
 * Launch    grid (max_splits, n_kv_heads, n_rows), 4 warps. A block holds one page of keys and
 *           values in registers; the first is loaded before the inputs are waited for, since only
 *           this step's token is new.
 * Traffic   256*padded bytes a page and KV head; states out and in.
 * Numerics  as attention.cu: float scores, p rounded to bf16, float folds, in an order that the
 *           number of pages fixes.
 * Oracle    heads and attention, |err| <= 2^-6 * max|v|; tests/gpu/kernels_test.c */
#include "kernels/cuda/fold.cuh"
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, MAX_SPLITS = QH_DECODE_MAX_SPLITS };

/* What a block shares. */
template <int HD> struct shared_state {
    float x[WARPS][HD];                        /* heads before rotation */
    __nv_bfloat16 q[16][HD + 8], k[HD], v[HD]; /* queries; the new key and value */
    float4 scores[2][8][32];
    float weights[WARPS][MAX_SPLITS];
    bool is_last;
};

/* Which part of a sequence a block has. */
struct span {
    int position, first, end, n_splits, n_pages;
};

static __device__ span span_of(const qh_attn_seq &seq)
{
    span s;
    s.position = seq.n_past;
    s.n_pages = s.position / KV_PAGE_TOKENS + 1;
    const int per_split = (s.n_pages + gridDim.x - 1) / gridDim.x;
    s.n_splits = (s.n_pages + per_split - 1) / per_split;
    s.first = blockIdx.x * per_split;
    s.end = min(s.first + per_split, s.n_pages);
    return s;
}

/* A page as a warp multiplies it: two of eight score tiles, a quarter of the columns. */
template <int HD> struct page_part {
    enum { COLUMNS = HD / 8 / WARPS };
    uint4 keys[2][HD / 32], values[COLUMNS][2];

    static __device__ __forceinline__ int key_of(int tile)
    {
        const int g = threadIdx.x % 32 / 4;
        return 32 * (tile / 4) + 8 * (g / 2) + 2 * (tile % 4) + g % 2;
    }

    __device__ __forceinline__ void load_keys(const __nv_bfloat16 *page)
    {
        const int warp = threadIdx.x / 32, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int c = 0; c < HD / 32; c++)
                keys[i][c] =
                    __ldcg((const uint4 *)(page + key_of(2 * warp + i) * HD + 32 * c + 8 * t));
    }

    __device__ __forceinline__ void load_values(const __nv_bfloat16 *page)
    {
        const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const __nv_bfloat16 *v = page + KV_PAGE_TOKENS * HD;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
#pragma unroll
            for (int b = 0; b < 2; b++)
                values[i][b] =
                    __ldcg((const uint4 *)(v + (8 * (warp * COLUMNS + i) + g) * KV_PAGE_TOKENS +
                                           32 * b + 8 * t));
    }

    /* The new token, which the page in memory did not have yet, at its slot. */
    __device__ __forceinline__ void put_token(const shared_state<HD> &s, int slot)
    {
        const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (key_of(2 * warp + i) == slot)
#pragma unroll
                for (int c = 0; c < HD / 32; c++)
                    keys[i][c] = *(const uint4 *)(s.k + 32 * c + 8 * t);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
#pragma unroll
            for (int b = 0; b < 2; b++) {
                const uint32_t v = __bfloat16_as_ushort(s.v[8 * (warp * COLUMNS + i) + g]);
                uint32_t *w = (uint32_t *)&values[i][b];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int key = 32 * b + 8 * t + 2 * j;
                    if (key == slot) w[j] = (w[j] & 0xffff0000u) | v;
                    if (key + 1 == slot) w[j] = (w[j] & 0xffffu) | v << 16;
                }
                keep_keys(values[i][b], slot + 1 - 32 * b - 8 * t);
            }
    }
};

/* Heads that a warp prepares at most: 16 queries, key and value over 4 warps. */
enum { MAX_TASKS = 5 };

/* Weights and angles that a lane needs, which no kernel before this one wrote: loaded early. A lane
 * has columns d = lane + 32 * j. */
template <int HD> struct lane_weights {
    enum { N = HD / 32 };
    float q_norm[N], k_norm[N], cosine[N], sine[N];

    __device__ __forceinline__ void load(const qh_decode_attn_args &a)
    {
        const float *angles = a.cos_sin + (size_t)blockIdx.z * a.rope_dim;
        const int half = a.rope_dim / 2;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int d = threadIdx.x % 32 + 32 * j;
            const bool is_in = d < a.kv.head_dim, is_turned = d < a.rope_dim;
            const int pair = a.is_interleaved ? d / 2 : d < half ? d : d - half;
            const bool is_first = a.is_interleaved ? d % 2 == 0 : d < half;
            q_norm[j] = a.q_norm && is_in ? a.q_norm[d] : 1.0f;
            k_norm[j] = a.k_norm && is_in ? a.k_norm[d] : 1.0f;
            cosine[j] = is_turned ? angles[pair] : 1.0f;
            sine[j] = is_turned ? is_first ? -angles[half + pair] : angles[half + pair] : 0.0f;
        }
    }
};

/* Queries of the KV head, and with the last page the new key and value, each by a warp. */
template <int HD>
static __device__ __forceinline__ void prepare_heads(const qh_decode_attn_args &a,
                                                     shared_state<HD> &s, const lane_weights<HD> &w,
                                                     const span &part, __nv_bfloat16 *page)
{
    enum { N = HD / 32 };
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.z,
              kv_head = blockIdx.y, n_kv = a.kv.n_kv_heads, group = a.n_heads / n_kv,
              hd = a.kv.head_dim, slot = part.position % KV_PAGE_TOKENS;
    const int n = part.end == part.n_pages ? group + 2 : group;
    const float *in = a.qkv + (size_t)row * (a.n_heads + 2 * n_kv) * hd;
    float x[MAX_TASKS][N];
    /* All loads before the first use. */
#pragma unroll
    for (int k = 0; k < MAX_TASKS; k++) {
        const int i = warp + k * WARPS;
        if (i >= n) break;
        const int head =
            i < group ? kv_head * group + i : a.n_heads + (i == group + 1 ? n_kv : 0) + kv_head;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int d = lane + 32 * j;
            x[k][j] = d < hd ? __ldcg(in + (size_t)head * hd + d) : 0.0f;
            if (a.bias && d < hd) x[k][j] += a.bias[(size_t)head * hd + d];
        }
    }
#pragma unroll
    for (int k = 0; k < MAX_TASKS; k++) {
        const int i = warp + k * WARPS;
        if (i >= n) break;
        const bool is_q = i < group, is_v = i == group + 1, is_normed = is_q ? a.q_norm : a.k_norm;
        float sum = 0, scale = 1;
        if (is_normed && !is_v) {
#pragma unroll
            for (int j = 0; j < N; j++) sum = fmaf(x[k][j], x[k][j], sum);
            scale = rsqrtf(warp_sum(sum) / hd + a.eps);
        }
#pragma unroll
        for (int j = 0; j < N; j++) {
            if (is_normed && !is_v) x[k][j] *= scale * (is_q ? w.q_norm[j] : w.k_norm[j]);
            s.x[warp][lane + 32 * j] = x[k][j];
        }
        __syncwarp();
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int d = lane + 32 * j;
            float y = x[k][j];
            if (!is_v && d < a.rope_dim) {
                const int partner = a.is_interleaved     ? d ^ 1
                                    : d < a.rope_dim / 2 ? d + a.rope_dim / 2
                                                         : d - a.rope_dim / 2;
                y = fmaf(y, w.cosine[j], s.x[warp][partner] * w.sine[j]);
            }
            const __nv_bfloat16 stored = __float2bfloat16_rn(is_q ? y * a.q_scale : y);
            if (is_q)
                s.q[i][d] = stored;
            else if (is_v)
                page[KV_PAGE_TOKENS * HD + d * KV_PAGE_TOKENS + slot] = s.v[d] = stored;
            else
                page[slot * HD + d] = s.k[d] = stored;
        }
        __syncwarp();
    }
}

static __device__ float *state_of(const qh_decode_attn_args &a, int split, int query, int padded)
{
    const int group = a.n_heads / a.kv.n_kv_heads;
    const size_t head = (size_t)blockIdx.z * a.kv.n_kv_heads + blockIdx.y;
    return a.states + ((head * gridDim.x + split) * group + query) * (padded + 4);
}

/* Is this the last block of its head? Then every block's state can be read. */
static __device__ bool is_last_of_head(const qh_decode_attn_args &a, int n_splits, bool *shared)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int *counter = a.counters + blockIdx.z * a.kv.n_kv_heads + blockIdx.y;
        *shared = atomicAdd(counter, 1) == n_splits - 1;
        if (*shared) *counter = 0;
    }
    __syncthreads();
    if (*shared) __threadfence();
    return *shared;
}

/* Four columns of a head, d .. d+3, of a result. Four lanes hold a group of the integers. */
static __device__ __forceinline__ void store_columns(const qh_decode_attn_args &a, int head, int d,
                                                     float4 y)
{
    const int k = head * a.kv.head_dim + d;
    if (a.out8.q) {
        float most = fmaxf(fmaxf(fabsf(y.x), fabsf(y.y)), fmaxf(fabsf(y.z), fabsf(y.w)));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const float to_int = most > 0 ? 127.0f / most : 0.0f;
        if (d >= a.kv.head_dim) return;
        *(char4 *)(a.out8.q + k) = make_char4(
            (signed char)__float2int_rn(y.x * to_int), (signed char)__float2int_rn(y.y * to_int),
            (signed char)__float2int_rn(y.z * to_int), (signed char)__float2int_rn(y.w * to_int));
        if (k % QH_ACT8_GROUP == 0) a.out8.scales[k / QH_ACT8_GROUP] = most * (1 / 127.0f);
        return;
    }
    const float v[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (d + i < a.kv.head_dim)
            ((__nv_bfloat16 *)a.out)[(size_t)blockIdx.z * a.ld_out + qh_act_place(k + i)] =
                __float2bfloat16_rn(v[i]);
}

template <int HD>
static __device__ void fold_states(const qh_decode_attn_args &a, shared_state<HD> &s, int n_splits)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = a.n_heads / a.kv.n_kv_heads;
    const size_t step = (size_t)group * (HD + 4);
    for (int i = warp; i < group; i += WARPS) {
        enum { AHEAD = 8 };
        const float *state = state_of(a, 0, i, HD);
        float *weights = s.weights[warp], m = -INFINITY, l = 0;
        float2 ml[MAX_SPLITS / 32];
        float4 ahead[AHEAD]; /* the first states, on their way while weights are found */
#pragma unroll
        for (int p = 0; p < AHEAD; p++)
            if (p < n_splits && 4 * lane < HD)
                ahead[p] = __ldcg((const float4 *)(state + p * step + 4 * lane));
#pragma unroll
        for (int k = 0; k < MAX_SPLITS / 32; k++) {
            const int p = lane + 32 * k;
            ml[k] = p < n_splits ? __ldcg((const float2 *)(state + p * step + HD))
                                 : make_float2(-INFINITY, 0);
            m = fmaxf(m, ml[k].x);
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
#pragma unroll
        for (int k = 0; k < MAX_SPLITS / 32; k++) {
            const float w = exp2_fast(ml[k].x - m);
            if (lane + 32 * k < n_splits) weights[lane + 32 * k] = w;
            l = fmaf(w, ml[k].y, l);
        }
        l = warp_sum(l);
        __syncwarp();
        for (int d = 4 * lane; d - 4 * lane < HD; d += 128) {
            float4 o = make_float4(0, 0, 0, 0);
            auto add = [&](float w, float4 v) {
                o = make_float4(fmaf(w, v.x, o.x), fmaf(w, v.y, o.y), fmaf(w, v.z, o.z),
                                fmaf(w, v.w, o.w));
            };
            const int begin = d == 4 * lane ? AHEAD : 0;
#pragma unroll
            for (int p = 0; p < AHEAD; p++)
                if (begin && p < n_splits && d < HD) add(weights[p], ahead[p]);
            if (d < HD)
#pragma unroll 8
                for (int p = begin; p < n_splits; p++)
                    add(weights[p], __ldcg((const float4 *)(state + p * step + d)));
            store_columns(a, blockIdx.y * group + i, d,
                          make_float4(o.x / l, o.y / l, o.z / l, o.w / l));
        }
        __syncwarp();
    }
}

/* HALVES: 1 for groups of up to 8 query heads. */
template <int HD, int HALVES>
static __global__
__launch_bounds__(THREADS) void attend_decode(const __grid_constant__ qh_decode_attn_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    shared_state<HD> &s = *(shared_state<HD> *)memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4,
              kv_head = blockIdx.y, group = a.n_heads / a.kv.n_kv_heads;
    const qh_attn_seq seq = a.seqs[blockIdx.z];
    if (seq.n_past < 0) return; /* a row of no sequence */
    const span part = span_of(seq);
    if ((int)blockIdx.x >= part.n_splits) return;
    const int *pages = a.pages + seq.first_page;
    page_part<HD> page;
    page.load_keys(kv_keys(a.kv, pages[part.first], kv_head));
    page.load_values(kv_keys(a.kv, pages[part.first], kv_head));
    lane_weights<HD> weights;
    weights.load(a);
    start_next();
    wait_for_inputs();
    prepare_heads(a, s, weights, part, kv_keys(a.kv, pages[part.end - 1], kv_head));
    __syncthreads();

    uint32_t q[HD / 16][4];
    int position[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool is_query = h < HALVES && g + 8 * h < group;
        position[h] = is_query ? part.position : -1;
#pragma unroll
        for (int c = 0; c < HD / 32; c++) {
            const uint4 v =
                is_query ? *(const uint4 *)&s.q[g + 8 * h][32 * c + 8 * t] : make_uint4(0, 0, 0, 0);
            q[2 * c][h] = v.x, q[2 * c][2 + h] = v.y;
            q[2 * c + 1][h] = v.z, q[2 * c + 1][2 + h] = v.w;
        }
    }
    float o[page_part<HD>::COLUMNS][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
    for (int p = part.first; p < part.end; p++) {
        const __nv_bfloat16 *next = p + 1 < part.end ? kv_keys(a.kv, pages[p + 1], kv_head) : NULL;
        if (p == part.n_pages - 1) page.put_token(s, part.position % KV_PAGE_TOKENS);
        float4(*shared)[32] = s.scores[p % 2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float c[4] = {0, 0, 0, 0};
#pragma unroll
            for (int j = 0; j < HD / 32; j++) {
                mma_bf16(c, q[2 * j], page.keys[i][j].x, page.keys[i][j].y);
                mma_bf16(c, q[2 * j + 1], page.keys[i][j].z, page.keys[i][j].w);
            }
            shared[2 * warp + i][lane] = make_float4(c[0], c[1], c[2], c[3]);
        }
        if (next) page.load_keys(next);
        __syncthreads();
        float scores[8][4];
#pragma unroll
        for (int n = 0; n < 8; n++) *(float4 *)scores[n] = shared[n][lane];
        page_scores w = {};
        weigh_scores<HALVES>(w, scores, position, p * KV_PAGE_TOKENS);
        float wa[2] = {1, 1}, wb[2] = {0, 0};
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            fold_weights(m[h], w.m[h], wa[h], wb[h]);
            l[h] = fold(l[h], wa[h], w.l[h], wb[h]);
        }
#pragma unroll
        for (int i = 0; i < page_part<HD>::COLUMNS; i++) {
            float c[4] = {0, 0, 0, 0};
            mix_block(c, w, page.values[i][0], 0);
            mix_block(c, w, page.values[i][1], 1);
#pragma unroll
            for (int e = 0; e < 2 * HALVES; e++)
                o[i][e] = fold(o[i][e], wa[e / 2], c[e], wb[e / 2]);
        }
        if (next) page.load_values(next);
    }

#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        if (g + 8 * h >= group) continue;
        float *state = state_of(a, blockIdx.x, g + 8 * h, HD);
#pragma unroll
        for (int i = 0; i < page_part<HD>::COLUMNS; i++)
            *(float2 *)(state + 8 * (warp * page_part<HD>::COLUMNS + i) + 2 * t) =
                make_float2(o[i][2 * h], o[i][2 * h + 1]);
        if (warp == 0 && t == 0) *(float2 *)(state + HD) = make_float2(m[h], l[h]);
    }
    if (is_last_of_head(a, part.n_splits, &s.is_last)) fold_states(a, s, part.n_splits);
}

template <int HD> static cudaError_t launch_size(const qh_decode_attn_args &a, cudaStream_t stream)
{
    const dim3 grid(a.max_splits, a.kv.n_kv_heads, a.n_rows);
    auto *kernel = a.n_heads / a.kv.n_kv_heads > 8 ? attend_decode<HD, 2> : attend_decode<HD, 1>;
    return launch_shared(kernel, grid, THREADS, sizeof(shared_state<HD>), stream, a);
}

int qh_cuda_decode_splits(int n_rows, int n_kv_heads, int max_pages)
{
    enum { BLOCKS_AN_SM = 4 };
    const int n = n_rows * n_kv_heads, most = max_pages < MAX_SPLITS ? max_pages : MAX_SPLITS,
              wanted = (BLOCKS_AN_SM * selected_gpu().n_sms + n - 1) / n;
    return wanted < most ? wanted : most;
}

cudaError_t qh_cuda_decode_attention(const qh_decode_attn_args *a, cudaStream_t stream)
{
    if (a->n_rows == 0) return cudaSuccess;
    switch (a->kv.padded) {
    case 32: return launch_size<32>(*a, stream);
    case 64: return launch_size<64>(*a, stream);
    case 96: return launch_size<96>(*a, stream);
    case 128: return launch_size<128>(*a, stream);
    case 256: return launch_size<256>(*a, stream);
    }
    return cudaErrorInvalidValue;
}
