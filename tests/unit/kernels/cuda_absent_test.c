/* The CUDA backend where it cannot run: every question gets a reason, nothing crashes. */
#include "test.h"
#include "kernels/cuda/cuda_backend.h"

static const qh_backend_limits limits = {
    .n_pages = 1, .max_rows = 1, .max_seqs = 1, .max_outputs = 1, .max_context = 64};

static bool has_gpu(void)
{
    int n;
    return qh_cuda_is_available(&n, NULL);
}

TEST(without_a_gpu_availability_is_zero_with_a_reason)
{
    if (has_gpu()) SKIP("there is a GPU");
    int n = 7;
    qh_err err = {0};
    CHECK(!qh_cuda_is_available(&n, &err));
    CHECK_INT(n, 0);
    CHECK_STATUS(err.status, QH_EUNSUPPORTED);
    CHECK(err.msg[0]);
}

TEST(without_a_gpu_plan_and_open_are_refused)
{
    if (has_gpu()) SKIP("there is a GPU");
    const qh_desc d = {.n_layers = 1,
                       .dim = 64,
                       .ffn_dim = 64,
                       .n_heads = 1,
                       .n_kv_heads = 1,
                       .head_dim = 64,
                       .n_vocab = 8};
    const qh_weights w = {0};
    const qh_cuda_options o = {0};
    qh_memory_plan plan;
    qh_backend *b;
    CHECK_STATUS(qh_cuda_backend_plan(&plan, &d, &w, &limits, &o, NULL), QH_EUNSUPPORTED);
    CHECK_STATUS(qh_cuda_backend_open(&b, &d, &w, &limits, &o, NULL), QH_EUNSUPPORTED);
    CHECK(b == NULL);
}

TEST_MAIN()
