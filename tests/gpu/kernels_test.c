/* Every kernel on the device against double precision: odd shapes, poisoned outputs, and equal bits
 * alone and in a crowd. */
#include "test.h"
#include "base/mem.h"
#include "kernels/cpu/ref.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/ops.h"
#include "model/quant.h"
#include "random.h"

static random_source source = {2026, 0};

/* ---- Device memory: poisoned with NaNs, freed at the end of a test ---- */

enum { MAX_BLOCKS = 64, POISON = 0xff };
static void *blocks[MAX_BLOCKS];
static int n_blocks;

#define CHECK_CUDA(call)                                                                           \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_) print_error("%s: %s\n", #call, cudaGetErrorString(e_));                            \
        CHECK(e_ == cudaSuccess);                                                                  \
    } while (0)

static void *device_alloc(size_t len_bytes)
{
    void *p;
    CHECK(n_blocks < MAX_BLOCKS);
    CHECK_CUDA(cudaMalloc(&p, len_bytes));
    CHECK_CUDA(cudaMemset(p, POISON, len_bytes));
    return blocks[n_blocks++] = p;
}

static void *to_device(const void *src, size_t len_bytes)
{
    void *p = device_alloc(len_bytes);
    CHECK_CUDA(cudaMemcpy(p, src, len_bytes, cudaMemcpyHostToDevice));
    return p;
}

static void from_device(void *dst, const void *src, size_t len_bytes)
{
    CHECK_CUDA(cudaMemcpy(dst, src, len_bytes, cudaMemcpyDeviceToHost));
}

static void free_all(void)
{
    while (n_blocks) CHECK_CUDA(cudaFree(blocks[--n_blocks]));
}

static float *floats(int64_t n) { return qh_alloc0((size_t)n * sizeof(float)); }

/* n_rows rows of dim as bf16, padded with zeros, in act order if wanted; x becomes what was
 * stored. */
static qh_bf16 *bf16_rows(float *x, int n_rows, int dim, int ld, bool is_act)
{
    qh_bf16 *host = qh_alloc0((size_t)n_rows * (size_t)ld * sizeof *host);
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < dim; k++) {
            const qh_bf16 v = qh_f32_to_bf16(x[(int64_t)r * dim + k]);
            host[(int64_t)r * ld + (is_act ? qh_act_place(k) : k)] = v;
            x[(int64_t)r * dim + k] = qh_bf16_to_f32(v);
        }
    qh_bf16 *p = to_device(host, (size_t)n_rows * (size_t)ld * sizeof *host);
    free(host);
    return p;
}

/* ---- Matrices ---- */

typedef struct {
    qh_dtype dtype;
    qh_tile tile;
    int scale_at, min_at;               /* of the f16 scales in a block; -1: none */
    float scale, min;                   /* for values of about 1 */
} stored;

static const stored types[] = {
    {QH_F32, QH_TILE_BF16, -1, -1, 0, 0},        {QH_F16, QH_TILE_BF16, -1, -1, 0, 0},
    {QH_BF16, QH_TILE_BF16, -1, -1, 0, 0},       {QH_Q4_0, QH_TILE_Q4S, 0, -1, 0.2f, 0},
    {QH_Q4_1, QH_TILE_Q4M, 0, 2, 0.2f, -1.5f},   {QH_Q5_0, QH_TILE_Q5S, 0, -1, 0.1f, 0},
    {QH_Q5_1, QH_TILE_Q5M, 0, 2, 0.1f, -1.5f},   {QH_Q8_0, QH_TILE_Q8S, 0, -1, 0.01f, 0},
    {QH_Q2_K, QH_TILE_Q2M, 80, 82, 0.1f, 0.1f},  {QH_Q3_K, QH_TILE_Q3S, 108, -1, 0.02f, 0},
    {QH_Q4_K, QH_TILE_Q4M, 0, 2, 0.005f, 0.03f}, {QH_Q5_K, QH_TILE_Q5M, 0, 2, 0.003f, 0.03f},
    {QH_Q6_K, QH_TILE_Q6S, 208, -1, 0.001f, 0},  {QH_IQ4_NL, QH_TILE_Q8S, 0, -1, 0.01f, 0},
    {QH_IQ4_XS, QH_TILE_Q8S, 0, -1, 0.0005f, 0}};
enum { N_TYPES = sizeof types / sizeof *types };

static void put_half(uint8_t *p, float f)
{
    const uint16_t h = qh_f32_to_f16(f);
    memcpy(p, &h, 2);
}

static void random_block(const stored *s, uint8_t *b)
{
    const float x = random_normal(&source);
    const uint16_t half = qh_f32_to_f16(x), brain = qh_f32_to_bf16(x);
    if (s->dtype == QH_F32) memcpy(b, &x, 4);
    else if (s->dtype == QH_F16) memcpy(b, &half, 2);
    else if (s->dtype == QH_BF16) memcpy(b, &brain, 2);
    else
        for (size_t i = 0; i < qh_dtype_block_bytes(s->dtype); i++)
            b[i] = (uint8_t)random_bits(&source);
    const float spread = 0.5f + (float)random_below(&source, 1000) / 1000;
    if (s->scale_at >= 0) put_half(b + s->scale_at, s->scale * spread);
    if (s->min_at >= 0) put_half(b + s->min_at, s->min * spread);
}

/* A stored matrix and its values. */
typedef struct {
    uint8_t *data;
    float *values;                      /* [n_rows][dim] */
    size_t row_bytes;
    int n_rows, dim;
} matrix;

static matrix matrix_of(const stored *s, int n_rows, int dim)
{
    const size_t step = qh_dtype_block_bytes(s->dtype);
    matrix m = {.row_bytes = qh_dtype_row_bytes(s->dtype, dim), .n_rows = n_rows, .dim = dim};
    m.data = qh_alloc0((size_t)n_rows * m.row_bytes);
    m.values = floats((int64_t)n_rows * dim);
    for (size_t i = 0; i < (size_t)n_rows * m.row_bytes; i += step) random_block(s, m.data + i);
    qh_dequantize(s->dtype, m.values, m.data, (int64_t)n_rows * dim);
    return m;
}

static void drop(matrix *m)
{
    free(m->data);
    free(m->values);
}

/* b NULL: one matrix; else a is gate and b up. Sources sit at an odd address: files align by one
 * byte. */
