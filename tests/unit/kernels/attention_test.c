/* Attention of each level against the double-precision reference over paged, scattered keys, and
 * the promise that a row's bits depend on nothing but its prefix. */
#include "test.h"
#include "base/mem.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/ref.h"
#include "random.h"

enum { MAX_KEYS = 700, N_PAGES = 16, MAX_GROUP = 9 };

typedef struct {
    const qh_attn_ops *ops;
    qh_isa isa;
    qh_kv_type kv;
    int head_dim, n_group, n_keys;
    float *k, *v, *q;                   /* [n_keys][head_dim], q [n_keys][n_group][head_dim] */
    uint8_t *blocks;
    size_t page_bytes;
    qh_page pages[N_PAGES];
} fixture;

static float round_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    u = (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&f, &u, 4);
    return f;
}

/* As below: keys of scale NaN, values as large as they get. */
static void poison_q8_blocks(fixture *f)
{
    const int d = qh_attn_padded(f->head_dim), n_groups = (d + 31) / 32;
    for (int p = 0; p < N_PAGES; p++) {
        uint8_t *block = f->blocks + (size_t)p * f->page_bytes;
        uint16_t *scales = (uint16_t *)(block + (size_t)d * QH_PAGE_TOKENS * 2);
        memset(block, 127, (size_t)d * QH_PAGE_TOKENS * 2);
        for (int i = 0; i < n_groups * QH_PAGE_TOKENS; i++) {
            scales[i] = 0xFFFF;
            scales[n_groups * QH_PAGE_TOKENS + i] = 0x7BFF;     /* 127 of these are finite */
        }
    }
}

/* Everything that has never been written holds the worst: NaN keys; values of other sequences are
 * finite by contract, so they are huge. */
static void poison_blocks(fixture *f)
{
    if (f->kv == QH_KV_Q8_0) {
        poison_q8_blocks(f);
        return;
    }
    uint32_t *w = (uint32_t *)f->blocks;
    const bool is_ref = f->isa == QH_ISA_REF;
    const size_t half = f->ops->block_bytes(f->head_dim) / 8, page = f->page_bytes / 4;
    for (int p = 0; p < N_PAGES; p++)
        for (size_t i = 0; i < 2 * half; i++)
            w[(size_t)p * page + i] = i < half ? 0xFFFFFFFFu : is_ref ? 0x7F000000u : 0x7F7F7F7Fu;
}

static fixture make(qh_isa isa, qh_kv_type kv, int head_dim, int n_group, int n_keys, uint64_t seed)
{
    random_source r = {seed, 0};
    fixture f = {.ops = qh_attn_ops_of(isa, kv),
                 .isa = isa,
                 .kv = kv,
                 .head_dim = head_dim,
                 .n_group = n_group,
                 .n_keys = n_keys};
    const size_t n = (size_t)n_keys * (size_t)head_dim;
    f.k = qh_alloc0(n * 4);
    f.v = qh_alloc0(n * 4);
    f.q = qh_alloc0(n * (size_t)n_group * 4);
    random_fill(&r, f.k, (int64_t)n, 1);
    random_fill(&r, f.v, (int64_t)n, 1);
    random_fill(&r, f.q, (int64_t)n * n_group, 2);
    f.page_bytes = f.ops->block_bytes(head_dim) + 192;  /* other heads lie between */
    f.blocks = qh_pages_alloc(N_PAGES * f.page_bytes);
    for (int i = 0; i < N_PAGES; i++) f.pages[i] = (i * 5 + 3) % N_PAGES;
    poison_blocks(&f);
    return f;
}

static void append_keys(fixture *f, int begin, int end)
{
    for (int t = begin; t < end; t++) {
        uint8_t *block = f->blocks + (size_t)f->pages[t / QH_PAGE_TOKENS] * f->page_bytes;
        f->ops->append(block, f->head_dim, t % QH_PAGE_TOKENS, f->k + t * f->head_dim,
                       f->v + t * f->head_dim);
    }
}

static void drop(fixture *f)
{
    qh_free(f->k);
    qh_free(f->v);
    qh_free(f->q);
    qh_pages_free(f->blocks, N_PAGES * f->page_bytes);
}

