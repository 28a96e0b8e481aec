/* Float operations of each level against ref.h, at odd lengths, with poison around the results. */
#include "test.h"
#include "kernels/cpu/float_ops.h"
#include "kernels/cpu/ref.h"
#include "kernels/cpu/rope_table.h"
#include "random.h"

enum { MAX_LEN = 1600, GUARD = 32 };
static const float poison = 12345.5f;
static const int lengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 576, 577, 1536};
#define N_LENGTHS ((int)(sizeof lengths / sizeof *lengths))

/* A buffer whose middle is the result; the floats around it must keep their poison. */
typedef struct {
    float all[GUARD + MAX_LEN + GUARD];
    float *at;
} guarded;

static void guard(guarded *g, const float *x, int n)
{
    for (int i = 0; i < GUARD + MAX_LEN + GUARD; i++) g->all[i] = poison;
    g->at = g->all + GUARD + 1;         /* off any alignment */
    if (x) memcpy(g->at, x, (size_t)n * sizeof *x);
}

static void check_guard(const guarded *g, int n)
{
    for (int i = 0; i <= GUARD; i++) CHECK(g->all[i] == poison);
    for (const float *p = g->at + n; p < g->all + GUARD + MAX_LEN + GUARD; p++) CHECK(*p == poison);
}

static void check_close(const float *got, const float *want, int n, double rel, double abs)
{
    for (int i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= rel * fabs((double)want[i]) + abs)) {
            print_error("[%d of %d]: got %.9g, want %.9g\n", i, n, got[i], want[i]);
            CHECK(!"close to the reference");
        }
}

typedef void level_fn(const qh_float_ops *ops, const char *level);

static void each_level(level_fn *fn)
{
    for (int i = 0; i < QH_N_ISA; i++)
        if (qh_isa_is_available((qh_isa)i)) fn(qh_float_ops_of((qh_isa)i), qh_isa_name((qh_isa)i));
}

static void rms_norm_of(const qh_float_ops *ops, const char *level)
{
    (void)level;
    random_source r = {1, 0};
    static float x[MAX_LEN], w[MAX_LEN], want[MAX_LEN];
    static guarded g;
    for (int i = 0; i < N_LENGTHS; i++) {
        const int n = lengths[i];
        random_fill(&r, x, n, 3);
        random_fill(&r, w, n, 1);
        qh_ref_rms_norm(want, x, w, n, 1e-5f);
        guard(&g, NULL, 0);
        ops->rms_norm(g.at, x, w, n, 1e-5f);
        check_close(g.at, want, n, 2e-6, 1e-9);
        check_guard(&g, n);
        guard(&g, x, n);
        ops->rms_norm(g.at, g.at, w, n, 1e-5f);         /* in place */
        check_close(g.at, want, n, 2e-6, 1e-9);
    }
}
TEST(rms_norm_equals_the_reference) { each_level(rms_norm_of); }

static void silu_mul_of(const qh_float_ops *ops, const char *level)
{
    (void)level;
    random_source r = {2, 0};
    static float gate[MAX_LEN], up[MAX_LEN], want[MAX_LEN];
    static guarded g;
    static const float edges[] = {0.0f,  -0.0f,  1e-30f, 88,  -88, 200, -200,
                                  1e30f, -1e30f, 20,     -20, 50,  -50};
    for (int i = 0; i < N_LENGTHS; i++) {
        const int n = lengths[i];
        random_fill(&r, gate, n, 4);
        random_fill(&r, up, n, 1);
        for (int j = 0; j < n && j < (int)(sizeof edges / sizeof *edges); j++)
            gate[n - 1 - j] = edges[j];
        memcpy(want, gate, sizeof want);
        qh_ref_silu_mul(want, up, n);
        guard(&g, gate, n);
        ops->silu_mul(g.at, up, n);
        check_close(g.at, want, n, 4e-6, 1e-6);
        check_guard(&g, n);
    }
}
TEST(silu_mul_equals_the_reference) { each_level(silu_mul_of); }

