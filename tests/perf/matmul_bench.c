/* matmul_bench.c - speed of the matrix kernels of each type and level, beside this machine's
 * ceilings.
 *
 *     matmul_bench [-l LEVEL] [-d DTYPE] [-t THREADS] [-r ROUNDS] [-m MEGABYTES]
 *
 * Prefill: 512 tokens against the shapes of a 135M model, GOP/s (2 operations a weight and token).
 * Decode: 1, 4, 8 and 16 tokens against matrices of MEGABYTES of packed weights in all, GB/s of
 * weights. The ceilings, measured between the rounds: the level's dot instruction in registers, and
 * a plain read of as many bytes. Figures are the best of the rounds. */
#include "base/mem.h"
#include "base/rng.h"
#include "base/thread.h"
#include "kernels/cpu/matrix.h"
#include "model/quant.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, PREFILL_TOKENS = 512, LINE = 64 };

static int n_threads = 1, n_rounds = 30, n_megabytes = 96;

/* With one thread, the time this thread had the processor: neighbours then only cost cache. */
static double seconds(void)
{
    struct timespec t;
    clock_gettime(n_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- running on several threads ---- */

typedef struct {
    void (*fn)(void *arg, int id);
    void *arg;
    int id;
} part;

static void run_part(void *arg)
{
    const part *p = arg;
    p->fn(p->arg, p->id);
}

static double time_parts(void (*fn)(void *arg, int id), void *arg)
{
    part parts[MAX_THREADS];
    qh_thread *threads[MAX_THREADS];
    const double start = seconds();
    for (int i = 1; i < n_threads; i++) {
        parts[i] = (part){fn, arg, i};
        if (qh_thread_start(&threads[i], "bench", run_part, &parts[i], NULL)) abort();
    }
    fn(arg, 0);
    for (int i = 1; i < n_threads; i++) qh_thread_join(threads[i]);
    return seconds() - start;
}

/* ---- ceilings ---- */

#if defined(__x86_64__)
/* 12 independent chains of an instruction on zeros; returns operations. */
#define DOT_LOOP(function, isa, instruction, lanes_bytes)                                          \
    __attribute__((target(isa))) static double function(void)                                      \
    {                                                                                              \
        enum { LOOPS = 100000 };                                                                   \
        for (int i = 0; i < LOOPS; i++)                                                            \
            __asm__ volatile("vpxor %%xmm14, %%xmm14, %%xmm14\nvpxor %%xmm15, %%xmm15, %%xmm15\n"  \
                             instruction : : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",     \
                             "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");  \
        return 2.0 * LOOPS * 12 * (lanes_bytes);                                                   \
    }
#define CHAINS(op, r) op r "0\n" op r "1\n" op r "2\n" op r "3\n" op r "4\n" op r "5\n" op r "6\n" op r "7\n" \
                      op r "8\n" op r "9\n" op r "10\n" op r "11\n"
DOT_LOOP(dots_512, "avx512vnni", CHAINS("vpdpbusd %%zmm14, %%zmm15, ", "%%zmm"), 64)
DOT_LOOP(dots_256, "avxvnni", CHAINS("%{vex%} vpdpbusd %%ymm14, %%ymm15, ", "%%ymm"), 32)
DOT_LOOP(fmas_256, "fma", CHAINS("vfmadd231ps %%ymm14, %%ymm15, ", "%%ymm"), 8)
DOT_LOOP(fmas_512, "avx512f", CHAINS("vfmadd231ps %%zmm14, %%zmm15, ", "%%zmm"), 16)
DOT_LOOP(pairs_256, "avx2", CHAINS("vpmaddubsw %%ymm14, %%ymm15, ", "%%ymm"), 32)
DOT_LOOP(bf16_512, "avx512bf16", CHAINS("vdpbf16ps %%zmm14, %%zmm15, ", "%%zmm"), 32)
#endif

typedef double ceiling_fn(void);

static ceiling_fn *dot_ceiling(qh_isa isa, qh_dtype t)
{
#if defined(__x86_64__)
    const bool is_float = qh_dtype_block_len(t) == 1;
    switch (isa) {
    case QH_ISA_AVX512BF16: return t == QH_BF16 ? bf16_512 : is_float ? fmas_512 : dots_512;
    case QH_ISA_AVX512: return is_float ? fmas_512 : dots_512;
    case QH_ISA_AVXVNNI: return is_float ? fmas_256 : dots_256;
    case QH_ISA_AVX2: return is_float ? fmas_256 : pairs_256;
    default: return NULL;
    }
#else
    (void)isa;
    (void)t;
    return NULL;
#endif
}

typedef struct {
    ceiling_fn *fn;
    double operations[MAX_THREADS];
} ceiling_job;

static void run_ceiling(void *arg, int id)
{
    ceiling_job *j = arg;
    j->operations[id] = 0;
    j->operations[id] += j->fn();
}

static double ceiling_gops(ceiling_fn *fn)
{
    ceiling_job j = {.fn = fn};
    if (!fn) return 0;
    const double s = time_parts(run_ceiling, &j);
    double sum = 0;
    for (int i = 0; i < n_threads; i++) sum += j.operations[i];
    return sum / s * 1e-9;
}

/* ---- matrices ---- */

typedef struct {
    qh_matrix m;
    size_t bytes;
} packed;

typedef struct {
    packed *all;
    int n;
    uint8_t *data;
    size_t len_bytes;
} model;

static const int64_t shapes[][2] = {{1536, 576}, {576, 1536}, {576, 576}};         /* rows, width */
static const int64_t shapes_k[][2] = {{1536, 512}, {512, 1536}, {512, 512}};  /* in blocks of 256 */

/* A tensor of random quants with small scales; floats in [-1, 1]. */
static void fill_random(uint8_t *p, qh_dtype t, size_t n_blocks)
{
    const size_t bytes = qh_dtype_block_bytes(t), len = n_blocks * bytes;
    for (size_t i = 0; i < len; i += 4) {
        const uint32_t r = qh_rng_philox(1, 0, i).v[0];
        memcpy(p + i, &r, len - i < 4 ? len - i : 4);
    }
    for (size_t b = 0; b < n_blocks; b++, p += bytes) {
        const uint16_t h = qh_f32_to_f16(0.01f);
        if (t == QH_F32) p[3] = 0x3f;
        else if (t == QH_F16) p[1] = 0x38;
        else if (t == QH_BF16) p[1] = 0x3f;
        else if (t == QH_Q2_K) {
            memcpy(p + 80, &h, 2);
            memcpy(p + 82, &h, 2);
        }
        else if (t == QH_Q3_K) memcpy(p + 108, &h, 2);
        else if (t == QH_Q6_K) memcpy(p + 208, &h, 2);
        else memcpy(p, &h, 2);
        if (t == QH_Q4_1 || t == QH_Q5_1 || t == QH_Q4_K || t == QH_Q5_K) memcpy(p + 2, &h, 2);
    }
}

static model model_of(qh_isa isa, qh_dtype t, size_t len_bytes)
{
    const int64_t(*sh)[2] = qh_dtype_block_len(t) == 256 ? shapes_k : shapes;
    model mo = {0};
    size_t round = 0;
    for (int i = 0; i < 3; i++) round += qh_matrix_bytes(isa, t, sh[i][0], sh[i][1]);
    const int n_rounds_of_shapes = (int)((len_bytes + round - 1) / round);
    mo.n = 3 * n_rounds_of_shapes;
    mo.len_bytes = round * (size_t)n_rounds_of_shapes;
    mo.all = qh_alloc0(sizeof *mo.all * (size_t)mo.n);
    mo.data = qh_pages_alloc(mo.len_bytes);
    uint8_t *at = mo.data;
    for (int i = 0; i < mo.n; i++) {
        packed *p = &mo.all[i];
        qh_tensor ten = {.dtype = t, .n_rows = sh[i % 3][0], .dim = sh[i % 3][1], .name = "bench"};
        const size_t n_blocks = (size_t)(ten.n_rows * ten.dim / qh_dtype_block_len(t));
        uint8_t *stored = NULL;
        p->bytes = qh_matrix_bytes(isa, t, ten.n_rows, ten.dim);
        if (i < 3) {
            ten.data = stored = qh_alloc0(n_blocks * qh_dtype_block_bytes(t) + 4);
            fill_random(stored, t, n_blocks);
        }
        if (qh_matrix_init(&p->m, isa, &ten, at, NULL)) abort();
        if (i < 3) qh_matrix_pack(&p->m, &ten, 0, ten.n_rows);
        else memcpy(at, mo.all[i % 3].m.data, p->bytes);
        qh_free(stored);
        at += p->bytes;
    }
    return mo;
}

static void free_model(model *mo)
{
    qh_pages_free(mo->data, mo->len_bytes);
    qh_free(mo->all);
}

typedef struct {
    const model *mo;
    int first, n_matrices, n_tokens;
    qh_acts acts[2];                    /* of the two widths */
    float *y;
} product_job;

static void run_products(void *arg, int id)
{
    const product_job *j = arg;
    for (int i = j->first; i < j->first + j->n_matrices; i++) {
        const qh_matrix *m = &j->mo->all[i].m;
        const qh_acts *a = &j->acts[m->dim == j->acts[0].dim ? 0 : 1];
        const int64_t groups = m->n_rows / QH_MATRIX_ROW_ALIGN;
        const int64_t from = groups * id / n_threads * QH_MATRIX_ROW_ALIGN;
        const int64_t to = groups * (id + 1) / n_threads * QH_MATRIX_ROW_ALIGN;
        qh_matmul(m, a, 0, j->n_tokens, from, to, j->y, m->n_rows);
    }
}

static qh_acts acts_of(qh_isa isa, int n_tokens, int64_t dim)
{
    qh_acts a;
    float *x = qh_alloc0(sizeof *x * (size_t)(n_tokens * dim));
    for (int64_t i = 0; i < n_tokens * dim; i++)
        x[i] = qh_rng_unit(qh_rng_philox(2, 0, (uint64_t)i).v[0]) - 0.5f;
    const size_t bytes = qh_acts_bytes(isa, n_tokens, dim, true);
    qh_acts_init(&a, isa, n_tokens, dim, true, aligned_alloc(LINE, (bytes + LINE) / LINE * LINE));
    qh_acts_set(&a, x, dim, 0, n_tokens);
    qh_free(x);
    return a;
}

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static void run_read(void *arg, int id)
{
    typedef uint64_t lanes __attribute__((vector_size(32)));
    const model *mo = arg;
    const size_t n = mo->len_bytes / LINE;
    const lanes *p = (const lanes *)mo->data + 2 * (n * (size_t)id / (size_t)n_threads);
    const lanes *end = (const lanes *)mo->data + 2 * (n * (size_t)(id + 1) / (size_t)n_threads);
    lanes a = {0}, b = {0}, c = {0}, d = {0};
    for (; p + 4 <= end; p += 4) {
        a |= p[0];
        b |= p[1];
        c |= p[2];
        d |= p[3];
    }
    a |= b | c | d;
    __asm__ volatile("" : : "r"(a[0] | a[1] | a[2] | a[3]));
}

static double best(double a, double b) { return a > b ? a : b; }

static void bench(qh_isa isa, qh_dtype t)
{
    static const int tokens[] = {1, 4, 8, 16};
    model mo = model_of(isa, t, (size_t)n_megabytes << 20);
    product_job j = {.mo = &mo,
                     .n_tokens = PREFILL_TOKENS,
                     .y = qh_alloc0(sizeof(float) * PREFILL_TOKENS * 1536)};
    j.acts[0] = acts_of(isa, PREFILL_TOKENS, mo.all[0].m.dim);
    j.acts[1] = acts_of(isa, PREFILL_TOKENS, mo.all[1].m.dim);
    double operations = 0, prefill_s[3] = {1e9, 1e9, 1e9}, top = 0, read = 0, decode[4] = {0};
    for (int i = 0; i < 3; i++)
        operations += 2.0 * PREFILL_TOKENS * (double)(mo.all[i].m.n_rows * mo.all[i].m.dim);
    for (int r = 0; r < n_rounds; r++) {
        top = best(top, ceiling_gops(dot_ceiling(isa, t)));
        j.n_tokens = PREFILL_TOKENS;
        j.n_matrices = 1;
        for (j.first = 0; j.first < 3; j.first++)
            prefill_s[j.first] = -best(-prefill_s[j.first], -time_parts(run_products, &j));
        j.n_matrices = mo.n;
        j.first = 0;
        for (int i = 0; i < 4; i++) {
            j.n_tokens = tokens[i];
            decode[i] = best(decode[i], (double)mo.len_bytes / time_parts(run_products, &j) * 1e-9);
        }
        read = best(read, (double)mo.len_bytes / time_parts(run_read, &mo) * 1e-9);
    }
    const double prefill = operations / (prefill_s[0] + prefill_s[1] + prefill_s[2]) * 1e-9;
    printf("%-10s %-7s %9.0f %8.0f %5.0f%% %9.1f %7.1f %5.0f%% %7.1f %7.1f %7.1f\n",
           qh_isa_name(isa), qh_dtype_name(t), prefill, top, top > 0 ? 100 * prefill / top : 0.0,
           decode[0], read, 100 * decode[0] / read, decode[1], decode[2], decode[3]);
    fflush(stdout);
    qh_free(j.y);
    free(j.acts[0].data);
    free(j.acts[1].data);
    free_model(&mo);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: matmul_bench [-l LEVEL] [-d DTYPE] [-t THREADS] [-r ROUNDS] [-m MEGABYTES]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *level = NULL, *dtype = NULL;
    for (int c; (c = getopt(argc, argv, "l:d:t:r:m:")) != -1;) {
        if (c == 'l') level = optarg;
        else if (c == 'd') dtype = optarg;
        else if (c == 't') n_threads = atoi(optarg);
        else if (c == 'r') n_rounds = atoi(optarg);
        else if (c == 'm') n_megabytes = atoi(optarg);
        else return usage();
    }
    if (n_threads < 1 || n_threads > MAX_THREADS || n_rounds < 1 || n_megabytes < 1) return usage();
    printf("%d threads, prefill of %d tokens in GOP/s; decode over %d MB in GB/s\n", n_threads,
           PREFILL_TOKENS, n_megabytes);
    printf("%-10s %-7s %9s %8s %6s %9s %7s %6s %7s %7s %7s\n", "level", "type", "prefill",
           "ceiling", "", "decode 1", "read", "", "dec. 4", "dec. 8", "dec. 16");
    for (qh_isa isa = QH_ISA_SCALAR; isa < QH_N_ISA; isa = (qh_isa)(isa + 1)) {
        if (!qh_isa_is_available(isa) || (level && strcmp(level, qh_isa_name(isa)))) continue;
        for (uint32_t n = 0; n < 64; n++)
            if (qh_dtype_is_known(n) && (!dtype || !strcmp(dtype, qh_dtype_name((qh_dtype)n))))
                bench(isa, (qh_dtype)n);
    }
    return 0;
}