static qh_tiles packed(const stored *s, const matrix *a, const matrix *b)
{
    static const int unit_bytes[] = {
#define X(name, low, high, group, has_min, offset) QH_TILE_UNIT_BYTES(low, high, group, has_min),
        QH_TILE_LIST(X)
#undef X
    };
    const int tile_rows = b ? 8 : 16;
    qh_tiles t = {.tile = s->tile,
                  .n_rows = a->n_rows,
                  .dim = a->dim,
                  .n_row_tiles = (a->n_rows + tile_rows - 1) / tile_rows,
                  .n_units = qh_padded_dim(a->dim) / QH_UNIT_DIM};
    t.units = device_alloc((size_t)t.n_row_tiles * (size_t)t.n_units * (size_t)unit_bytes[s->tile]);
    qh_pack_args p = {.tile = s->tile,
                      .tile_rows = tile_rows,
                      .n_rows = a->n_rows,
                      .dim = a->dim,
                      .n_tiles = t.n_row_tiles,
                      .n_units = t.n_units,
                      .dst = (uint8_t *)(uintptr_t)t.units};
    for (int h = 0; h < 2; h++) {
        const matrix *m = h && b ? b : a;
        const size_t len = (size_t)m->n_rows * m->row_bytes;
        uint8_t *src = (uint8_t *)device_alloc(len + 1) + 1;
        CHECK_CUDA(cudaMemcpy(src, m->data, len, cudaMemcpyHostToDevice));
        p.dtype[h] = (int)s->dtype;
        p.row_bytes[h] = m->row_bytes;
        p.src[h] = src;
    }
    CHECK_CUDA(qh_cuda_pack(&p, 0));
    return t;
}

/* Values as packed, read back through embed. */
static float *unpacked(const qh_tiles *t)
{
    int *ids = qh_alloc0((size_t)t->n_rows * sizeof *ids);
    for (int i = 0; i < t->n_rows; i++) ids[i] = i;
    float *x = device_alloc((size_t)t->n_rows * (size_t)t->dim * sizeof *x),
          *host = floats((int64_t)t->n_rows * t->dim);
    CHECK_CUDA(qh_cuda_embed(x, t, to_device(ids, (size_t)t->n_rows * sizeof *ids), t->n_rows, 0));
    from_device(host, x, (size_t)t->n_rows * (size_t)t->dim * sizeof *x);
    free(ids);
    return host;
}

static bool is_wide(qh_dtype t) { return qh_dtype_block_len(t) == 256; }

TEST(packed_values_are_the_stored_ones)
{
    for (int i = 0; i < N_TYPES; i++) {
        const int dims[] = {is_wide(types[i].dtype) ? 768 : 160,
                            is_wide(types[i].dtype) ? 256 : 32};
        for (int j = 0; j < 2; j++) {
            matrix m = matrix_of(&types[i], 37, dims[j]);
            const qh_tiles t = packed(&types[i], &m, NULL);
            float *got = unpacked(&t);
            float most = 0;
            double worst = 0;
            for (int k = 0; k < 37 * dims[j]; k++) most = fmaxf(most, fabsf(m.values[k]));
            for (int k = 0; k < 37 * dims[j]; k++) {
                const double e = fabs((double)got[k] - m.values[k]) / most;
                if (!(e <= worst)) worst = e;
            }
            if (!(worst < 0x1p-8))
                print_error("%s, dim %d: error %g\n", qh_dtype_name(types[i].dtype), dims[j],
                            worst);
            CHECK(worst < 0x1p-8);
            /* Types whose scales fit f16 as they are lose nothing. */
            if (types[i].tile != QH_TILE_BF16 && !is_wide(types[i].dtype)) CHECK(worst < 1e-6);
            free(got);
            drop(&m);
            free_all();
        }
    }
}

/* ---- Products ---- */

/* Products of a token; magnitude: the sum of |w x|. */
static double product(const float *w, const float *x, int dim, double *magnitude)
{
    double sum = 0;
    *magnitude = 0;
    for (int k = 0; k < dim; k++) {
        const double p = (double)w[k] * x[k];
        sum += p;
        *magnitude += fabs(p);
    }
    return sum;
}

static void check_product(const stored *s, int n_rows, int dim, int n_tokens, qh_epilogue epilogue)
{
    matrix m = matrix_of(s, n_rows, dim);
    const qh_tiles t = packed(s, &m, NULL);
    const int ldy = n_rows + 3;
    float *w = unpacked(&t), *x = floats((int64_t)n_tokens * dim),
          *y = floats((int64_t)n_tokens * ldy), *before = floats((int64_t)n_tokens * ldy);
    random_fill(&source, x, (int64_t)n_tokens * dim, 1);
    random_fill(&source, before, (int64_t)n_tokens * ldy, 1);
    const qh_bf16 *xd = bf16_rows(x, n_tokens, dim, qh_padded_dim(dim), true);
    const size_t y_bytes = (size_t)n_tokens * (size_t)ldy * sizeof *y;
    float *yd = epilogue == QH_EPILOGUE_ADD ? to_device(before, y_bytes) : device_alloc(y_bytes);
    CHECK_CUDA(qh_cuda_matmul(&(qh_product){t, yd}, 1, ldy, xd, n_tokens, epilogue, 0));
    from_device(y, yd, y_bytes);
    for (int n = 0; n < n_tokens; n++)
        for (int r = 0; r < n_rows; r++) {
            double magnitude,
                want = product(w + (int64_t)r * dim, x + (int64_t)n * dim, dim, &magnitude);
            if (epilogue == QH_EPILOGUE_ADD) want += before[(int64_t)n * ldy + r];
            const double e = fabs(y[(int64_t)n * ldy + r] - want);
            if (!(e <= 3e-5 * magnitude + 1e-6))
                print_error("%s %dx%d, %d tokens: y[%d][%d] = %g, want %g\n",
                            qh_dtype_name(s->dtype), n_rows, dim, n_tokens, n, r,
                            y[(int64_t)n * ldy + r], want);
            CHECK(e <= 3e-5 * magnitude + 1e-6);
        }
    /* A token alone has the bits that it has in the crowd. */
    if (epilogue == QH_EPILOGUE_STORE) {
        const int n = n_tokens - 1;
        float *alone = floats(n_rows), *ad = device_alloc((size_t)n_rows * sizeof *ad);
        CHECK_CUDA(qh_cuda_matmul(&(qh_product){t, ad}, 1, n_rows,
                                  xd + (int64_t)n * qh_padded_dim(dim), 1, epilogue, 0));
        from_device(alone, ad, (size_t)n_rows * sizeof *ad);
        CHECK(memcmp(alone, y + (int64_t)n * ldy, (size_t)n_rows * sizeof *alone) == 0);
        free(alone);
    }
    free(w), free(x), free(y), free(before);
    drop(&m);
    free_all();
}

TEST(products_are_right_at_every_type_and_number_of_tokens)
{
    static const int counts[] = {1, 3, 8, 9, 16, 17, 33, 64, 70};
    for (int i = 0; i < N_TYPES; i++) {
        const int dim = is_wide(types[i].dtype) ? 768 : 160;
        for (size_t j = 0; j < sizeof counts / sizeof *counts; j++)
            check_product(&types[i], 37, dim, counts[j],
                          j % 2 ? QH_EPILOGUE_ADD : QH_EPILOGUE_STORE);
        check_product(&types[i], 16, is_wide(types[i].dtype) ? 256 : 32, 5, QH_EPILOGUE_STORE);
        check_product(&types[i], 100, is_wide(types[i].dtype) ? 2560 : 2592, 2, QH_EPILOGUE_STORE);
    }
}