/* Rows [row, row + n_rows) in one job; ranges one after the other, or each into its own states. */
static void attend(const fixture *f, int row, int n_rows, bool in_slots, float *out)
{
    const int d = qh_attn_padded(f->head_dim), len = qh_attn_state_len(f->head_dim);
    const int n_queries = n_rows * f->n_group, n_ranges = qh_attn_n_ranges(row + n_rows);
    float *q = qh_pages_alloc((size_t)n_queries * (size_t)d * 4);
    const size_t state_bytes = (size_t)n_queries * (size_t)len * 4;
    float *total = qh_pages_alloc(state_bytes);
    float *parts = qh_pages_alloc(state_bytes * (size_t)n_ranges);
    for (int i = 0; i < n_queries; i++)
        memcpy(q + i * d, f->q + (row * f->n_group + i) * f->head_dim, (size_t)f->head_dim * 4);
    const qh_attn_job job = {.head_dim = f->head_dim,
                             .n_group = f->n_group,
                             .n_rows = n_rows,
                             .first_pos = row,
                             .scale = 0.3f,
                             .blocks = f->blocks,
                             .page_bytes = f->page_bytes,
                             .pages = f->pages,
                             .q = q};
    f->ops->prepare(&job);
    qh_attn_clear(total, n_queries, f->head_dim);
    if (in_slots) {
        for (int r = n_ranges - 1; r >= 0; r--) f->ops->range(&job, r, parts + r * n_queries * len);
        for (int r = 0; r < n_ranges; r++)
            f->ops->merge(total, parts + r * n_queries * len, n_queries, f->head_dim);
    } else {
        for (int r = 0; r < n_ranges; r++) {
            f->ops->range(&job, r, parts);
            f->ops->merge(total, parts, n_queries, f->head_dim);
        }
    }
    for (int i = 0; i < n_queries; i++)
        f->ops->finish(out + i * f->head_dim, total + i * len, f->head_dim);
    qh_pages_free(q, (size_t)n_queries * (size_t)d * 4);
    qh_pages_free(total, state_bytes);
    qh_pages_free(parts, state_bytes * (size_t)n_ranges);
}

/* What 8 bits with a bf16 scale for each 32 dimensions keep of one token, then rounded to bf16. */
static void round_q8(float *out, const float *x, int head_dim)
{
    for (int g = 0; g < head_dim; g += 32) {
        const int end = g + 32 < head_dim ? g + 32 : head_dim;
        float largest = 0;
        for (int i = g; i < end; i++) largest = fmaxf(largest, fabsf(x[i]));
        const float scale = round_bf16(largest / 127);
        for (int i = g; i < end; i++) {
            const float q = fminf(fmaxf(x[i] * (1 / scale), -127), 127);
            out[i] = round_bf16(roundf(q) * scale);
        }
    }
}

static void want_of(const fixture *f, int row, float *out)
{
    const bool is_ref = f->isa == QH_ISA_REF, is_q_rounded = f->isa == QH_ISA_AVX512BF16;
    static float k[MAX_KEYS * 160], v[MAX_KEYS * 160];
    for (int i = 0; i < (row + 1) * f->head_dim; i++) {
        k[i] = is_ref ? f->k[i] : round_bf16(f->k[i]);
        v[i] = is_ref ? f->v[i] : round_bf16(f->v[i]);
    }
    for (int t = 0; f->kv == QH_KV_Q8_0 && t <= row; t++) {
        round_q8(k + t * f->head_dim, f->k + t * f->head_dim, f->head_dim);
        round_q8(v + t * f->head_dim, f->v + t * f->head_dim, f->head_dim);
    }
    for (int g = 0; g < f->n_group; g++) {
        float q[160], scale = is_q_rounded ? 1 / 1.44269504f : 0.3f;
        for (int i = 0; i < f->head_dim; i++) {
            q[i] = f->q[(row * f->n_group + g) * f->head_dim + i];
            if (is_q_rounded) q[i] = round_bf16(q[i] * (0.3f * 1.44269504f));
        }
        qh_ref_attention(out + g * f->head_dim, q, k, v, f->head_dim, row + 1, f->head_dim, scale);
    }
}

typedef void level_fn(qh_isa isa, qh_kv_type kv);
static void each_level(level_fn *fn)
{
    for (int i = 0; i < QH_N_ISA; i++)
        for (int kv = 0; kv < QH_N_KV_TYPE; kv++)
            if (qh_isa_is_available((qh_isa)i) && qh_attn_ops_of((qh_isa)i, (qh_kv_type)kv)) fn((qh_isa)i, (qh_kv_type)kv);
}

