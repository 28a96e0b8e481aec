/* launch.cuh - launches that overlap: programmatic dependent launch, on GPUs that have it (9.0 on).
 *
 * Every kernel of a step is launched this way. It may begin while its predecessor still runs, and
 * must call wait_for_inputs before it reads what an earlier kernel wrote and before it writes
 * anything: the wait ends when the predecessor, which has itself waited, is complete. What it
 * reads ahead of the wait are weights, which no step writes. start_next lets the successor's
 * blocks in as this grid's leave. */
#pragma once
#include <cuda_runtime.h>

static __device__ __forceinline__ void wait_for_inputs()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void start_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct gpu_facts {
    int device, n_sms;
    bool can_overlap;
};

/* Of the selected device. */
static inline gpu_facts selected_gpu()
{
    static thread_local gpu_facts known = {-1, 1, false};
    int device, major;
    if (cudaGetDevice(&device) || device == known.device) return known;
    gpu_facts f = {device, 1, false};
    f.can_overlap =
        !cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) && major >= 9;
    if (!cudaDeviceGetAttribute(&f.n_sms, cudaDevAttrMultiProcessorCount, device)) known = f;
    return f;
}

/* Part of an SM's 256 KB that is shared memory, in percent: the same for all kernels of a decode
 * step, since an SM must run dry before it can change. */
enum { SHARED_PERCENT = 50, PLAIN_SHARED_BYTES = 48 << 10 };

template <class... P, class... A>
static inline cudaError_t launch_shared(void (*kernel)(P...), dim3 grid, int n_threads,
                                        size_t shared_bytes, cudaStream_t stream, A... args)
{
    cudaError_t e = cudaFuncSetAttribute((const void *)kernel,
                                         cudaFuncAttributePreferredSharedMemoryCarveout,
                                         SHARED_PERCENT);
    if (!e && shared_bytes > PLAIN_SHARED_BYTES)
        e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)shared_bytes);
    if (e) return e;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = selected_gpu().can_overlap;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

template <class... P, class... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, int n_threads,
                                 cudaStream_t stream, A... args)
{
    return launch_shared(kernel, grid, n_threads, 0, stream, args...);
}