TEST(gate_and_up_share_tiles)
{
    static const int counts[] = {1, 7, 33};
    for (int i = 0; i < N_TYPES; i++)
        for (int j = 0; j < 3; j++) {
            const int dim = is_wide(types[i].dtype) ? 512 : 96, n_rows = 43, n_tokens = counts[j],
                      ldy = qh_padded_dim(n_rows);
            matrix gate = matrix_of(&types[i], n_rows, dim), up = matrix_of(&types[i], n_rows, dim);
            const qh_tiles g = packed(&types[i], &gate, NULL), u = packed(&types[i], &up, NULL),
                           both = packed(&types[i], &gate, &up);
            float *wg = unpacked(&g), *wu = unpacked(&u), *x = floats((int64_t)n_tokens * dim);
            random_fill(&source, x, (int64_t)n_tokens * dim, 0.1f);
            const qh_bf16 *xd = bf16_rows(x, n_tokens, dim, qh_padded_dim(dim), true);
            qh_bf16 *yd = device_alloc((size_t)n_tokens * (size_t)ldy * sizeof *yd),
                    *y = qh_alloc0((size_t)n_tokens * (size_t)ldy * sizeof *y);
            CHECK_CUDA(cudaMemset(yd, 0, (size_t)n_tokens * (size_t)ldy * sizeof *yd));
            CHECK_CUDA(qh_cuda_matmul(&(qh_product){both, yd}, 1, ldy, xd, n_tokens,
                                      QH_EPILOGUE_SILU_MUL, 0));
            from_device(y, yd, (size_t)n_tokens * (size_t)ldy * sizeof *y);
            for (int n = 0; n < n_tokens; n++)
                for (int r = 0; r < ldy; r++) {
                    const float got = qh_bf16_to_f32(y[n * ldy + qh_act_place(r)]);
                    if (r >= n_rows) {
                        CHECK(got == 0);        /* padding stays */
                        continue;
                    }
                    double mg, mu, a = product(wg + r * dim, x + n * dim, dim, &mg),
                                   b = product(wu + r * dim, x + n * dim, dim, &mu);
                    const double want = a / (1 + exp(-a)) * b;
                    CHECK(fabs(got - want) <= 0x1p-8 * fabs(want) + 1e-4);
                }
            free(wg), free(wu), free(x), free(y);
            drop(&gate), drop(&up);
            free_all();
        }
}

/* ---- Copies in bf16 ---- */

/* Rows of bf16 in act order, as floats. */
static float *dense_values(const qh_bf16 *device, int n_rows, int dim, int ld)
{
    qh_bf16 *host = qh_alloc0((size_t)n_rows * (size_t)ld * sizeof *host);
    float *v = floats((int64_t)n_rows * dim);
    from_device(host, device, (size_t)n_rows * (size_t)ld * sizeof *host);
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < dim; k++)
            v[(int64_t)r * dim + k] = qh_bf16_to_f32(host[(int64_t)r * ld + qh_act_place(k)]);
    free(host);
    return v;
}

static qh_bf16 *copied(const qh_tiles *t)
{
    qh_bf16 *copy = device_alloc((size_t)t->n_row_tiles * 16 * (size_t)t->n_units * 64 * 2);
    CHECK_CUDA(qh_cuda_unpack(copy, t, 0));
    return copy;
}

TEST(copies_in_bf16_are_the_packed_values)
{
    for (int i = 0; i < N_TYPES; i++) {
        const int dim = is_wide(types[i].dtype) ? 768 : 160, n_rows = 37;
        matrix m = matrix_of(&types[i], n_rows, dim);
        const qh_tiles t = packed(&types[i], &m, NULL);
        float *want = unpacked(&t), *got = dense_values(copied(&t), n_rows, dim, 64 * t.n_units);
        for (int k = 0; k < n_rows * dim; k++) {
            if (!(fabsf(got[k] - want[k]) <= 0x1p-8f * fabsf(want[k]) + 1e-9f))
                print_error("%s [%d]: %g, want %g\n", qh_dtype_name(types[i].dtype), k, got[k], want[k]);
            CHECK(fabsf(got[k] - want[k]) <= 0x1p-8f * fabsf(want[k]) + 1e-9f);
        }
        free(want), free(got);
        drop(&m);
        free_all();
    }
}

TEST(the_library_multiplies_copies)
{
    enum { ROWS = 48, DIM = 192, TOKENS = 13, LDY = 100 };
    qh_err err = {0};
    qh_dense *d;
    if (!qh_dense_is_available()) {
        print_message("no cuBLASLt here\n");
        return;
    }
    CHECK_OK(qh_dense_new(&d, &err));
    matrix m = matrix_of(&types[7], ROWS, DIM);
    const qh_tiles t = packed(&types[7], &m, NULL);
    const qh_bf16 *w = copied(&t);
    float *wv = dense_values(w, ROWS, DIM, DIM), *x = floats(TOKENS * DIM), *y = floats(TOKENS * LDY),
          *before = floats(TOKENS * LDY);
    random_fill(&source, x, TOKENS * DIM, 1);
    random_fill(&source, before, TOKENS * LDY, 1);
    qh_dense_product p = {.w = w, .x = bf16_rows(x, TOKENS, DIM, DIM, true), .n_rows = ROWS,
                          .dim = DIM, .n_tokens = TOKENS, .ldy = LDY};
    for (p.is_added = false;; p.is_added = true) {
        p.y = to_device(before, TOKENS * LDY * sizeof *y);
        CHECK_CUDA(qh_dense_multiply(d, &p, 0));
        from_device(y, p.y, TOKENS * LDY * sizeof *y);
        for (int n = 0; n < TOKENS; n++)
            for (int r = 0; r < ROWS; r++) {
                double magnitude, want = product(wv + r * DIM, x + n * DIM, DIM, &magnitude);
                if (p.is_added) want += before[n * LDY + r];
                CHECK(fabs(y[n * LDY + r] - want) <= 1e-5 * magnitude + 1e-5);
            }
        if (p.is_added) break;
    }
    qh_dense_free(d);
    free(wv), free(x), free(y), free(before);
    drop(&m);
    free_all();
}

TEST(silu_mul_takes_gate_and_up_by_turns)
{
    enum { ROWS = 3, DIM = 1037, TILES = (DIM + 7) / 8 };
    const int ld = qh_padded_dim(DIM);
    float *x = floats(ROWS * TILES * 16);
    random_fill(&source, x, ROWS * TILES * 16, 2);
    const qh_bf16 *xd = bf16_rows(x, ROWS, TILES * 16, TILES * 16, false);
    qh_bf16 *y = device_alloc((size_t)(ROWS * ld) * sizeof *y);
    CHECK_CUDA(qh_cuda_silu_mul(y, xd, ROWS, TILES, ld, 0));
    float *got = dense_values(y, ROWS, DIM, ld);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < DIM; k++) {
            const float *tile = x + (r * TILES + k / 8) * 16;
            const double g = tile[k % 8], want = g / (1 + exp(-g)) * tile[8 + k % 8];
            CHECK(fabs(got[r * DIM + k] - want) <= 0x1p-8 * fabs(want) + 1e-6);
        }
    free(x), free(got);
    free_all();
}

