/* Packed matrices and their products, every stored type at every level this machine has. Weights
 * are random blocks in file form; the oracle dequantizes them and sums in double. */
#include "test.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/cpu/matrix_layout.h"
#include "model/quant.h"
#include <math.h>

enum { MAX_TOKENS = 40, LINE = 64 };

static const qh_dtype all_types[] = {
#define X(name, number, n, bytes) QH_##name,
    QH_DTYPE_LIST(X)
#undef X
};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

static uint32_t draw(void)
{
    static uint64_t n;
    return qh_rng_philox(7, 0, n++).v[0];
}

static float uniform(float lo, float hi) { return lo + (hi - lo) * qh_rng_unit(draw()); }

/* ---- weights in file form ---- */

static void put_f16(uint8_t *p, float x)
{
    const uint16_t h = qh_f32_to_f16(x);
    memcpy(p, &h, 2);
}

/* Offsets of the f16 fields in a stored block, -1: none. Everything else may hold any bits. */
static void scale_offsets(qh_dtype t, int at[2])
{
    at[0] = 0;
    at[1] = -1;
    switch (t) {
    case QH_Q4_1: case QH_Q5_1: case QH_Q4_K: case QH_Q5_K: at[1] = 2; break;
    case QH_Q2_K: at[0] = 80; at[1] = 82; break;
    case QH_Q3_K: at[0] = 108; break;
    case QH_Q6_K: at[0] = 208; break;
    default: break;
    }
}

static void random_block(qh_dtype t, uint8_t *p)
{
    const size_t bytes = qh_dtype_block_bytes(t);
    if (t == QH_F32) {
        const float f = uniform(-1, 1);
        memcpy(p, &f, 4);
    } else if (t == QH_F16) {
        put_f16(p, uniform(-1, 1));
    } else if (t == QH_BF16) {
        const uint16_t h = qh_f32_to_bf16(uniform(-1, 1));
        memcpy(p, &h, 2);
    } else {
        int at[2];
        for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)draw();
        scale_offsets(t, at);
        for (int i = 0; i < 2; i++)
            if (at[i] >= 0) put_f16(p + at[i], uniform(-0.02f, 0.02f));
    }
}

static qh_tensor random_tensor(qh_dtype t, int64_t n_rows, int64_t dim)
{
    const size_t n = (size_t)n_rows * (size_t)(dim / qh_dtype_block_len(t));
    const size_t bytes = qh_dtype_block_bytes(t);
    uint8_t *data = qh_alloc0(n * bytes + 1);
    data++;                                     /* a mapped file promises no alignment */
    for (size_t i = 0; i < n; i++) random_block(t, data + i * bytes);
    return (qh_tensor){.data = data, .dtype = t, .n_rows = n_rows, .dim = dim, .name = "test"};
}

static void free_tensor(qh_tensor *t) { qh_free((uint8_t *)t->data - 1); }

static void *alloc_lines(size_t bytes)
{
    void *p = aligned_alloc(LINE, (bytes + 2 * LINE) / LINE * LINE);
    CHECK(p != NULL);
    memset(p, 0xa5, bytes);                     /* nothing may rest on zeroed memory */
    return p;
}

/* ---- a matrix, its activations and its products ---- */

typedef struct {
    qh_tensor t;
    qh_matrix m;
    float *w;                                   /* dequantized, [n_rows][dim] */
} fixture;

static void pack(fixture *f, qh_isa isa)
{
    qh_err err = {0};
    void *data = alloc_lines(qh_matrix_bytes(isa, f->t.dtype, f->t.n_rows, f->t.dim));
    CHECK_OK(qh_matrix_init(&f->m, isa, &f->t, data, &err));
    const int64_t cut = f->t.n_rows / 2 / QH_MATRIX_ROW_ALIGN * QH_MATRIX_ROW_ALIGN;
    qh_matrix_pack(&f->m, &f->t, 0, cut);
    qh_matrix_pack(&f->m, &f->t, cut, f->t.n_rows);
}

static fixture fixture_of(qh_isa isa, qh_dtype t, int64_t n_rows, int64_t dim)
{
    fixture f = {.t = random_tensor(t, n_rows, dim)};
    f.w = qh_alloc0(sizeof *f.w * (size_t)(n_rows * dim));
    for (int64_t r = 0; r < n_rows; r++)
        qh_dequantize(t, f.w + r * dim,
                      (const uint8_t *)f.t.data + (size_t)r * qh_dtype_row_bytes(t, dim), dim);
    pack(&f, isa);
    return f;
}

