/* attention: softmax(q k) v over paged keys and values, grouped query heads
 *
 * The unit of work is one page for 16 queries, a query being (row, head of the KV head's group):
 * scores, their maximum m, p = 2^(s - m) (q carries log2 e), sum l, and o = p v. Pages are folded
 * into a total in order. A sequence with few queries has a block a page, and a second kernel
 * folds; with many, a warp takes 16 queries along all pages and folds as it goes. Both run the
 * same arithmetic, so a row has the same bits in a decode step, in a prompt and in any batch.
 *
 * Shapes    q [n_rows, n_heads, padded] bf16; pages {K [64, padded], V [padded, 64]} bf16; out
 *           [n_rows, ld_out] bf16, columns head * head_dim + d in act order; states [n_kv_heads,
 *           max_states, padded + 2] float.
 * Launch    small: grid (n_small, n_kv_heads), 4 warps that share scores and columns out. merge:
 *           grid (n_merges, n_kv_heads, most queries), padded threads. large: grid (n_large,
 *           n_kv_heads), 12 warps that share pages through shared memory, two at a time. V is
 *           stored transposed and score columns are dealt to keys such that every fragment is a
 *           16-byte load.
 * Traffic   small: 256*padded bytes a page, states 4*padded a query and page out and in. large:
 *           pages once per 12 warps from L2, 16 queries' worth of products a load.
 * Numerics  float scores, p rounded to bf16 before it is summed and multiplied, float folds.
 * Oracle    qh_ref_attention over the same bf16 values, |err| <= 2^-7 * max|v|;
 *           tests/gpu/kernels_test.c */
#include "kernels/cuda/fold.cuh"
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"

enum { WARPS = 4, LARGE_WARPS = QH_ATTN_LARGE_QUERIES / QH_ATTN_QUERIES };

/* The 16 queries of a warp; lane 4g + t deals with rows g and g + 8 of the fragments. */
template <int HD> struct queries {
    uint32_t q[HD / 16][4];
    int row[2], head[2], position[2]; /* row -1: none */

    __device__ __forceinline__ void load(const qh_attn_args &a, const qh_attn_seq &s, int kv_head,
                                         int first)
    {
        const int group = a.n_heads / a.kv.n_kv_heads, n = s.n_rows * group,
                  lane = threadIdx.x % 32;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int i = first + lane / 4 + 8 * h;
            row[h] = i < n ? s.first_row + i / group : -1;
            head[h] = kv_head * group + i % group;
            position[h] = i < n ? s.n_past + i / group : -1;
            const qh_bf16 *src =
                a.q + ((size_t)max(row[h], 0) * a.n_heads + head[h]) * HD + 8 * (lane % 4);
#pragma unroll
            for (int c = 0; c < HD / 32; c++) {
                const uint4 v = i < n ? *(const uint4 *)(src + 32 * c) : make_uint4(0, 0, 0, 0);
                q[2 * c][h] = v.x, q[2 * c][2 + h] = v.y;
                q[2 * c + 1][h] = v.z, q[2 * c + 1][2 + h] = v.w;
            }
        }
    }
};

/* Scores of column tile n: keys 32*(n/4) + 8*(g/2) + 2*(n%4) + g%2 of lanes 4g + t as B. */
template <int HD, int LD>
static __device__ __forceinline__ void score_tile(float (&s)[4], const queries<HD> &q,
                                                  const __nv_bfloat16 *keys, int n)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const __nv_bfloat16 *key =
        keys + (32 * (n / 4) + 8 * (g / 2) + 2 * (n % 4) + g % 2) * LD + 8 * t;
    uint4 b[HD / 32];
#pragma unroll
    for (int c = 0; c < HD / 32; c++) b[c] = *(const uint4 *)(key + 32 * c);
    s[0] = s[1] = s[2] = s[3] = 0;
#pragma unroll
    for (int c = 0; c < HD / 32; c++) {
        mma_bf16(s, q.q[2 * c], b[c].x, b[c].y);
        mma_bf16(s, q.q[2 * c + 1], b[c].z, b[c].w);
    }
}

/* o = p v for columns 8*nd .. 8*nd + 7. */
template <int HD, int LD>
static __device__ __forceinline__ void mix_values(float (&o)[4], const page_scores &s,
                                                  const __nv_bfloat16 *values, int nd, int n_keys)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    o[0] = o[1] = o[2] = o[3] = 0;
#pragma unroll
    for (int b = 0; b < 2; b++) {
        uint4 v = *(const uint4 *)(values + (8 * nd + g) * LD + 32 * b + 8 * t);
        if (n_keys < KV_PAGE_TOKENS) keep_keys(v, n_keys - 32 * b - 8 * t);
        mix_block(o, s, v, b);
    }
}

/* Four warps take two score tiles each, meet, weigh all of them alike, and take a quarter of the
 * columns. */