/* ---- Products of one token, in integers ---- */

static int padded128(int dim) { return (dim + QH_ACT8_PAD - 1) / QH_ACT8_PAD * QH_ACT8_PAD; }

/* x as the kernels round it. */
static void quantize(const float *x, int dim, int8_t *q, float *scales)
{
    for (int g = 0; g < (dim + 15) / 16; g++) {
        float most = 0;
        for (int i = 16 * g; i < 16 * g + 16 && i < dim; i++) most = fmaxf(most, fabsf(x[i]));
        scales[g] = most / 127;
        for (int i = 16 * g; i < 16 * g + 16 && i < dim; i++)
            q[i] = most > 0 ? (int8_t)lrintf(x[i] * (127 / most)) : 0;
    }
}

typedef struct {
    float *x, *norm;                    /* float inputs, and what they become */
    int8_t *q;
    float *scales;
    double factor;                      /* of the norm */
} vec_input;

static vec_input vec_input_of(int dim, bool is_normed)
{
    const int padded = padded128(dim);
    vec_input v = {floats(dim), floats(dim), qh_alloc0((size_t)padded), floats(padded / 16), 1};
    float *weighted = floats(dim);
    double squares = 0;
    random_fill(&source, v.x, dim, 2);
    random_fill(&source, v.norm, dim, 1);
    for (int k = 0; k < dim; k++) {
        weighted[k] = is_normed ? v.x[k] * v.norm[k] : v.x[k];
        squares += (double)v.x[k] * v.x[k];
    }
    quantize(weighted, dim, v.q, v.scales);
    if (is_normed) v.factor = 1 / sqrt(squares / dim + 1e-6);
    free(weighted);
    return v;
}

static void drop_vec(vec_input *v)
{
    free(v->x), free(v->norm), free(v->q), free(v->scales);
}

static double vec_product(const float *w, const vec_input *v, int dim, double *magnitude)
{
    double sum = 0;
    *magnitude = 0;
    for (int k = 0; k < dim; k++) {
        const double p = (double)w[k] * v->q[k] * v->scales[k / 16] * v->factor;
        sum += p;
        *magnitude += fabs(p);
    }
    return sum;
}

static qh_matvec_args vec_args(const vec_input *v, const qh_tiles *t, bool is_normed)
{
    const int padded = padded128(t->dim);
    qh_matvec_args a = {.parts = {{t->tile, t->units, qh_tile_unit_bytes(t->tile), t->n_rows,
                                   t->n_row_tiles, NULL}},
                        .n_parts = 1,
                        .dim = t->dim,
                        .n_units = t->n_units,
                        .eps = 1e-6f};
    if (is_normed) {
        a.x = to_device(v->x, (size_t)t->dim * 4);
        a.norm_weight = to_device(v->norm, (size_t)t->dim * 4);
    } else {
        a.x8 = (qh_act8){to_device(v->q, (size_t)padded), to_device(v->scales, (size_t)padded / 4)};
    }
    return a;
}

static void check_rows(const char *what, const float *y, const float *w, const vec_input *v,
                       int n_rows, int dim, const float *before)
{
    for (int r = 0; r < n_rows; r++) {
        double magnitude, want = vec_product(w + (int64_t)r * dim, v, dim, &magnitude);
        if (before) want += before[r];
        if (!(fabs(y[r] - want) <= 1e-5 * magnitude + 1e-5))
            print_error("%s %dx%d: y[%d] = %g, want %g\n", what, n_rows, dim, r, y[r], want);
        CHECK(fabs(y[r] - want) <= 1e-5 * magnitude + 1e-5);
    }
}

static void check_vector(const stored *s, int n_rows, int dim, bool is_normed, bool is_added)
{
    matrix m = matrix_of(s, n_rows, dim);
    const qh_tiles t = packed(s, &m, NULL);
    float *w = unpacked(&t), *y = floats(n_rows), *before = floats(n_rows);
    vec_input v = vec_input_of(dim, is_normed);
    random_fill(&source, before, n_rows, 1);
    qh_matvec_args a = vec_args(&v, &t, is_normed);
    a.parts[0].y = is_added ? to_device(y, (size_t)n_rows * 4) : device_alloc((size_t)n_rows * 4);
    a.zero = device_alloc(700 * 4);
    a.n_zero = 700;
    if (is_added) a.epilogue = QH_MATVEC_ADD, a.residual = to_device(before, (size_t)n_rows * 4);
    CHECK_CUDA(qh_cuda_matvec(&a, 0));
    from_device(y, a.parts[0].y, (size_t)n_rows * 4);
    check_rows(qh_dtype_name(s->dtype), y, w, &v, n_rows, dim, is_added ? before : NULL);
    float zero[700];
    from_device(zero, a.zero, sizeof zero);
    for (int i = 0; i < 700; i++) CHECK(zero[i] == 0);
    free(w), free(y), free(before);
    drop_vec(&v);
    drop(&m);
    free_all();
}

TEST(a_vector_times_every_type_is_right)
{
    for (int i = 0; i < N_TYPES; i++) {
        if (!qh_cuda_matvec_takes(types[i].tile)) continue;
        const bool wide = is_wide(types[i].dtype);
        check_vector(&types[i], 37, wide ? 768 : 160, true, false);
        check_vector(&types[i], 37, wide ? 768 : 160, false, true);
        check_vector(&types[i], 16, wide ? 256 : 32, false, false);
        check_vector(&types[i], 700, wide ? 2560 : 2592, true, false);
        check_vector(&types[i], 2560, wide ? 1024 : 992, false, true);
        check_vector(&types[i], 4300, wide ? 512 : 576, true, false);
    }
}