static void free_fixture(fixture *f)
{
    free(f->m.data);
    qh_free(f->w);
    free_tensor(&f->t);
}

static float *random_acts(int n_tokens, int64_t dim)
{
    float *x = qh_alloc0(sizeof *x * (size_t)(n_tokens * dim));
    for (int64_t i = 0; i < n_tokens * dim; i++)
        x[i] = uniform(-1, 1) * (i / 32 % 3 ? 1.0f : 20.0f);
    return x;
}

static qh_acts acts_of(qh_isa isa, const float *x, int n_tokens, int64_t dim, bool has_float)
{
    qh_acts a;
    qh_acts_init(&a, isa, n_tokens, dim, has_float,
                 alloc_lines(qh_acts_bytes(isa, n_tokens, dim, has_float)));
    qh_acts_set(&a, x, dim, 0, n_tokens / 2);
    qh_acts_set(&a, x, dim, n_tokens / 2, n_tokens);
    return a;
}

static float *poisoned(size_t n)
{
    float *y = qh_alloc0(sizeof *y * n);
    for (size_t i = 0; i < n; i++) y[i] = NAN;
    return y;
}

/* ---- the oracle ---- */

/* x as the levels see it: int8 in blocks of 32 for quantized weights, bf16 for the bf16 dot. */
static void rounded_acts(double *out, const float *x, int64_t dim, const qh_matrix *m)
{
    if (qh_matrix_needs_float(m)) {
        const bool is_bf16 = m->isa == QH_ISA_AVX512BF16 && m->dtype == QH_BF16;
        for (int64_t k = 0; k < dim; k++)
            out[k] = is_bf16 ? qh_bf16_to_f32(qh_f32_to_bf16(x[k])) : x[k];
        return;
    }
    for (int64_t b = 0; b < dim; b += 32) {
        float amax = 0;
        for (int64_t k = b; k < b + 32; k++) amax = fmaxf(amax, fabsf(x[k]));
        for (int64_t k = b; k < b + 32; k++)
            out[k] = amax > 0
                         ? (double)nearbyintf(x[k] * (127.0f / amax)) * (double)(amax / 127.0f)
                         : 0;
    }
}

/* y against sums in double; the error may grow with the sum of the products' magnitudes. */
static void check_product(const fixture *f, const float *x, int n_tokens, const float *y)
{
    const int64_t dim = f->t.dim, n_rows = f->t.n_rows;
    double *xr = qh_alloc0(sizeof *xr * (size_t)dim);
    for (int t = 0; t < n_tokens; t++) {
        rounded_acts(xr, x + t * dim, dim, &f->m);
        for (int64_t r = 0; r < n_rows; r++) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < dim; k++) {
                const double p = (double)f->w[r * dim + k] * xr[k];
                sum += p;
                magnitude += fabs(p);
            }
            const double got = (double)y[t * n_rows + r];
            if (!(fabs(got - sum) <= magnitude * 2e-6 * sqrt((double)dim) + 1e-30)) {
                print_error(
                    "%s at %s, %lld x %lld, %d tokens: y[%d][%lld] = %g, want %g (magnitude %g)\n",
                    qh_dtype_name(f->t.dtype), qh_isa_name(f->m.isa), (long long)n_rows,
                    (long long)dim, n_tokens, t, (long long)r, got, sum, magnitude);
                fail();
            }
        }
    }
    qh_free(xr);
}

#define EACH_LEVEL(isa)                                                                            \
    for (qh_isa isa = QH_ISA_REF; isa < QH_N_ISA; isa = (qh_isa)(isa + 1))                         \
        if (qh_isa_is_available(isa))

/* Widths that make sense for a type: not whole chunks, not whole panels, odd where blocks allow. */
static int widths_of(qh_dtype t, int64_t out[8])
{
    static const int64_t plain[] = {1, 31, 100, 129, 577, 1536}, blocks[] = {32, 64, 96, 576, 1536},
                         supers[] = {256, 512, 768, 1280};
    const int64_t *from = qh_dtype_block_len(t) == 1    ? plain
                          : qh_dtype_block_len(t) == 32 ? blocks
                                                        : supers;
    const int n = qh_dtype_block_len(t) == 1 ? 6 : qh_dtype_block_len(t) == 32 ? 5 : 4;
    memcpy(out, from, sizeof *out * (size_t)n);
    return n;
}