template <int HD> static __global__ __launch_bounds__(WARPS * 32) void attend_small(qh_attn_args a)
{
    __shared__ float shared[8][32][4];
    start_next();
    wait_for_inputs();
    const qh_attn_small item = a.small[blockIdx.x];
    const qh_attn_seq seq = a.seqs[item.seq];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4, kv_head = blockIdx.y;
    const __nv_bfloat16 *keys = kv_keys(a.kv, a.pages[seq.first_page + item.page], kv_head);
    const __nv_bfloat16 *values = keys + KV_PAGE_TOKENS * HD;
    queries<HD> q;
    q.load(a, seq, kv_head, 0);
    float scores[8][4];
#pragma unroll
    for (int n = 0; n < 2; n++) {
        score_tile<HD, HD>(scores[n], q, keys, 2 * warp + n);
        *(float4 *)shared[2 * warp + n][lane] = *(const float4 *)scores[n];
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < 8; n++) *(float4 *)scores[n] = *(const float4 *)shared[n][lane];
    page_scores s;
    weigh_scores<2>(s, scores, q.position, item.page * KV_PAGE_TOKENS);

    float *states = a.states + ((size_t)kv_head * a.max_states + item.state) * (HD + 2);
    const int n_keys = seq.n_past + seq.n_rows - item.page * KV_PAGE_TOKENS;
    float *out[2] = {states + lane / 4 * (HD + 2), states + (lane / 4 + 8) * (HD + 2)};
#pragma unroll
    for (int i = 0; i < HD / 8 / WARPS; i++) {
        const int nd = warp * (HD / 8 / WARPS) + i;
        float o[4];
        mix_values<HD, KV_PAGE_TOKENS>(o, s, values, nd, n_keys);
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (q.row[h] >= 0)
                *(float2 *)(out[h] + 8 * nd + 2 * t) = make_float2(o[2 * h], o[2 * h + 1]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (q.row[h] >= 0 && t == 0 && warp == 0)
            *(float2 *)(out[h] + HD) = make_float2(s.m[h], s.l[h]);
}

template <int HD> static __global__ __launch_bounds__(HD) void merge_small(qh_attn_args a)
{
    start_next();
    wait_for_inputs();
    const qh_attn_merge item = a.merges[blockIdx.x];
    const qh_attn_seq seq = a.seqs[item.seq];
    const int group = a.n_heads / a.kv.n_kv_heads, n = seq.n_rows * group, i = blockIdx.z,
              d = threadIdx.x;
    if (i >= n) return;
    const float *state = a.states + ((size_t)blockIdx.y * a.max_states + item.state + i) * (HD + 2);
    float m = -INFINITY, l = 0, o = 0;
    for (int p = 0; p < item.n_pages; p++, state += (size_t)n * (HD + 2)) {
        const float2 ml = *(const float2 *)(state + HD);
        float wa, wb;
        fold_weights(m, ml.x, wa, wb);
        l = fold(l, wa, ml.y, wb);
        o = fold(o, wa, state[d], wb);
    }
    const int head = blockIdx.y * group + i % group;
    if (d < a.kv.head_dim)
        ((__nv_bfloat16 *)a.out)[(size_t)(seq.first_row + i / group) * a.ld_out +
                                 qh_act_place(head * a.kv.head_dim + d)] =
            __float2bfloat16_rn(o / l);
}

/* Pages on their way through shared memory: rows of keys, then of values, each behind a gap that
 * puts neighbouring rows into different banks for 16-byte loads of two rows at a time. */
template <int HD> struct page_ring {
    enum {
        THREADS = LARGE_WARPS * 32,
        KEY_LD = HD + (HD % 64 ? 0 : 32),
        VALUE_LD = KV_PAGE_TOKENS + 32,
        N_KEYS = KV_PAGE_TOKENS * KEY_LD,
        N_PAGE = N_KEYS + HD * VALUE_LD,
        BYTES = 2 * N_PAGE * (int)sizeof(__nv_bfloat16)
    };

    static __device__ __forceinline__ void copy16(__nv_bfloat16 *to, const __nv_bfloat16 *from)
    {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         (uint32_t)__cvta_generic_to_shared(to)),
                     "l"(from)
                     : "memory");
    }

    /* One group of copies, also when there is no page left to copy. */
    static __device__ __forceinline__ void fetch(__nv_bfloat16 *to, const __nv_bfloat16 *page)
    {
        constexpr int KEY_PIECES = HD / 8, VALUE_PIECES = KV_PAGE_TOKENS / 8;
        if (page) {
            for (int i = threadIdx.x; i < KV_PAGE_TOKENS * KEY_PIECES; i += THREADS)
                copy16(to + i / KEY_PIECES * KEY_LD + i % KEY_PIECES * 8, page + i * 8);
            page += KV_PAGE_TOKENS * HD;
            for (int i = threadIdx.x; i < HD * VALUE_PIECES; i += THREADS)
                copy16(to + N_KEYS + i / VALUE_PIECES * VALUE_LD + i % VALUE_PIECES * 8,
                       page + i * 8);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    /* All but the newest group have come, for every thread of the block. */
    static __device__ __forceinline__ void wait()
    {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
    }
};

template <int HD>
static __global__ __launch_bounds__(LARGE_WARPS * 32, 1) void attend_large(qh_attn_args a)
{
    using ring = page_ring<HD>;
    extern __shared__ __align__(16) uint8_t memory[];
    __nv_bfloat16 *pages = (__nv_bfloat16 *)memory;
    start_next();
    wait_for_inputs();
    /* The longest first: blocks start in the order of their numbers. */
    const qh_attn_large item = a.large[gridDim.x - 1 - blockIdx.x];
    const qh_attn_seq seq = a.seqs[item.seq];
    const int lane = threadIdx.x % 32, t = lane % 4, kv_head = blockIdx.y,
              group = a.n_heads / a.kv.n_kv_heads, n_queries = seq.n_rows * group;
    const int first = item.query + threadIdx.x / 32 * QH_ATTN_QUERIES;
    auto pages_until = [&](int query) {
        return (seq.n_past + min(seq.n_rows - 1, query / group)) / KV_PAGE_TOKENS + 1;
    };
    const int n_pages = first < n_queries ? pages_until(first + QH_ATTN_QUERIES - 1) : 0,
              block_pages = pages_until(item.query + QH_ATTN_LARGE_QUERIES - 1),
              n_keys = seq.n_past + seq.n_rows;
    auto page_at = [&](int p) -> const __nv_bfloat16 * {
        return p < block_pages ? kv_keys(a.kv, a.pages[seq.first_page + p], kv_head) : NULL;
    };
    ring::fetch(pages, page_at(0));
    queries<HD> q;
    q.load(a, seq, kv_head, first);
    float o[HD / 8][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
    for (int p = 0; p < block_pages; p++) {
        ring::fetch(pages + (p + 1) % 2 * ring::N_PAGE, page_at(p + 1));
        ring::wait();
        const __nv_bfloat16 *keys = pages + p % 2 * ring::N_PAGE, *values = keys + ring::N_KEYS;
        if (p < n_pages) {
            float scores[8][4];
#pragma unroll
            for (int n = 0; n < 8; n++) score_tile<HD, ring::KEY_LD>(scores[n], q, keys, n);
            page_scores s;
            weigh_scores<2>(s, scores, q.position, p * KV_PAGE_TOKENS);
            float wa[2], wb[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                fold_weights(m[h], s.m[h], wa[h], wb[h]);
                l[h] = fold(l[h], wa[h], s.l[h], wb[h]);
            }
#pragma unroll
            for (int nd = 0; nd < HD / 8; nd++) {
                float part[4];
                mix_values<HD, ring::VALUE_LD>(part, s, values, nd, n_keys - p * KV_PAGE_TOKENS);
#pragma unroll
                for (int e = 0; e < 4; e++)
                    o[nd][e] = fold(o[nd][e], wa[e / 2], part[e], wb[e / 2]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (q.row[h] < 0) continue;
        __nv_bfloat16 *out = (__nv_bfloat16 *)a.out + (size_t)q.row[h] * a.ld_out;
#pragma unroll
        for (int nd = 0; nd < HD / 8; nd++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int d = 8 * nd + 2 * t + e;
                if (d < a.kv.head_dim)
                    out[qh_act_place(q.head[h] * a.kv.head_dim + d)] =
                        __float2bfloat16_rn(o[nd][2 * h + e] / l[h]);
            }
    }
}

template <int HD> static cudaError_t launch_all(const qh_attn_args &a, cudaStream_t stream)
{
    const int n_kv = a.kv.n_kv_heads;
    cudaError_t e = cudaSuccess;
    if (a.n_large)
        e = launch_shared(attend_large<HD>, dim3(a.n_large, n_kv), LARGE_WARPS * 32,
                          page_ring<HD>::BYTES, stream, a);
    if (!e && a.n_small) e = launch(attend_small<HD>, dim3(a.n_small, n_kv), WARPS * 32, stream, a);
    if (!e && a.n_small)
        e = launch(merge_small<HD>, dim3(a.n_merges, n_kv, a.max_merge_queries), HD, stream, a);
    return e;
}

int qh_cuda_padded_head(int head_dim)
{
    const int sizes[] = {32, 64, 96, 128, 256};
    for (int i = 0; i < 5; i++)
        if (head_dim <= sizes[i]) return sizes[i];
    return 0;
}

cudaError_t qh_cuda_attention(const qh_attn_args *a, cudaStream_t stream)
{
    switch (a->kv.padded) {
    case 32: return launch_all<32>(*a, stream);
    case 64: return launch_all<64>(*a, stream);
    case 96: return launch_all<96>(*a, stream);
    case 128: return launch_all<128>(*a, stream);
    case 256: return launch_all<256>(*a, stream);
    }
    return cudaErrorInvalidValue;
}
