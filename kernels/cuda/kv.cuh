/* kv.cuh - where keys and values lie in a page: see qh_kv in ops.h. */
#pragma once
#include "kernels/cuda/ops.h"
#include <cuda_bf16.h>

enum { KV_PAGE_TOKENS = 64 };

/* K [64][padded] of a page and KV head. */
static __device__ __forceinline__ __nv_bfloat16 *kv_keys(const qh_kv &kv, int page, int kv_head)
{
    const size_t block = (size_t)kv.layer * kv.n_kv_heads + kv_head;
    return (__nv_bfloat16 *)(kv.base + page * kv.page_bytes) +
           block * 2 * KV_PAGE_TOKENS * kv.padded;
}

/* V [padded][64] that goes with the keys. */
static __device__ __forceinline__ __nv_bfloat16 *kv_values(const qh_kv &kv, __nv_bfloat16 *keys)
{
    return keys + KV_PAGE_TOKENS * kv.padded;
}