TEST(packed_rows_hold_exactly_the_stored_values)
{
    EACH_LEVEL(isa) for (int i = 0; i < N_TYPES; i++) {
        int64_t dims[8];
        const int n = widths_of(all_types[i], dims);
        for (int d = 0; d < n; d++) {
            fixture f = fixture_of(isa, all_types[i], 37, dims[d]);
            float *row = poisoned((size_t)dims[d]);
            for (int64_t r = 0; r < 37; r++) {
                qh_matrix_row(&f.m, r, row);
                for (int64_t k = 0; k < dims[d]; k++) CHECK(row[k] == f.w[r * dims[d] + k]);
            }
            qh_free(row);
            free_fixture(&f);
        }
    }
}

static void check_shape(qh_isa isa, qh_dtype t, int64_t n_rows, int64_t dim)
{
    static const int counts[] = {1, 2, 3, 4, 5, 7, 17, 33};
    fixture f = fixture_of(isa, t, n_rows, dim);
    float *x = random_acts(MAX_TOKENS, dim);
    qh_acts a = acts_of(isa, x, MAX_TOKENS, dim, qh_matrix_needs_float(&f.m));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        float *y = poisoned((size_t)(counts[i] * n_rows));
        qh_matmul(&f.m, &a, 0, counts[i], 0, n_rows, y, n_rows);
        check_product(&f, x, counts[i], y);
        qh_free(y);
    }
    free(a.data);
    qh_free(x);
    free_fixture(&f);
}

TEST(products_agree_with_sums_in_double)
{
    EACH_LEVEL(isa) for (int i = 0; i < N_TYPES; i++) {
        int64_t dims[8];
        const int n = widths_of(all_types[i], dims);
        for (int d = 0; d < n; d++) check_shape(isa, all_types[i], d % 2 ? 37 : 16, dims[d]);
        check_shape(isa, all_types[i], 5, dims[1]);
        check_shape(isa, all_types[i], 64, dims[n - 1]);
    }
}

/* One token at a time over all rows is the reference; every other way must give its bits. */
TEST(bits_do_not_depend_on_token_count_or_row_split)
{
    enum { ROWS = 83, TOKENS = 37 };
    EACH_LEVEL(isa) for (int i = 0; i < N_TYPES; i++) {
        int64_t dims[8];
        const int64_t dim = dims[widths_of(all_types[i], dims) - 1];
        fixture f = fixture_of(isa, all_types[i], ROWS, dim);
        float *x = random_acts(TOKENS, dim), *want = poisoned(TOKENS * ROWS);
        qh_acts a = acts_of(isa, x, TOKENS, dim, qh_matrix_needs_float(&f.m));
        for (int t = 0; t < TOKENS; t++) qh_matmul(&f.m, &a, t, t + 1, 0, ROWS, want, ROWS);
        static const int steps[] = {2, 3, 4, 5, 7, 11, 23, 25, 26, 30, 33, 37};
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            const int step = steps[s];
            float *y = poisoned(TOKENS * ROWS);
            const int64_t cut = step % 6 * QH_MATRIX_ROW_ALIGN;
            for (int t = 0; t < TOKENS; t += step) {
                const int end = t + step < TOKENS ? t + step : TOKENS;
                qh_matmul(&f.m, &a, t, end, 0, cut, y, ROWS);
                qh_matmul(&f.m, &a, t, end, cut, ROWS, y, ROWS);
            }
            CHECK(!memcmp(y, want, sizeof *y * TOKENS * ROWS));
            qh_free(y);
        }
        free(a.data);
        qh_free(x);
        qh_free(want);
        free_fixture(&f);
    }
}

TEST(many_tokens_and_wide_rows_cross_every_blocking)
{
    enum { ROWS = 35, TOKENS = 277 };
    static const qh_dtype types[] = {QH_Q4_1, QH_Q6_K, QH_BF16};
    EACH_LEVEL(isa) for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const int64_t dim = 1792;
        if (isa == QH_ISA_REF) continue;
        fixture f = fixture_of(isa, types[i], ROWS, dim);
        float *x = random_acts(TOKENS, dim), *y = poisoned(TOKENS * ROWS),
              *want = poisoned(TOKENS * ROWS);
        qh_acts a = acts_of(isa, x, TOKENS, dim, qh_matrix_needs_float(&f.m));
        qh_matmul(&f.m, &a, 0, TOKENS, 0, ROWS, y, ROWS);
        for (int t = 0; t < TOKENS; t++) qh_matmul(&f.m, &a, t, t + 1, 0, ROWS, want, ROWS);
        CHECK(!memcmp(y, want, sizeof *y * TOKENS * ROWS));
        check_product(&f, x, 8, y);
        free(a.data);
        qh_free(x);
        qh_free(y);
        qh_free(want);
        free_fixture(&f);
    }
}