TEST(a_vector_times_gate_and_up_is_right)
{
    for (int i = 0; i < N_TYPES; i++) {
        if (!qh_cuda_matvec_takes(types[i].tile)) continue;
        for (int j = 0; j < 2; j++) {
            const int dim = is_wide(types[i].dtype) ? 512 : 96, n_rows = j ? 43 : 2400,
                      padded = padded128(n_rows);
            matrix gate = matrix_of(&types[i], n_rows, dim), up = matrix_of(&types[i], n_rows, dim);
            const qh_tiles g = packed(&types[i], &gate, NULL), u = packed(&types[i], &up, NULL),
                           both = packed(&types[i], &gate, &up);
            float *wg = unpacked(&g), *wu = unpacked(&u), *h = floats(padded),
                  *scales = floats(padded / 16), *got_scales = floats(padded / 16);
            int8_t *q = qh_alloc0((size_t)padded), *got = qh_alloc0((size_t)padded);
            vec_input v = vec_input_of(dim, true);
            qh_matvec_args a = vec_args(&v, &both, true);
            a.epilogue = QH_MATVEC_SILU;
            a.out = (qh_act8){to_device(q, (size_t)padded), to_device(scales, (size_t)padded / 4)};
            CHECK_CUDA(qh_cuda_matvec(&a, 0));
            from_device(got, a.out.q, (size_t)padded);
            from_device(got_scales, a.out.scales, (size_t)padded / 4);
            for (int r = 0; r < n_rows; r++) {
                double mg, mu, x = vec_product(wg + (int64_t)r * dim, &v, dim, &mg),
                               y = vec_product(wu + (int64_t)r * dim, &v, dim, &mu);
                h[r] = (float)(x / (1 + exp(-x)) * y);
            }
            quantize(h, n_rows, q, scales);
            for (int r = 0; r < padded; r++) {
                const float want = (float)q[r] * scales[r / 16],
                            have = (float)got[r] * got_scales[r / 16];
                if (!(fabsf(want - have) <= 1.01f * scales[r / 16] + 1e-5f))
                    print_error("%s [%d] of %d: %g, want %g\n", qh_dtype_name(types[i].dtype), r,
                                n_rows, have, want);
                CHECK(fabsf(want - have) <= 1.01f * scales[r / 16] + 1e-5f);
                CHECK(fabsf(got_scales[r / 16] - scales[r / 16]) <= 1e-3f * scales[r / 16] + 1e-6f);
            }
            free(wg), free(wu), free(h), free(scales), free(got_scales), free(q), free(got);
            drop_vec(&v);
            drop(&gate), drop(&up);
            free_all();
        }
    }
}

TEST(two_formats_share_a_launch)
{
    static const int kinds[][2] = {{10, 12}, {11, 12}, {4, 7}};   /* Q4_K, Q5_K with Q6_K; others */
    for (int i = 0; i < 3; i++) {
        const stored *s0 = &types[kinds[i][0]], *s1 = &types[kinds[i][1]];
        const int dim = 768, rows0 = 5120, rows1 = 1024;
        matrix m0 = matrix_of(s0, rows0, dim), m1 = matrix_of(s1, rows1, dim);
        const qh_tiles t0 = packed(s0, &m0, NULL), t1 = packed(s1, &m1, NULL);
        float *w0 = unpacked(&t0), *w1 = unpacked(&t1), *y = floats(rows0 + rows1);
        vec_input v = vec_input_of(dim, true);
        qh_matvec_args a = vec_args(&v, &t0, true), b = vec_args(&v, &t1, true);
        a.n_parts = 2;
        a.parts[1] = b.parts[0];
        a.parts[0].y = device_alloc((size_t)(rows0 + rows1) * 4);
        a.parts[1].y = a.parts[0].y + rows0;
        CHECK_CUDA(qh_cuda_matvec(&a, 0));
        from_device(y, a.parts[0].y, (size_t)(rows0 + rows1) * 4);
        check_rows(qh_dtype_name(s0->dtype), y, w0, &v, rows0, dim, NULL);
        check_rows(qh_dtype_name(s1->dtype), y + rows0, w1, &v, rows1, dim, NULL);
        free(w0), free(w1), free(y);
        drop_vec(&v);
        drop(&m0), drop(&m1);
        free_all();
    }
}

/* ---- Norm ---- */

TEST(norm_is_right_and_takes_the_rows_it_is_told)
{
    static const int dims[] = {1, 31, 64, 576, 2560, 9001};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        enum { ROWS = 5 };
        const int dim = dims[i], ld = qh_padded_dim(dim), rows[3] = {4, 0, 2};
        float *x = floats((int64_t)ROWS * dim), *w = floats(dim), *want = floats(dim);
        random_fill(&source, x, (int64_t)ROWS * dim, 3);
        random_fill(&source, w, dim, 1);
        qh_bf16 *y = qh_alloc0(3 * (size_t)ld * sizeof *y),
                *yd = device_alloc(3 * (size_t)ld * sizeof *yd);
        CHECK_CUDA(qh_cuda_rms_norm(yd, to_device(x, (size_t)ROWS * (size_t)dim * 4),
                                    to_device(w, (size_t)dim * 4), to_device(rows, sizeof rows), 3,
                                    dim, 1e-5f, 0));
        from_device(y, yd, 3 * (size_t)ld * sizeof *y);
        for (int r = 0; r < 3; r++) {
            qh_ref_rms_norm(want, x + (int64_t)rows[r] * dim, w, dim, 1e-5f);
            for (int k = 0; k < dim; k++)
                CHECK(fabsf(qh_bf16_to_f32(y[r * ld + qh_act_place(k)]) - want[k]) <=
                      0x1p-8f * fabsf(want[k]) + 1e-6f);
        }
        free(x), free(w), free(want), free(y);
        free_all();
    }
}

/* ---- Heads ---- */

typedef struct {
    int n_heads, n_kv_heads, head_dim, rope_dim;
    bool is_interleaved, has_bias, has_norm;
} head_shape;