static const struct {
    int head_dim, n_group, n_keys;
} shapes[] = {{64, 3, 300}, {64, 1, 65}, {128, 4, 200}, {80, 7, 130}, {20, 2, 100},
              {2, 1, 64},   {100, 9, 70}, {96, 8, 90},  {64, 3, 700}};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

/* The weights are rounded to bf16 where the dot instruction is used: 2^-9 of each, at random. */
static double tolerance(qh_isa isa) { return isa == QH_ISA_AVX512BF16 ? 8e-3 : 2e-5; }

static void equals_reference(qh_isa isa, qh_kv_type kv)
{
    for (int s = 0; s < N_SHAPES; s++) {
        fixture f =
            make(isa, kv, shapes[s].head_dim, shapes[s].n_group, shapes[s].n_keys, 10 + (uint64_t)s);
        const int width = f.n_group * f.head_dim;
        float *out = qh_alloc0((size_t)f.n_keys * (size_t)width * 4), want[MAX_GROUP * 160];
        append_keys(&f, 0, f.n_keys);
        attend(&f, 0, f.n_keys, false, out);
        for (int row = 0; row < f.n_keys; row += row < 70 ? 1 : 23) {
            want_of(&f, row, want);
            for (int i = 0; i < width; i++)
                if (!(fabs((double)out[row * width + i] - want[i]) <= tolerance(isa))) {
                    print_error("%s kv %d shape %d row %d [%d]: got %g, want %g\n", qh_isa_name(isa), kv, s,
                                row, i, out[row * width + i], want[i]);
                    CHECK(!"close to the reference");
                }
        }
        qh_free(out);
        drop(&f);
    }
}
TEST(attention_equals_the_reference) { each_level(equals_reference); }

/* One row at a time as the keys arrive, against all rows at once, in blocks, and by slots. */
static void bits_depend_on_prefix(qh_isa isa, qh_kv_type kv)
{
    for (int s = 0; s < N_SHAPES; s++) {
        fixture f =
            make(isa, kv, shapes[s].head_dim, shapes[s].n_group, shapes[s].n_keys, 50 + (uint64_t)s);
        const int width = f.n_group * f.head_dim;
        const size_t bytes = (size_t)f.n_keys * (size_t)width * 4;
        float *one = qh_alloc0(bytes), *all = qh_alloc0(bytes), *blocks = qh_alloc0(bytes);
        for (int row = 0; row < f.n_keys; row++) {
            append_keys(&f, row, row + 1);
            attend(&f, row, 1, row % 2, one + row * width);
        }
        attend(&f, 0, f.n_keys, false, all);
        for (int row = 0, n; row < f.n_keys; row += n) {
            n = 1 + row % 13;
            if (n > f.n_keys - row) n = f.n_keys - row;
            attend(&f, row, n, true, blocks + row * width);
        }
        CHECK(!memcmp(one, all, bytes));
        CHECK(!memcmp(one, blocks, bytes));
        qh_free(one);
        qh_free(all);
        qh_free(blocks);
        drop(&f);
    }
}
TEST(bits_depend_on_the_prefix_only) { each_level(bits_depend_on_prefix); }

static void survives_extremes(qh_isa isa, qh_kv_type kv)
{
    fixture f = make(isa, kv, 64, 3, 100, 3);
    float out[3 * 64];
    for (int i = 0; i < 64; i++)
        f.v[40 * 64 + i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    for (int i = 0; i < 100 * 3 * 64; i++) f.q[i] *= 1e4f;      /* one key takes all the weight */
    append_keys(&f, 0, 100);
    attend(&f, 39, 1, false, out);                              /* before the broken value */
    for (int i = 0; i < 3 * 64; i++) CHECK(isfinite(out[i]));
    attend(&f, 99, 1, false, out);                              /* and q8_0 has no NaN at all */
    for (int i = 0; kv == QH_KV_Q8_0 && i < 3 * 64; i++) CHECK(isfinite(out[i]));
    drop(&f);
}
TEST(a_broken_value_does_not_reach_the_rows_before_it) { each_level(survives_extremes); }

TEST(eight_bits_take_0_53_of_the_memory_and_the_reference_level_has_none)
{
    const qh_isa best = qh_isa_best();
    CHECK(qh_attn_ops_of(QH_ISA_REF, QH_KV_Q8_0) == NULL);
    const size_t bf16 = qh_attn_ops_of(best, QH_KV_BF16)->block_bytes(64);
    CHECK_INT(qh_attn_ops_of(best, QH_KV_Q8_0)->block_bytes(64) * 32, bf16 * 17);
}

TEST_MAIN()
