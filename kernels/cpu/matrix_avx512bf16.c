/* matrix_avx512bf16.c - BF16 weights by VDPBF16PS; every other type runs the avx512 kernels.
 *
 * The instruction adds two products of BF16 numbers to a float, twice the rate of fma, where the
 * activations are rounded to BF16 as well. sum = dot(pair of w, pair of x, sum), pairs in order of
 * k, in both paths below; an odd width ends with a zero. */
#include "kernels/cpu/matrix_layout.h"
#include <immintrin.h>
#include <string.h>

#define UNROLL QH_UNROLL

enum {
    TILE_T = 6,
    PANEL_PAIRS = 128,                 /* pairs of k of 2 groups that stay in the L1 cache: 16 KB */
    TOKEN_BLOCK_BYTES = 256 << 10,              /* activations that stay in the L2 cache */
};

/* n_groups groups of 16 rows, whose pairs [first, first + n_pairs) start at w[g]; n_tokens tokens
 * from x. y: the first row, first token; its sums are continued unless first is 0. */
typedef struct {
    const uint8_t *w;
    size_t group_bytes;
    int64_t first, n_pairs;
    const uint32_t *x;                          /* pairs */
    size_t ldx;
    float *y;
    int64_t ldy;
    int last_rows;                              /* rows to store of the last group */
} tile_args;

typedef void tile_fn(const tile_args *a);

QH_BODY void tile(const tile_args *a, int n_groups, int n_tokens)
{
    __m512 sum[TILE_T][2];
    __mmask16 rows[2];
    UNROLL for (int g = 0; g < n_groups; g++)
        rows[g] = g == n_groups - 1 ? (__mmask16)((1u << a->last_rows) - 1) : (__mmask16)0xffff;
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int g = 0; g < n_groups; g++)
            sum[t][g] = a->first
                            ? _mm512_maskz_loadu_ps(rows[g], a->y + t * a->ldy + g * QH_GROUP_ROWS)
                            : _mm512_setzero_ps();
    const uint32_t *x = a->x + a->first;
    for (int64_t k = 0; k < a->n_pairs; k++) {
        __m512bh w[2];
        UNROLL for (int g = 0; g < n_groups; g++)
            w[g] = (__m512bh)_mm512_load_si512(a->w + g * a->group_bytes + k * QH_STEP_BYTES);
        UNROLL for (int t = 0; t < n_tokens; t++) {
            const __m512bh xv = (__m512bh)_mm512_set1_epi32((int)x[t * a->ldx + k]);
            UNROLL for (int g = 0; g < n_groups; g++)
                sum[t][g] = _mm512_dpbf16_ps(sum[t][g], w[g], xv);
        }
    }
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int g = 0; g < n_groups; g++)
            _mm512_mask_storeu_ps(a->y + t * a->ldy + g * QH_GROUP_ROWS, rows[g], sum[t][g]);
}

#define TILES(X) X(6) X(4) X(3) X(2) X(1)
#define X(n)                                                                                       \
    static void tile_2_##n(const tile_args *a) { tile(a, 2, n); }                                  \
    static void tile_1_##n(const tile_args *a) { tile(a, 1, n); }
TILES(X)
#undef X

/* All of [0, n_tokens) tokens, in the largest tiles that fit. */
static void run_tiles(tile_args a, int n_groups, int n_tokens)
{
#define X(n) {n, {tile_1_##n, tile_2_##n}},
    static const struct {
        int n_tokens;
        tile_fn *fn[2];
    } sizes[] = {TILES(X)};
#undef X
    for (int i = 0; n_tokens > 0; n_tokens -= sizes[i].n_tokens) {
        while (sizes[i].n_tokens > n_tokens) i++;
        sizes[i].fn[n_groups - 1](&a);
        a.x += (size_t)sizes[i].n_tokens * a.ldx;
        a.y += sizes[i].n_tokens * a.ldy;
    }
}

static void matmul_BF16(const qh_matmul_job *j)
{
    const qh_acts_shape at = qh_acts_shape_of(j->m->isa, j->m->dim, true);
    const int64_t n_pairs = (j->m->dim + 1) / 2;
    const int n_tokens = j->t_end - j->t_begin,
              few = (int)(TOKEN_BLOCK_BYTES / at.bf16_bytes / TILE_T) * TILE_T;
    const int block = few > 4 * TILE_T ? few : 4 * TILE_T;
    const int64_t panel = n_tokens > TILE_T ? PANEL_PAIRS : n_pairs;    /* few: stream the rows */
    for (int t = j->t_begin; t < j->t_end; t += block) {
        const int n = j->t_end - t < block ? j->t_end - t : block;
        for (int64_t row = j->row_begin; row < j->row_end; row += 2 * QH_GROUP_ROWS) {
            const int64_t left = j->row_end - row;
            const int n_groups = left > QH_GROUP_ROWS ? 2 : 1;
            tile_args a = {.group_bytes = j->m->group_bytes,
                           .x = (uint32_t *)qh_acts_bf16(j->a, &at, t),
                           .ldx = at.bf16_bytes / sizeof(uint32_t),
                           .y = j->y + (int64_t)t * j->ldy + row,
                           .ldy = j->ldy};
            a.last_rows =
                left >= n_groups * QH_GROUP_ROWS ? QH_GROUP_ROWS : (int)left % QH_GROUP_ROWS;
            for (a.first = 0; a.first < n_pairs; a.first += panel) {
                a.n_pairs = n_pairs - a.first < panel ? n_pairs - a.first : panel;
                a.w = j->m->data + (size_t)(row / QH_GROUP_ROWS) * j->m->group_bytes +
                      (size_t)a.first * QH_STEP_BYTES;
                run_tiles(a, n_groups, n);
            }
        }
    }
}

static void acts_set(const qh_acts *a, const float *x, int64_t ldx, int t_begin, int t_end)
{
    const qh_acts_shape s = qh_acts_shape_of(a->isa, a->dim, a->has_float);
    qh_matrix_avx512.acts_set(a, x, ldx, t_begin, t_end);
    for (int t = t_begin; a->has_float && t < t_end; t++) {
        const float *src = x + (int64_t)t * ldx;
        uint16_t *dst = qh_acts_bf16(a, &s, t);
        for (int64_t k = 0; k < a->dim; k += 16) {
            const int64_t n = a->dim - k;
            const __mmask16 mask = n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
            const __m256bh b = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, src + k));
            _mm256_store_si256((void *)(dst + k), (__m256i)b);      /* an odd width ends with a zero */
        }
    }
}

const qh_matrix_kernels qh_matrix_avx512bf16 = {
    .matmul = {[QH_DTYPE_AT_BF16] = matmul_BF16},
    .acts_set = acts_set,
};