static void check_heads(const head_shape *s)
{
    enum { ROWS = 3, N_PAGES = 4, LAYERS = 2, LAYER = 1 };
    const int hd = s->head_dim, n_all = s->n_heads + 2 * s->n_kv_heads,
              padded = qh_cuda_padded_head(hd), half = s->rope_dim / 2;
    const int positions[ROWS] = {0, 130, 255}, pages[ROWS] = {3, 0, 2};
    const size_t page_bytes = (size_t)LAYERS * (size_t)s->n_kv_heads * 2 * 64 * (size_t)padded * 2;
    float *qkv = floats((int64_t)ROWS * n_all * hd), *bias = floats((int64_t)n_all * hd),
          *qn = floats(hd), *kn = floats(hd);
    double *freqs = qh_alloc0((size_t)half * sizeof *freqs);
    random_fill(&source, qkv, (int64_t)ROWS * n_all * hd, 1);
    random_fill(&source, bias, (int64_t)n_all * hd, 1);
    random_fill(&source, qn, hd, 1);
    random_fill(&source, kn, hd, 1);
    for (int i = 0; i < half; i++) freqs[i] = pow(10000, -i / (double)half);
    const int *pos = to_device(positions, sizeof positions);
    float *cos_sin = device_alloc(ROWS * (size_t)s->rope_dim * sizeof *cos_sin);
    CHECK_CUDA(qh_cuda_rope_table(cos_sin, to_device(freqs, (size_t)half * sizeof *freqs), pos,
                                  ROWS, half, 1.25, 0));
    qh_heads_args a = {
        .kv = {device_alloc(N_PAGES * page_bytes), page_bytes, LAYER, s->n_kv_heads, hd, padded},
        .n_heads = s->n_heads,
        .rope_dim = s->rope_dim,
        .is_interleaved = s->is_interleaved,
        .qkv = to_device(qkv, ROWS * (size_t)(n_all * hd) * 4),
        .bias = s->has_bias ? to_device(bias, (size_t)(n_all * hd) * 4) : NULL,
        .q_norm = s->has_norm ? to_device(qn, (size_t)hd * 4) : NULL,
        .k_norm = s->has_norm ? to_device(kn, (size_t)hd * 4) : NULL,
        .eps = 1e-6f,
        .q_scale = 0.3f,
        .cos_sin = cos_sin,
        .positions = pos,
        .pages = to_device(pages, sizeof pages),
        .q = device_alloc(ROWS * (size_t)(s->n_heads * padded) * 2),
        .n_rows = ROWS};
    CHECK_CUDA(qh_cuda_heads(&a, 0));
    qh_bf16 *q = qh_alloc0(ROWS * (size_t)(s->n_heads * padded) * 2),
            *kv = qh_alloc0(N_PAGES * page_bytes);
    from_device(q, a.q, ROWS * (size_t)(s->n_heads * padded) * 2);
    from_device(kv, a.kv.base, N_PAGES * page_bytes);
    float *x = floats(hd), *table = floats(2 * (int64_t)s->rope_dim);
    for (int r = 0; r < ROWS; r++) {
        /* The rotation as the CPU reads it: cos and signed sin of each element. */
        for (int i = 0; i < s->rope_dim; i++) {
            const int pair = s->is_interleaved ? i / 2 : i % half;
            const bool is_first = s->is_interleaved ? i % 2 == 0 : i < half;
            table[i] = (float)(cos(positions[r] * freqs[pair]) * 1.25);
            table[s->rope_dim + i] =
                (float)(sin(positions[r] * freqs[pair]) * 1.25) * (is_first ? -1 : 1);
        }
        for (int h = 0; h < n_all; h++) {
            const bool is_q = h < s->n_heads, is_v = h >= s->n_heads + s->n_kv_heads;
            memcpy(x, qkv + ((int64_t)r * n_all + h) * hd, (size_t)hd * 4);
            if (s->has_bias) qh_ref_add(x, bias + (int64_t)h * hd, hd);
            if (s->has_norm && !is_v) qh_ref_rms_norm(x, x, is_q ? qn : kn, hd, 1e-6f);
            if (!is_v) qh_ref_rope(x, table, s->rope_dim, s->is_interleaved);
            const int kvh = is_v ? h - s->n_heads - s->n_kv_heads : h - s->n_heads,
                      slot = positions[r] % 64;
            const qh_bf16 *block =
                kv + ((size_t)pages[r] * page_bytes / 2 +
                      (size_t)(LAYER * s->n_kv_heads + (is_q ? 0 : kvh)) * 2 * 64 * (size_t)padded);
            for (int i = 0; i < padded; i++) {
                const qh_bf16 got = is_q   ? q[(r * s->n_heads + h) * padded + i]
                                    : is_v ? block[64 * padded + i * 64 + slot]
                                           : block[slot * padded + i];
                const float want = i < hd ? x[i] * (is_q ? 0.3f : 1) : 0;
                if (!(fabsf(qh_bf16_to_f32(got) - want) <= 0x1p-8f * fabsf(want) + 2e-5f))
                    print_error("row %d head %d [%d]: %g, want %g\n", r, h, i, qh_bf16_to_f32(got),
                                want);
                CHECK(fabsf(qh_bf16_to_f32(got) - want) <= 0x1p-8f * fabsf(want) + 2e-5f);
            }
        }
    }
    free(qkv), free(bias), free(qn), free(kn), free(freqs), free(q), free(kv), free(x), free(table);
    free_all();
}