static void add_of(const qh_float_ops *ops, const char *level)
{
    (void)level;
    random_source r = {3, 0};
    static float x[MAX_LEN], y[MAX_LEN];
    static guarded g;
    for (int i = 0; i < N_LENGTHS; i++) {
        const int n = lengths[i];
        random_fill(&r, x, n, 1);
        random_fill(&r, y, n, 1);
        guard(&g, y, n);
        ops->add(g.at, x, n);
        for (int j = 0; j < n; j++) CHECK(g.at[j] == y[j] + x[j]);
        check_guard(&g, n);
    }
}
TEST(add_is_exact) { each_level(add_of); }

static void rope_of(const qh_float_ops *ops, const char *level)
{
    (void)level;
    random_source r = {4, 0};
    static const int dims[] = {2, 6, 10, 32, 64, 80, 100, 128, 130};
    static float x[MAX_LEN], want[MAX_LEN], table[2 * MAX_LEN];
    static guarded g;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int kind = 0; kind < 2; kind++) {
            const qh_desc d = {.rope_dim = dims[i],
                               .head_dim = dims[i],
                               .rope_base = 10000,
                               .rope_kind = kind ? QH_ROPE_INTERLEAVED : QH_ROPE_NEOX};
            qh_rope_table t;
            CHECK_OK(qh_rope_table_init(&t, &d, NULL, NULL));
            qh_rope_table_row(&t, 777, table);
            random_fill(&r, x, dims[i], 1);
            memcpy(want, x, sizeof want);
            qh_ref_rope(want, table, dims[i], kind);
            guard(&g, x, dims[i]);
            ops->rope(g.at, table, dims[i], kind);
            check_close(g.at, want, dims[i], 1e-6, 1e-6);
            check_guard(&g, dims[i]);
            qh_rope_table_deinit(&t);
        }
}
TEST(rope_equals_the_reference) { each_level(rope_of); }

/* A rotation by the position: the product of a rotated q and k depends on their distance only. */
TEST(rope_scores_depend_on_distance)
{
    random_source r = {5, 0};
    for (int kind = 0; kind < 2; kind++) {
        const qh_desc d = {.rope_dim = 64,
                           .head_dim = 64,
                           .rope_base = 100000,
                           .rope_kind = kind ? QH_ROPE_INTERLEAVED : QH_ROPE_NEOX};
        qh_rope_table t;
        float q[64], k[64], score[2], table[128];
        random_fill(&r, q, 64, 1);
        random_fill(&r, k, 64, 1);
        CHECK_OK(qh_rope_table_init(&t, &d, NULL, NULL));
        for (int i = 0; i < 2; i++) {
            float rq[64], rk[64];
            memcpy(rq, q, sizeof q);
            memcpy(rk, k, sizeof k);
            qh_rope_table_row(&t, 40 + 5000 * i, table);
            qh_ref_rope(rq, table, 64, kind);
            qh_rope_table_row(&t, 3 + 5000 * i, table);
            qh_ref_rope(rk, table, 64, kind);
            score[i] = 0;
            for (int j = 0; j < 64; j++) score[i] += rq[j] * rk[j];
        }
        CHECK(fabsf(score[0] - score[1]) < 1e-3f);
        qh_rope_table_deinit(&t);
    }
}

static void lane_bits_of(const qh_float_ops *ops, const char *level)
{
    (void)level;
    random_source r = {6, 0};
    float gate[70], up[70], whole[70], part[70];
    random_fill(&r, gate, 70, 3);
    random_fill(&r, up, 70, 1);
    memcpy(whole, gate, sizeof gate);
    ops->silu_mul(whole, up, 70);
    for (int cut = 1; cut < 70; cut++) {
        memcpy(part, gate, sizeof gate);
        ops->silu_mul(part, up, cut);
        ops->silu_mul(part + cut, up + cut, 70 - cut);
        CHECK(!memcmp(part, whole, sizeof whole));
    }
}
TEST(silu_mul_bits_do_not_depend_on_the_cut) { each_level(lane_bits_of); }

TEST_MAIN()