TEST(only_the_asked_part_of_y_is_written)
{
    enum { ROWS = 50, LD = 70, TOKENS = 9 };
    EACH_LEVEL(isa) for (int i = 0; i < N_TYPES; i++) {
        fixture f = fixture_of(isa, all_types[i], ROWS, 256);
        float *x = random_acts(TOKENS, 256);
        qh_acts a = acts_of(isa, x, TOKENS, 256, qh_matrix_needs_float(&f.m));
        for (int n = 1; n <= TOKENS - 2; n += 3) {
            float *y = qh_alloc0(sizeof *y * TOKENS * LD);
            for (int e = 0; e < TOKENS * LD; e++) y[e] = 12345.0f;
            qh_matmul(&f.m, &a, 1, 1 + n, 16, ROWS, y, LD);
            for (int t = 0; t < TOKENS; t++)
                for (int r = 0; r < LD; r++) {
                    const bool is_asked = t >= 1 && t < 1 + n && r >= 16 && r < ROWS;
                    CHECK((y[t * LD + r] != 12345.0f) == is_asked);
                }
            qh_free(y);
        }
        free(a.data);
        qh_free(x);
        free_fixture(&f);
    }
}

/* Integer dots are exact and the float steps are the same, so quantized types agree between levels.
 * */
TEST(levels_agree_to_the_bit_on_quantized_types)
{
    enum { ROWS = 48, TOKENS = 7, DIM = 768 };
    for (int i = 0; i < N_TYPES; i++) {
        if (qh_dtype_block_len(all_types[i]) == 1) continue;
        fixture f = fixture_of(QH_ISA_SCALAR, all_types[i], ROWS, DIM);
        float *x = random_acts(TOKENS, DIM), *want = poisoned(TOKENS * ROWS);
        qh_acts a = acts_of(QH_ISA_SCALAR, x, TOKENS, DIM, false);
        qh_matmul(&f.m, &a, 0, TOKENS, 0, ROWS, want, ROWS);
        free(a.data);
        EACH_LEVEL(isa) if (isa > QH_ISA_SCALAR) {
            free(f.m.data);
            pack(&f, isa);
            float *y = poisoned(TOKENS * ROWS);
            a = acts_of(isa, x, TOKENS, DIM, false);
            qh_matmul(&f.m, &a, 0, TOKENS, 0, ROWS, y, ROWS);
            CHECK(!memcmp(y, want, sizeof *y * TOKENS * ROWS));
            free(a.data);
            qh_free(y);
        }
        qh_free(x);
        qh_free(want);
        free_fixture(&f);
    }
}

#if defined(__x86_64__)
/* A machine runs one encoding of the avxvnni level; where both exist, the other is tested here. */
TEST(both_encodings_of_avxvnni_agree)
{
    enum { ROWS = 48, TOKENS = 7, DIM = 768 };
    if (!qh_isa_has_vex_vnni() || !qh_isa_is_available(QH_ISA_AVX512)) {
        SKIP("this machine has one encoding");
        return;
    }
    const qh_dtype types[] = {QH_Q4_1, QH_Q8_0, QH_Q6_K, QH_IQ4_NL};
    const int at[] = {QH_DTYPE_AT_Q4_1, QH_DTYPE_AT_Q8_0, QH_DTYPE_AT_Q6_K, QH_DTYPE_AT_IQ4_NL};
    for (int i = 0; i < 4; i++) {
        fixture f = fixture_of(QH_ISA_AVXVNNI, types[i], ROWS, DIM);
        float *x = random_acts(TOKENS, DIM), *want = poisoned(TOKENS * ROWS),
              *y = poisoned(TOKENS * ROWS);
        qh_acts a = acts_of(QH_ISA_AVXVNNI, x, TOKENS, DIM, false);
        qh_matmul(&f.m, &a, 0, TOKENS, 0, ROWS, want, ROWS);
        f.m.matmul = qh_matrix_avxvnni_evex.matmul[at[i]];
        qh_matmul(&f.m, &a, 0, TOKENS, 0, ROWS, y, ROWS);
        CHECK(!memcmp(y, want, sizeof *y * TOKENS * ROWS));
        free(a.data);
        qh_free(x);
        qh_free(y);
        qh_free(want);
        free_fixture(&f);
    }
}
#endif