TEST(heads_get_bias_norm_and_rotation)
{
    const head_shape shapes[] = {
        {4, 2, 64, 64, true, false, false},   {3, 1, 20, 20, false, true, false},
        {8, 8, 128, 128, false, false, true}, {5, 5, 48, 32, true, true, true},
        {2, 1, 256, 64, false, false, true},  {14, 2, 2, 2, false, true, false}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_heads(&shapes[i]);
}

/* ---- Attention ---- */

enum { MAX_SEQS = 4, PAGE = 64 };

typedef struct {
    int n_heads, n_kv_heads, head_dim, n_seqs;
    int n_past[MAX_SEQS], n_rows[MAX_SEQS];
} attn_shape;

/* One layer's cache and queries; rows of all sequences one after the other. */
typedef struct {
    attn_shape s;
    int padded, n_rows, n_pages, first_page[MAX_SEQS], *pages;
    float *q, *k, *v; /* as stored: q [n_rows][n_heads][hd]; k, v [n_kv][page * 64 + slot][hd] */
    qh_attn_args args;
} attn_case;

static attn_case attn_make(const attn_shape *s)
{
    attn_case c = {.s = *s, .padded = qh_cuda_padded_head(s->head_dim)};
    const int hd = s->head_dim;
    for (int i = 0; i < s->n_seqs; i++) {
        c.first_page[i] = c.n_pages;
        c.n_pages += (s->n_past[i] + s->n_rows[i] + PAGE - 1) / PAGE;
        c.n_rows += s->n_rows[i];
    }
    c.pages = qh_alloc0((size_t)c.n_pages * sizeof(int));
    for (int i = 0; i < c.n_pages; i++) c.pages[i] = c.n_pages - 1 - i;
    const size_t block = 2 * PAGE * (size_t)c.padded,
                 page_bytes = (size_t)s->n_kv_heads * block * 2;
    qh_bf16 *host = qh_alloc0((size_t)c.n_pages * page_bytes);
    /* Slots behind a sequence's end hold NaNs, columns behind the head's end zeros. */
    memset(host, POISON, (size_t)c.n_pages * page_bytes);
    const int64_t n_kv = (int64_t)s->n_kv_heads * c.n_pages * PAGE * hd;
    c.q = floats((int64_t)c.n_rows * s->n_heads * hd);
    c.k = floats(n_kv);
    c.v = floats(n_kv);
    random_fill(&source, c.q, (int64_t)c.n_rows * s->n_heads * hd, 1);
    random_fill(&source, c.k, n_kv, 1);
    random_fill(&source, c.v, n_kv, 1);
    for (int i = 0; i < s->n_seqs; i++)
        for (int t = 0; t < s->n_past[i] + s->n_rows[i]; t++)
            for (int h = 0; h < s->n_kv_heads; h++) {
                const int page = c.pages[c.first_page[i] + t / PAGE], slot = t % PAGE;
                qh_bf16 *b = host + (size_t)page * page_bytes / 2 + (size_t)h * block;
                const int64_t at = (((int64_t)h * c.n_pages + page) * PAGE + slot) * hd;
                for (int d = 0; d < c.padded; d++) {
                    b[slot * c.padded + d] = d < hd ? qh_f32_to_bf16(c.k[at + d]) : 0;
                    b[(PAGE + 0) * c.padded + d * PAGE + slot] =
                        d < hd ? qh_f32_to_bf16(c.v[at + d]) : 0;
                    if (d < hd)
                        c.k[at + d] = qh_bf16_to_f32(b[slot * c.padded + d]),
                                 c.v[at + d] = qh_bf16_to_f32(qh_f32_to_bf16(c.v[at + d]));
                }
            }
    c.args = (qh_attn_args){.kv = {to_device(host, (size_t)c.n_pages * page_bytes), page_bytes, 0,
                                   s->n_kv_heads, hd, c.padded},
                            .n_heads = s->n_heads,
                            .q = bf16_rows(c.q, c.n_rows * s->n_heads, hd, c.padded, false),
                            .ld_out = qh_padded_dim(s->n_heads * hd) + 8,
                            .pages = to_device(c.pages, (size_t)c.n_pages * sizeof(int))};
    free(host);
    return c;
}

/* Run with small items wherever they are allowed, or with large ones only. */
static qh_bf16 *attn_run(attn_case *c, bool may_be_small)
{
    enum { MAX = 256 };
    qh_attn_seq seqs[MAX_SEQS];
    qh_attn_small small[MAX];
    qh_attn_merge merges[MAX_SEQS];
    qh_attn_large large[MAX];
    qh_attn_args a = c->args;
    const int group = c->s.n_heads / c->s.n_kv_heads;
    int row = 0;
    for (int i = 0; i < c->s.n_seqs; row += c->s.n_rows[i++]) {
        const int n = c->s.n_rows[i] * group,
                  n_pages = (c->s.n_past[i] + c->s.n_rows[i] + PAGE - 1) / PAGE;
        seqs[i] = (qh_attn_seq){row, c->s.n_rows[i], c->s.n_past[i], c->first_page[i]};
        if (may_be_small && n <= QH_ATTN_QUERIES) {
            merges[a.n_merges++] = (qh_attn_merge){i, n_pages, a.max_states};
            for (int p = 0; p < n_pages; p++, a.max_states += n)
                small[a.n_small++] = (qh_attn_small){i, p, a.max_states};
            if (n > a.max_merge_queries) a.max_merge_queries = n;
        } else {
            for (int q = 0; q < n; q += QH_ATTN_LARGE_QUERIES) large[a.n_large++] = (qh_attn_large){i, q};
        }
    }
    const size_t bytes = (size_t)c->n_rows * (size_t)a.ld_out * 2;
    a.seqs = to_device(seqs, sizeof seqs);
    a.small = to_device(small, sizeof small);
    a.merges = to_device(merges, sizeof merges);
    a.large = to_device(large, sizeof large);
    a.states = device_alloc((size_t)c->s.n_kv_heads * (size_t)(a.max_states + 1) *
                            (size_t)(c->padded + 2) * 4);
    a.out = device_alloc(bytes);
    CHECK_CUDA(qh_cuda_attention(&a, 0));
    qh_bf16 *out = qh_alloc0(bytes);
    from_device(out, a.out, bytes);
    return out;
}

static void check_attention(const attn_shape *s)
{
    attn_case c = attn_make(s);
    qh_bf16 *got = attn_run(&c, true), *large = attn_run(&c, false);
    CHECK(memcmp(got, large, (size_t)c.n_rows * (size_t)c.args.ld_out * 2) == 0);
    const int hd = s->head_dim, group = s->n_heads / s->n_kv_heads;
    float *want = floats(hd), *k = floats((int64_t)c.n_pages * PAGE * hd),
          *v = floats((int64_t)c.n_pages * PAGE * hd);
    for (int i = 0, row = 0; i < s->n_seqs; i++)
        for (int r = 0; r < s->n_rows[i]; r++, row++)
            for (int h = 0; h < s->n_heads; h++) {
                const int n_keys = s->n_past[i] + r + 1;
                for (int t = 0; t < n_keys; t++) {
                    const int64_t at =
                        (((int64_t)(h / group) * c.n_pages + c.pages[c.first_page[i] + t / PAGE]) *
                             PAGE +
                         t % PAGE) *
                        hd;
                    memcpy(k + (int64_t)t * hd, c.k + at, (size_t)hd * 4);
                    memcpy(v + (int64_t)t * hd, c.v + at, (size_t)hd * 4);
                }
                /* The kernel's exponent is base 2 and its scale already on q. */
                qh_ref_attention(want, c.q + ((int64_t)row * s->n_heads + h) * hd, k, v, hd, n_keys,
                                 hd, 0.69314718f);
                for (int d = 0; d < hd; d++) {
                    const float g = qh_bf16_to_f32(
                        got[(int64_t)row * c.args.ld_out + qh_act_place(h * hd + d)]);
                    if (!(fabsf(g - want[d]) <= 0x1p-6f))
                        print_error("hd %d group %d seq %d row %d head %d [%d]: %g, want %g\n", hd,
                                    group, i, r, h, d, g, want[d]);
                    CHECK(fabsf(g - want[d]) <= 0x1p-6f);
                }
            }
    free(got), free(large), free(want), free(k), free(v), free(c.q), free(c.k), free(c.v),
        free(c.pages);
    free_all();
}

TEST(attention_is_right_and_has_the_same_bits_both_ways)
{
    const attn_shape shapes[] = {{4, 2, 64, 3, {0, 63, 200}, {1, 1, 1}},
                                 {8, 2, 128, 4, {0, 64, 127, 300}, {1, 4, 2, 3}},
                                 {6, 2, 32, 2, {0, 70}, {130, 5}},
                                 {4, 1, 20, 2, {5, 500}, {3, 40}},
                                 {20, 1, 48, 2, {0, 100}, {1, 9}},
                                 {3, 3, 80, 2, {0, 64}, {65, 1}},
                                 {2, 1, 256, 2, {0, 130}, {1, 33}},
                                 {14, 2, 2, 1, {3}, {2}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_attention(&shapes[i]);
}

/* ---- Decode attention: against heads and attention, which the tests above check ---- */

static void check_decode(const attn_shape *s, const head_shape *h, bool is_integer)
{
    enum { MAX = 256 };
    attn_case c = attn_make(s);
    const int hd = s->head_dim, n_kv = s->n_kv_heads, n_all = s->n_heads + 2 * n_kv,
              group = s->n_heads / n_kv, n = s->n_seqs, ld = qh_padded_dim(s->n_heads * hd);
    float *qkv = floats((int64_t)n * n_all * hd), *bias = floats((int64_t)n_all * hd),
          *norms = floats(hd), *table = floats((int64_t)n * h->rope_dim);
    random_fill(&source, qkv, (int64_t)n * n_all * hd, 1);
    random_fill(&source, bias, (int64_t)n_all * hd, 1);
    random_fill(&source, norms, hd, 1);
    for (int i = 0; i < n * h->rope_dim; i++) {
        const int half = h->rope_dim / 2, p = i % half;
        table[i] = i / half % 2 ? sinf((float)p) : cosf((float)p);
    }
    int positions[MAX_SEQS], row_pages[MAX_SEQS];
    qh_attn_seq seqs[MAX_SEQS];
    qh_attn_small small[MAX];
    qh_attn_merge merges[MAX_SEQS];
    qh_attn_args t = c.args;
    for (int i = 0; i < n; i++) {
        positions[i] = s->n_past[i];
        row_pages[i] = c.pages[c.first_page[i] + s->n_past[i] / PAGE];
        seqs[i] = (qh_attn_seq){i, 1, s->n_past[i], c.first_page[i]};
        const int n_pages = s->n_past[i] / PAGE + 1;
        merges[t.n_merges++] = (qh_attn_merge){i, n_pages, t.max_states};
        for (int p = 0; p < n_pages; p++, t.max_states += group)
            small[t.n_small++] = (qh_attn_small){i, p, t.max_states};
    }
    const size_t cache = (size_t)c.n_pages * c.args.kv.page_bytes;
    uint8_t *before = qh_alloc0(cache), *want_kv = qh_alloc0(cache), *got_kv = qh_alloc0(cache);
    from_device(before, c.args.kv.base, cache);
    qh_heads_args heads = {.kv = c.args.kv, .n_heads = s->n_heads, .rope_dim = h->rope_dim,
                           .is_interleaved = h->is_interleaved,
                           .qkv = to_device(qkv, (size_t)(n * n_all * hd) * 4),
                           .bias = h->has_bias ? to_device(bias, (size_t)(n_all * hd) * 4) : NULL,
                           .q_norm = h->has_norm ? to_device(norms, (size_t)hd * 4) : NULL,
                           .eps = 1e-6f, .q_scale = 0.2f,
                           .cos_sin = to_device(table, (size_t)(n * h->rope_dim) * 4),
                           .positions = to_device(positions, sizeof positions),
                           .pages = to_device(row_pages, sizeof row_pages),
                           .q = device_alloc((size_t)(n * s->n_heads * c.padded) * 2), .n_rows = n};
    heads.k_norm = heads.q_norm;
    t.q = heads.q;
    t.ld_out = ld;
    t.max_merge_queries = group;
    t.seqs = to_device(seqs, sizeof seqs);
    t.small = to_device(small, sizeof small);
    t.merges = to_device(merges, sizeof merges);
    t.states = device_alloc((size_t)n_kv * (size_t)t.max_states * (size_t)(c.padded + 2) * 4);
    t.out = device_alloc((size_t)(n * ld) * 2);
    CHECK_CUDA(qh_cuda_heads(&heads, 0));
    CHECK_CUDA(qh_cuda_attention(&t, 0));
    qh_bf16 *want = qh_alloc0((size_t)(n * ld) * 2), *got = qh_alloc0((size_t)(n * ld) * 2);
    from_device(want, t.out, (size_t)(n * ld) * 2);
    from_device(want_kv, c.args.kv.base, cache);

    CHECK_CUDA(cudaMemcpy(c.args.kv.base, before, cache, cudaMemcpyHostToDevice));
    int counters[MAX_SEQS * 8] = {0};
    const int splits = qh_cuda_decode_splits(n, n_kv, 16);
    qh_decode_attn_args a = {.kv = c.args.kv, .n_heads = s->n_heads, .rope_dim = h->rope_dim,
                             .is_interleaved = h->is_interleaved, .qkv = heads.qkv,
                             .bias = heads.bias, .q_norm = heads.q_norm, .k_norm = heads.k_norm,
                             .eps = 1e-6f, .q_scale = 0.2f, .cos_sin = heads.cos_sin, .seqs = t.seqs,
                             .pages = t.pages, .n_rows = n, .ld_out = ld, .max_splits = splits};
    a.out = device_alloc((size_t)(n * ld) * 2);
    a.states = device_alloc((size_t)(n * n_kv * splits * group) * (size_t)(c.padded + 4) * 4);
    a.counters = to_device(counters, sizeof counters);
    const int padded = padded128(s->n_heads * hd);
    if (is_integer) a.out8 = (qh_act8){device_alloc((size_t)padded), device_alloc((size_t)padded / 4)};
    for (int round = 0; round < 2; round++) CHECK_CUDA(qh_cuda_decode_attention(&a, 0));
    from_device(got_kv, c.args.kv.base, cache);
    CHECK(memcmp(got_kv, want_kv, cache) == 0);
    int8_t *q8 = qh_alloc0((size_t)padded);
    float *scales = floats(padded / 16);
    if (is_integer) {
        from_device(q8, a.out8.q, (size_t)(s->n_heads * hd));
        from_device(scales, a.out8.scales, (size_t)(s->n_heads * hd / 16) * 4);
    } else {
        from_device(got, a.out, (size_t)(n * ld) * 2);
    }
    for (int r = 0; r < n; r++)
        for (int k = 0; k < s->n_heads * hd; k++) {
            const float w = qh_bf16_to_f32(want[r * ld + qh_act_place(k)]),
                        g = is_integer ? (float)q8[k] * scales[k / 16]
                                       : qh_bf16_to_f32(got[r * ld + qh_act_place(k)]);
            const float allowed = 0x1p-6f + (is_integer ? scales[k / 16] : 0);
            if (!(fabsf(g - w) <= allowed))
                print_error("hd %d group %d row %d [%d]: %g, want %g\n", hd, group, r, k, g, w);
            CHECK(fabsf(g - w) <= allowed);
        }
    from_device(counters, a.counters, sizeof(int) * (size_t)(n * n_kv));
    for (int i = 0; i < n * n_kv; i++) CHECK(counters[i] == 0);
    free(qkv), free(bias), free(norms), free(table), free(before), free(want_kv), free(got_kv);
    free(want), free(got), free(q8), free(scales), free(c.q), free(c.k), free(c.v), free(c.pages);
    free_all();
}

TEST(decode_attention_is_heads_and_attention)
{
    const attn_shape shapes[] = {{4, 2, 64, 3, {0, 63, 200}, {1, 1, 1}},
                                 {8, 2, 128, 4, {0, 64, 127, 900}, {1, 1, 1, 1}},
                                 {8, 2, 128, 1, {575}, {1}},
                                 {6, 2, 32, 2, {64, 70}, {1, 1}},
                                 {16, 1, 48, 2, {5, 500}, {1, 1}},
                                 {3, 3, 80, 1, {640}, {1}},
                                 {9, 1, 96, 1, {130}, {1}},
                                 {2, 1, 256, 2, {0, 131}, {1, 1}},
                                 {14, 2, 2, 1, {3}, {1}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int hd = shapes[i].head_dim;
        const head_shape h = {.rope_dim = i % 3 == 2 && hd > 2 ? hd / 2 : hd,
                              .is_interleaved = i % 2, .has_bias = i % 3 == 0, .has_norm = i % 2 == 0};
        check_decode(&shapes[i], &h, false);
        if (shapes[i].n_seqs == 1 && hd % 16 == 0) check_decode(&shapes[i], &h, true);
    }
}

int main(void)
{
    int n;
    qh_err err = {0};
    if (!qh_cuda_is_available(&n, &err)) {
        print_message("skipped: %s\n", err.msg);
        return 77;
    }
    return _cmocka_run_group_tests(__FILE__, qh_tests, qh_n_tests, NULL, NULL);
}
