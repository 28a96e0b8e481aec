/* reduce.cuh - sums over warps and blocks, in a fixed order. */
#pragma once

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

/* The same in every thread; synchronizes the block. */
template <int THREADS>
static __device__ __forceinline__ float block_sum(float v)
{
    __shared__ float parts[THREADS / 32];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) v += parts[i];
    return v;
}