/* 127 and -128 against -127 everywhere: the largest sums a dot can meet. */
TEST(extreme_quants_do_not_saturate)
{
    enum { ROWS = 16, DIM = 256 };
    EACH_LEVEL(isa) for (int i = 0; i < N_TYPES; i++) for (int fill = 0; fill < 2; fill++) {
        const qh_dtype t = all_types[i];
        if (qh_dtype_block_len(t) == 1) continue;
        fixture f = fixture_of(isa, t, ROWS, DIM);
        int at[2];
        scale_offsets(t, at);
        const size_t bytes = qh_dtype_block_bytes(t),
                     n = ROWS * DIM / (size_t)qh_dtype_block_len(t);
        for (size_t b = 0; b < n; b++) {
            uint8_t *p = (uint8_t *)f.t.data + b * bytes;
            memset(p, fill ? 0x80 : 0xff, bytes);
            if (t == QH_Q8_0 && !fill) memset(p, 0x7f, bytes);
            for (int s = 0; s < 2; s++) if (at[s] >= 0) put_f16(p + at[s], 0.01f);
        }
        for (int64_t r = 0; r < ROWS; r++)
            qh_dequantize(t, f.w + r * DIM,
                          (uint8_t *)f.t.data + (size_t)r * qh_dtype_row_bytes(t, DIM), DIM);
        free(f.m.data);
        pack(&f, isa);
        float x[8 * DIM], y[8 * ROWS];
        for (int k = 0; k < 8 * DIM; k++) x[k] = k / DIM % 2 ? 3.0f : -3.0f;
        qh_acts a = acts_of(isa, x, 8, DIM, qh_matrix_needs_float(&f.m));
        qh_matmul(&f.m, &a, 0, 8, 0, ROWS, y, ROWS);
        check_product(&f, x, 8, y);
        qh_matmul(&f.m, &a, 1, 2, 0, ROWS, y, ROWS);
        check_product(&f, x, 8, y);
        free(a.data);
        free_fixture(&f);
    }
}

TEST(activations_of_any_kind_are_quantized_or_show)
{
    enum { DIM = 64 };
    EACH_LEVEL(isa) {
        fixture f = fixture_of(isa, QH_Q8_0, 16, DIM);
        float x[6][DIM] = {{0}}, y[6][16];
        for (int k = 0; k < DIM; k++) {
            x[1][k] = uniform(-1, 1) * 0x1p-120f;
            x[2][k] = uniform(-1, 1) * 1e30f;
            for (int t = 3; t < 6; t++) x[t][k] = uniform(-1, 1);
        }
        x[3][5] = NAN;
        x[4][40] = INFINITY;
        x[5][40] = -INFINITY;
        qh_acts a = acts_of(isa, x[0], 6, DIM, isa == QH_ISA_REF);
        qh_matmul(&f.m, &a, 0, 6, 0, 16, y[0], 16);
        for (int r = 0; r < 16; r++) {
            CHECK(y[0][r] == 0.0f);
            CHECK(fabsf(y[1][r]) < 0x1p-100f);
            CHECK(isfinite(y[2][r]));
            for (int t = 3; t < 6; t++) CHECK(!isfinite(y[t][r]));
        }
        free(a.data);
        free_fixture(&f);
    }
}

TEST(a_width_that_is_no_multiple_of_the_block_is_refused_by_name)
{
    qh_err err = {0};
    qh_matrix m;
    qh_tensor t = {
        .data = "", .dtype = QH_Q4_K, .n_rows = 4, .dim = 320, .name = "blk.0.ffn_up.weight"};
    CHECK_STATUS(qh_matrix_init(&m, QH_ISA_SCALAR, &t, NULL, &err), QH_EFORMAT);
    CHECK(strstr(err.msg, "blk.0.ffn_up.weight") && strstr(err.msg, "320") &&
          strstr(err.msg, "Q4_K"));
}

TEST_MAIN()
