/* dense.c - see dense.h
 *
 * The library reads columns first, so that rows of ours are columns of its: y^T = W x^T with W
 * transposed. How a shape is best computed is asked once and remembered. */
#include "kernels/cuda/dense.h"
#include "base/mem.h"
#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>

enum { WORKSPACE_BYTES = 32 << 20, N_SLOTS = 512 };

#define FUNCTIONS(X)                                                                               \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)                                                                         \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(Matmul)

static struct {
#define X(name) __typeof__(cublasLt##name) *name;
    FUNCTIONS(X)
#undef X
    bool is_loaded;
} lt;

/* A shape and how to compute it. */
typedef struct {
    int n_rows, dim, n_tokens;
    int64_t ldy;
    bool is_bf16, is_known;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
} slot;

struct qh_dense {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    cublasLtMatmulPreference_t preference;
    void *workspace;
    slot slots[N_SLOTS];
};

static void load_library(void)
{
#define TEXT(x)        #x
#define LIBRARY(major) "libcublasLt.so." TEXT(major)
    void *lib = dlopen(LIBRARY(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        lib = dlopen("/usr/local/cuda/lib64/" LIBRARY(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!lib) return;
    bool has_all = true;
#define X(name) has_all &= (*(void **)&lt.name = dlsym(lib, "cublasLt" #name)) != NULL;
    FUNCTIONS(X)
#undef X
    lt.is_loaded = has_all; /* it stays for the life of the process */
}

bool qh_dense_is_available(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_library);
    return lt.is_loaded;
}

size_t qh_dense_workspace_bytes(void)
{
    return WORKSPACE_BYTES;
}

static void drop_slot(slot *s)
{
    if (s->w) lt.MatrixLayoutDestroy(s->w);
    if (s->x) lt.MatrixLayoutDestroy(s->x);
    if (s->y) lt.MatrixLayoutDestroy(s->y);
    *s = (slot){0};
}

void qh_dense_free(qh_dense *d)
{
    if (!d) return;
    for (int i = 0; i < N_SLOTS; i++) drop_slot(&d->slots[i]);
    if (d->product) lt.MatmulDescDestroy(d->product);
    if (d->preference) lt.MatmulPreferenceDestroy(d->preference);
    if (d->handle) lt.Destroy(d->handle);
    cudaFree(d->workspace);
    qh_free(d);
}

qh_status qh_dense_new(qh_dense **out, qh_err *err)
{
    *out = NULL;
    if (!qh_dense_is_available()) return qh_fail(err, QH_EUNSUPPORTED, "no cuBLASLt");
    qh_dense *d = qh_new0(qh_dense);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t workspace = WORKSPACE_BYTES;
    int st = lt.Create(&d->handle);
    if (!st) st = lt.MatmulDescCreate(&d->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!st)
        st = lt.MatmulDescSetAttribute(d->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof transposed);
    if (!st) st = lt.MatmulPreferenceCreate(&d->preference);
    if (!st)
        st = lt.MatmulPreferenceSetAttribute(
            d->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    /* Products of q, k and v begin within a row: results are aligned to a vector, no more. */
    const uint32_t vector = 16;
    for (int i = 0; !st && i < 2; i++)
        st = lt.MatmulPreferenceSetAttribute(d->preference,
                                             i ? CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
                                               : CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                             &vector, sizeof vector);
    const bool is_short = !st && cudaMalloc(&d->workspace, WORKSPACE_BYTES) != cudaSuccess;
    if (st || is_short) {
        qh_dense_free(d);
        cudaGetLastError();
        return is_short ? qh_fail(err, QH_ENOMEM, "no GPU memory for cuBLASLt's workspace")
                        : qh_fail(err, QH_EIO, "cuBLASLt does not start: status %d", st);
    }
    *out = d;
    return QH_OK;
}

static bool fill_slot(qh_dense *d, slot *s, const qh_dense_product *p)
{
    const cudaDataType type = p->is_bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const uint64_t rows = (uint64_t)p->n_rows, dim = (uint64_t)p->dim, n = (uint64_t)p->n_tokens;
    cublasLtMatmulHeuristicResult_t found;
    int n_found = 0;
    drop_slot(s);
    if (lt.MatrixLayoutCreate(&s->w, CUDA_R_16BF, dim, rows, p->dim) ||
        lt.MatrixLayoutCreate(&s->x, CUDA_R_16BF, dim, n, p->dim) ||
        lt.MatrixLayoutCreate(&s->y, type, rows, n, p->ldy) ||
        lt.MatmulAlgoGetHeuristic(d->handle, d->product, s->w, s->x, s->y, s->y, d->preference, 1,
                                  &found, &n_found) ||
        n_found == 0) {
        drop_slot(s);
        return false;
    }
    s->algo = found.algo;
    s->n_rows = p->n_rows, s->dim = p->dim, s->n_tokens = p->n_tokens, s->ldy = p->ldy;
    s->is_bf16 = p->is_bf16;
    s->is_known = true;
    return true;
}

static slot *slot_of(qh_dense *d, const qh_dense_product *p)
{
    const uint32_t key =
        ((uint32_t)p->n_rows * 31u + (uint32_t)p->dim) * 31u + (uint32_t)p->n_tokens;
    slot *s = &d->slots[key * 2654435761u >> 23];
    const bool is_it = s->is_known && s->n_rows == p->n_rows && s->dim == p->dim &&
                       s->n_tokens == p->n_tokens && s->ldy == p->ldy && s->is_bf16 == p->is_bf16;
    return is_it || fill_slot(d, s, p) ? s : NULL;
}

cudaError_t qh_dense_multiply(qh_dense *d, const qh_dense_product *p, cudaStream_t stream)
{
    const float one = 1, before = p->is_added ? 1 : 0;
    if (p->n_tokens == 0) return cudaSuccess;
    const slot *s = slot_of(d, p);
    if (!s) return cudaErrorNotSupported;
    const int st = lt.Matmul(d->handle, d->product, &one, p->w, s->w, p->x, s->x, &before, p->y,
                             s->y, p->y, s->y, &s->algo, d->workspace, WORKSPACE_BYTES, stream);
    return st ? cudaErrorLaunchFailure : cudaSuccess;
}
