/* matrix_level.h - the matrix kernels of one level, written over the lane operations it gets first.
 *
 * Included once by each matrix_<level>.c after lanes_<family>.h; everything here is static but the
 * table named QH_LEVEL. The types differ in how a block becomes bytes and float scales
 * (unpack_steps, load_scales); the rest is shared:
 *
 *   stream  few tokens: unpack in registers, use at once. Bound by memory.
 *   tile    many tokens: unpack 768 k of 32 rows into a panel that stays in the L1 cache, then run
 *           tiles of TILE_V vectors x TILE_T tokens over it. Partial sums wait in y between panels.
 *
 * Both do the same float operations on y[t][r], in this order: for each scale group of k,
 *   sum = fma(dot, scale * x_scale, sum), then with minima sum = fma(minimum, x_sum, sum).
 * dot is an exact integer, so it does not matter how it is reached. F32, F16 and BF16 weights:
 * sum = fma(w[k], x[k], sum), k ascending; at avx512bf16, BF16 by the dot instruction, pairs
 * ascending.
 *
 * What the lanes header gives: LANES rows a vector; vb (LANES * 4 bytes), vi (int32), vf (float),
 * vr (a running dot product); TILE_V, TILE_T, FLOAT_TILE_T; SIGNED_BYTES when quants of 8 bits must
 * be signed; and FLUSH_STEPS(bits), how many steps fit in a vr; UNROLL, in front of loops over
 * lanes and steps. */
#include "kernels/cpu/matrix_layout.h"
#include <math.h>
#include <string.h>


enum {
    NV = QH_GROUP_ROWS / LANES,     /* vectors across a group */
    VB = LANES * 4,                 /* bytes of a vector */
    PANEL_GROUPS = 2,
    PANEL_K = 768,                  /* with its scales and 6 tokens 40 KB; 576 fit in one */
    PANEL_BLOCKS = PANEL_K / QH_BLOCK_K,
    PANEL_FLOAT_K = 128,
    STREAM_MAX = 24,                /* tokens, up to which weights go straight to the dots */
    STREAM_TOKENS = 4,              /* so many at a time */
    AHEAD_FLOAT_BYTES = 2048,       /* prefetch when streaming: measured on L3 and DRAM */
    AHEAD_BYTES = 8192,
    TOKEN_BLOCK_MAX = 240,          /* tokens that meet one panel; a multiple of all TILE_T */
    TOKEN_BLOCK_BYTES = 256 << 10,  /* and their blocks, which stay in the L2 cache */
};

/* ---- unpacking ---- */

/* Quants of the 8 steps of a block, lanes from v * LANES on: 0 .. 2^bits - 1, or values. */
QH_BODY void unpack_steps(vb w[8], const uint8_t *q, int v, int lo, int hi, bool is_table)
{
    q += v * VB;
    if (lo == 8) {
        UNROLL for (int s = 0; s < 8; s++) {
            w[s] = vb_load(q + s * QH_STEP_BYTES);
            if (SIGNED_BYTES) w[s] = vb_xor(w[s], vb_set1(0x80));
        }
    } else {
        UNROLL for (int i = 0; i < lo; i++) {
            const vb b = vb_load(q + i * QH_STEP_BYTES);
            UNROLL for (int n = 0; n < 8 / lo; n++)
                w[i + n * lo] = vb_and(n ? vb_srl(b, n * lo) : b, vb_set1((1 << lo) - 1));
        }
    }
    if (hi) {
        q += lo * QH_STEP_BYTES;
        UNROLL for (int i = 0; i < hi; i++) {
            const vb b = vb_load(q + i * QH_STEP_BYTES);
            UNROLL for (int n = 0; n < 8 / hi; n++) {
                const int at = n * hi;                              /* bit position in b */
                const vb moved = at > lo ? vb_srl(b, at - lo) : at < lo ? vb_sll(b, lo - at) : b;
                w[i + n * hi] = vb_or(w[i + n * hi], vb_and(moved, vb_set1(((1 << hi) - 1) << lo)));
            }
        }
    }
    if (is_table) UNROLL for (int s = 0; s < 8; s++) w[s] = vb_lookup_iq4(w[s]);
}

/* Super scale and minimum of a chunk. */
typedef struct {
    vf scale, min;
} super_scales;

QH_BODY super_scales load_super(const uint8_t *p, int v, int kind, bool has_min)
{
    super_scales s = {vf_zero(), vf_zero()};
    if (kind != QH_SCALE_F16) {
        s.scale = vf_load_f16(p + 2 * v * LANES);
        if (has_min) s.min = vf_neg(vf_load_f16(p + 2 * QH_GROUP_ROWS + 2 * v * LANES));
    }
    return s;
}

/* Scales and minima of block b of a chunk whose scales are at p: one each, or one a half. */
QH_BODY void load_scales(vf scale[2], vf min[2], const uint8_t *p, super_scales super, int b, int v,
                         int scale_k, int kind, bool has_min)
{
    const int groups = QH_BLOCK_K / scale_k;
    if (kind == QH_SCALE_F16) {
        p += b * 2 * QH_GROUP_ROWS * (has_min ? 2 : 1) + 2 * v * LANES;
        scale[0] = vf_load_f16(p);
        if (has_min) min[0] = vf_load_f16(p + 2 * QH_GROUP_ROWS);
        return;
    }
    const bool is_nibble = kind == QH_SCALE_NIBBLE;
    const int codes = groups * (has_min && !is_nibble ? 2 : 1);
    p += 2 * QH_GROUP_ROWS * (has_min ? 2 : 1) + b * codes * QH_GROUP_ROWS + v * LANES;
    UNROLL for (int g = 0; g < groups; g++) {
        const vi c = vi_load_s8(p + g * QH_GROUP_ROWS);
        if (is_nibble) {
            scale[g] = vf_mul(super.scale, vf_from_vi(vi_and(c, vi_set1(15))));
            min[g] = vf_mul(super.min, vf_from_vi(vi_and(vi_srl(c, 4), vi_set1(15))));
        } else {
            scale[g] = vf_mul(super.scale, vf_from_vi(c));
            if (has_min)
                min[g] =
                    vf_mul(super.min, vf_from_vi(vi_load_s8(p + (groups + g) * QH_GROUP_ROWS)));
        }
    }
}

/* ---- products with quantized weights ---- */

/* start of an integer dot: minus the zero point times the sum of x. */
QH_BODY vi dot_start(const int32_t *neg_sum, int bits, int zero)
{
    if (!zero || (bits == 8 && SIGNED_BYTES)) return vi_set1(0);
    return vi_sll(vi_load1(neg_sum), __builtin_ctz((unsigned)zero));
}

/* Sums of the block, or of a half when scales cover 16 k. */
QH_BODY const int32_t *x_neg(const qh_acts_block *b, int groups, int g)
{
    return groups == 2 ? &b->half_neg[g] : &b->neg;
}
QH_BODY const float *x_sum(const qh_acts_block *b, int groups, int g)
{
    return groups == 2 ? &b->half_sum[g] : &b->sum;
}

QH_BODY vf add_scaled(vf sum, vi dot, vf scale, vf x_scale)
{
    return vf_fma(vf_from_vi(dot), vf_mul(scale, x_scale), sum);
}

QH_BODY void store_rows(float *y, const vf *sum, int64_t n_rows)
{
    if (n_rows >= QH_GROUP_ROWS) {
        UNROLL for (int v = 0; v < NV; v++) vf_store(y + v * LANES, sum[v]);
        return;
    }
    float tmp[QH_GROUP_ROWS];
    UNROLL for (int v = 0; v < NV; v++) vf_store(tmp + v * LANES, sum[v]);
    memcpy(y, tmp, (size_t)n_rows * sizeof *y);
}

/* One group of rows, n_tokens tokens from t on. */
QH_BODY void stream(const qh_matmul_job *j, int64_t row, int t0, int lo, int hi, bool is_table,
                    int zero, int scale_k, int kind, bool has_min, int n_tokens)
{
    const int bits = is_table ? 8 : lo + hi, groups = QH_BLOCK_K / scale_k;
    const int steps = scale_k / 4, flush = FLUSH_STEPS(bits) < steps ? FLUSH_STEPS(bits) : steps;
    const size_t block_bytes = qh_block_quant_bytes(lo, hi);
    const size_t lines =
        (qh_chunk_scale_bytes(kind, scale_k, has_min, QH_CHUNK_BLOCKS) / QH_CHUNK_BLOCKS +
         block_bytes + QH_LINE_BYTES - 1) /
        QH_LINE_BYTES;
    const qh_acts_shape at = qh_acts_shape_of(j->m->isa, j->m->dim, false);
    const qh_acts_block *x = qh_acts_blocks(j->a, &at, t0);
    const uint8_t *p = j->m->data + (size_t)(row / QH_GROUP_ROWS) * j->m->group_bytes;
    vf sum[STREAM_TOKENS][NV];
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int v = 0; v < NV; v++) sum[t][v] = vf_zero();
    for (int64_t left = at.n_blocks; left > 0; left -= QH_CHUNK_BLOCKS) {
        const int n = left < QH_CHUNK_BLOCKS ? (int)left : QH_CHUNK_BLOCKS;
        const uint8_t *q = p + qh_chunk_scale_bytes(kind, scale_k, has_min, n),
                      *ahead = p + AHEAD_BYTES;
        super_scales super[NV];
        UNROLL for (int v = 0; v < NV; v++) super[v] = load_super(p, v, kind, has_min);
        for (int b = 0; b < n; b++, q += block_bytes, x++) {
            UNROLL for (size_t i = 0; i < lines; i++, ahead += QH_LINE_BYTES)
                __builtin_prefetch(ahead);
            UNROLL for (int v = 0; v < NV; v++) {
                vb w[8];
                vf scale[2], min[2];
                unpack_steps(w, q, v, lo, hi, is_table);
                load_scales(scale, min, p, super[v], b, v, scale_k, kind, has_min);
                UNROLL for (int t = 0; t < n_tokens; t++) {
                    const qh_acts_block *xb = x + t * at.n_blocks;
                    const vf x_scale = vf_load1(&xb->scale);
                    UNROLL for (int g = 0; g < groups; g++) {
                        vi dot = dot_start(x_neg(xb, groups, g), bits, zero);
                        UNROLL for (int s = g * steps; s < (g + 1) * steps; s += flush) {
                            vr run = run_begin(dot);
                            UNROLL for (int f = s; f < s + flush; f++)
                                run = run_step(run, w[f], vb_load4(xb->x + 4 * f), bits == 8);
                            dot = run_end(dot, run);
                        }
                        sum[t][v] = add_scaled(sum[t][v], dot, scale[g], x_scale);
                        if (has_min)
                            sum[t][v] = vf_fma(min[g], vf_load1(x_sum(xb, groups, g)), sum[t][v]);
                    }
                }
            }
        }
        p = q;
    }
    UNROLL for (int t = 0; t < n_tokens; t++)
        store_rows(j->y + (int64_t)(t0 + t) * j->ldy + row, sum[t], j->row_end - row);
}

typedef void stream_fn(const qh_matmul_job *j, int64_t row, int t0);

/* Tokens are shared out evenly over passes of at most STREAM_TOKENS: after the first pass the
 * group's bytes are in the L1 or L2 cache. */
static void run_streams(const qh_matmul_job *j, stream_fn *const fn[STREAM_TOKENS])
{
    const int n_tokens = j->t_end - j->t_begin,
              n_passes = (n_tokens + STREAM_TOKENS - 1) / STREAM_TOKENS;
    for (int64_t row = j->row_begin; row < j->row_end; row += QH_GROUP_ROWS)
        for (int i = 0; i < n_passes; i++) {
            const int from = n_tokens * i / n_passes, to = n_tokens * (i + 1) / n_passes;
            fn[to - from - 1](j, row, j->t_begin + from);
        }
}

/* Weights of PANEL_GROUPS groups as bytes and floats. */
typedef struct {
    uint8_t w[PANEL_GROUPS][PANEL_K * QH_GROUP_ROWS];
    float scale[PANEL_GROUPS][PANEL_K / 16][QH_GROUP_ROWS];
    float min[PANEL_GROUPS][PANEL_K / 16][QH_GROUP_ROWS];
} panel __attribute__((aligned(64)));

/* Unpack n_blocks blocks (whole chunks, or to the end of the row) of one group; returns where the
 * next ones are. */
QH_BODY const uint8_t *fill_panel(panel *out, int group, const uint8_t *p, int n_blocks,
                                  size_t ahead_bytes, int lo, int hi, bool is_table, int scale_k,
                                  int kind, bool has_min)
{
    const int groups = QH_BLOCK_K / scale_k;
    const size_t block_bytes = qh_block_quant_bytes(lo, hi);
    for (int c = 0; c < n_blocks; c += QH_CHUNK_BLOCKS) {
        const int n = n_blocks - c < QH_CHUNK_BLOCKS ? n_blocks - c : QH_CHUNK_BLOCKS;
        const uint8_t *q = p + qh_chunk_scale_bytes(kind, scale_k, has_min, n);
        const uint8_t *ahead = p + ahead_bytes, *ahead_end = q + n * block_bytes + ahead_bytes;
        for (; ahead < ahead_end; ahead += QH_LINE_BYTES) __builtin_prefetch(ahead, 0, 2);
        UNROLL for (int v = 0; v < NV; v++) {
            const super_scales super = load_super(p, v, kind, has_min);
            for (int b = 0; b < n; b++) {
                vb w[8];
                vf scale[2], min[2];
                unpack_steps(w, q + (size_t)b * qh_block_quant_bytes(lo, hi), v, lo, hi, is_table);
                UNROLL for (int s = 0; s < 8; s++)
                    vb_store(out->w[group] + ((c + b) * 8 + s) * QH_STEP_BYTES + v * VB, w[s]);
                load_scales(scale, min, p, super, b, v, scale_k, kind, has_min);
                UNROLL for (int g = 0; g < groups; g++) {
                    vf_store(out->scale[group][(c + b) * groups + g] + v * LANES, scale[g]);
                    if (has_min)
                        vf_store(out->min[group][(c + b) * groups + g] + v * LANES, min[g]);
                }
            }
        }
        p = q + (size_t)n * qh_block_quant_bytes(lo, hi);
    }
    return p;
}

/* A tile: vectors of the panel from v0 on (counted over its groups) and tokens from x on, whose
 * blocks [first, first + n_blocks) the panel holds. y: the first row of the panel, first token. */
typedef struct {
    const panel *p;
    int v0, first, n_blocks;
    const qh_acts_block *x;
    int64_t ldx;                                /* blocks between tokens */
    float *y;
    int64_t ldy;
} tile_args;

typedef void tile_fn(const tile_args *a);

QH_BODY void tile(const tile_args *a, int bits, int zero, int scale_k, bool has_min, int n_vectors,
                  int n_tokens)
{
    const int groups = QH_BLOCK_K / scale_k, steps = scale_k / 4;
    const int flush = FLUSH_STEPS(bits) < steps ? FLUSH_STEPS(bits) : steps;
    vf sum[TILE_T][TILE_V];
    float *const y = a->y + a->v0 * LANES;
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            sum[t][v] = a->first ? vf_load(y + t * a->ldy + v * LANES) : vf_zero();
    const uint8_t *w[TILE_V];
    const float *scale[TILE_V], *min[TILE_V];
    UNROLL for (int v = 0; v < n_vectors; v++) {
        const int g = (a->v0 + v) / NV, lane = (a->v0 + v) % NV * LANES;
        w[v] = a->p->w[g] + lane * 4;
        scale[v] = a->p->scale[g][0] + lane;
        min[v] = a->p->min[g][0] + lane;
    }
    const qh_acts_block *x = a->x + a->first;
    for (int b = 0; b < a->n_blocks; b++, x++) {
        UNROLL for (int g = 0; g < groups; g++) {
            const int at = b * groups + g;                          /* scale group of the panel */
            vi dot[TILE_T][TILE_V];
            UNROLL for (int t = 0; t < n_tokens; t++) {
                const vi start = dot_start(x_neg(x + t * a->ldx, groups, g), bits, zero);
                UNROLL for (int v = 0; v < n_vectors; v++) dot[t][v] = start;
            }
            UNROLL for (int s = 0; s < steps; s += flush) {
                vr run[TILE_T][TILE_V];
                UNROLL for (int t = 0; t < n_tokens; t++)
                    UNROLL for (int v = 0; v < n_vectors; v++) run[t][v] = run_begin(dot[t][v]);
                UNROLL for (int f = s; f < s + flush; f++) {
                    vb wv[TILE_V];
                    UNROLL for (int v = 0; v < n_vectors; v++)
                        wv[v] = vb_load(w[v] + (at * steps + f) * QH_STEP_BYTES);
                    UNROLL for (int t = 0; t < n_tokens; t++) {
                        const vb xv = vb_load4(x[t * a->ldx].x + (g * steps + f) * 4);
                        UNROLL for (int v = 0; v < n_vectors; v++)
                            run[t][v] = run_step(run[t][v], wv[v], xv, bits == 8);
                    }
                }
                UNROLL for (int t = 0; t < n_tokens; t++)
                    UNROLL for (int v = 0; v < n_vectors; v++)
                        dot[t][v] = run_end(dot[t][v], run[t][v]);
            }
            UNROLL for (int v = 0; v < n_vectors; v++) {
                const vf d = vf_load(scale[v] + at * QH_GROUP_ROWS);
                UNROLL for (int t = 0; t < n_tokens; t++)
                    sum[t][v] = add_scaled(sum[t][v], dot[t][v], d, vf_load1(&x[t * a->ldx].scale));
                if (has_min) {
                    const vf m = vf_load(min[v] + at * QH_GROUP_ROWS);
                    UNROLL for (int t = 0; t < n_tokens; t++)
                        sum[t][v] =
                            vf_fma(m, vf_load1(x_sum(x + t * a->ldx, groups, g)), sum[t][v]);
                }
            }
        }
    }
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int v = 0; v < n_vectors; v++) vf_store(y + t * a->ldy + v * LANES, sum[t][v]);
}

/* Tiles of each class, for whole tiles and for what is left over in either direction. */
typedef struct {
    int n_tokens;
    tile_fn *full, *narrow;                     /* TILE_V vectors, 1 vector */
} tile_size;

enum { N_TILE_SIZES = 4 };
#define TILE_SIZES(X, max, ...)                                                                    \
    X(max, full, ##__VA_ARGS__) X(max - max / 3, most, ##__VA_ARGS__) X(max / 3, few, ##__VA_ARGS__) \
    X(1, one, ##__VA_ARGS__)

#define DEFINE_TILE(tokens, suffix, class, bits, zero, k, min)                                     \
    static void tile_##class##_##suffix##_v(const tile_args *a)                                    \
    {                                                                                              \
        tile(a, bits, zero, k, min, TILE_V, tokens);                                               \
    }                                                                                              \
    static void tile_##class##_##suffix##_1(const tile_args *a)                                    \
    {                                                                                              \
        tile(a, bits, zero, k, min, 1, tokens);                                                    \
    }
#define TILE_ENTRY(tokens, suffix, class)                                                          \
    {tokens, tile_##class##_##suffix##_v, tile_##class##_##suffix##_1},
#define X(class, bits, zero, k, min)                                                               \
    TILE_SIZES(DEFINE_TILE, TILE_T, class, bits, zero, k, min)                                             \
    static const tile_size tiles_##class[N_TILE_SIZES] = {TILE_SIZES(TILE_ENTRY, TILE_T, class)};
QH_TILE_LIST(X)
#undef X

/* All tokens of [0, n_tokens) against the panel. a: v0 and x are set here. */
static void run_tiles(tile_args a, const tile_size *sizes, int n_groups, int n_tokens)
{
    const qh_acts_block *const x = a.x;
    float *const y = a.y;
    for (int t = 0, i = 0; t < n_tokens; t += sizes[i].n_tokens) {
        while (sizes[i].n_tokens > n_tokens - t) i++;
        a.x = x + t * a.ldx;
        a.y = y + (int64_t)t * a.ldy;
        for (a.v0 = 0; a.v0 < n_groups * NV;) {
            const bool is_full = a.v0 + TILE_V <= n_groups * NV;
            (is_full ? sizes[i].full : sizes[i].narrow)(&a);
            a.v0 += is_full ? TILE_V : 1;
        }
    }
}

static int token_block(size_t record_bytes)
{
    size_t n = TOKEN_BLOCK_BYTES / record_bytes / TILE_T * TILE_T;
    if (n < 4 * TILE_T) n = 4 * TILE_T;
    return n < TOKEN_BLOCK_MAX ? (int)n : TOKEN_BLOCK_MAX;
}

/* Whole chunks of k, shared out evenly over the panels that a row needs. */
static int panel_blocks(int n_blocks)
{
    const int n_panels = (n_blocks + PANEL_BLOCKS - 1) / PANEL_BLOCKS;
    const int n_chunks = (n_blocks + QH_CHUNK_BLOCKS - 1) / QH_CHUNK_BLOCKS;
    return (n_chunks + n_panels - 1) / n_panels * QH_CHUNK_BLOCKS;
}

QH_BODY void tiled(const qh_matmul_job *j, const tile_size *sizes, int lo, int hi, bool is_table,
                   int scale_k, int kind, bool has_min)
{
    const qh_acts_shape at = qh_acts_shape_of(j->m->isa, j->m->dim, false);
    const int n_blocks = (int)at.n_blocks, step = panel_blocks(n_blocks),
              block_tokens = token_block(at.record_bytes);
    const size_t ahead = PANEL_GROUPS * j->m->group_bytes;         /* the same k of the next rows */
    float edge[TOKEN_BLOCK_MAX][QH_GROUP_ROWS];              /* rows of a group that is not whole */
    panel pan;
    for (int t = j->t_begin; t < j->t_end; t += block_tokens) {
        const int n_tokens = j->t_end - t < block_tokens ? j->t_end - t : block_tokens;
        int n_groups;
        for (int64_t row = j->row_begin; row < j->row_end; row += n_groups * QH_GROUP_ROWS) {
            const int64_t n_rows = j->row_end - row;
            const bool is_edge = n_rows < QH_GROUP_ROWS;
            n_groups = n_rows >= PANEL_GROUPS * QH_GROUP_ROWS ? PANEL_GROUPS : 1;
            float *const y = j->y + (int64_t)t * j->ldy + row;
            const uint8_t *p[PANEL_GROUPS];
            for (int g = 0; g < n_groups; g++)
                p[g] = j->m->data + (size_t)(row / QH_GROUP_ROWS + g) * j->m->group_bytes;
            for (int b = 0; b < n_blocks; b += step) {
                const int n = n_blocks - b < step ? n_blocks - b : step;
                for (int g = 0; g < n_groups; g++)
                    p[g] = fill_panel(&pan, g, p[g], n, ahead, lo, hi, is_table, scale_k, kind,
                                      has_min);
                const tile_args a = {.p = &pan, .first = b, .n_blocks = n, .ldx = at.n_blocks,
                                     .x = qh_acts_blocks(j->a, &at, t), .y = is_edge ? edge[0] : y,
                                     .ldy = is_edge ? QH_GROUP_ROWS : j->ldy};
                run_tiles(a, sizes, n_groups, n_tokens);
            }
            for (int i = 0; is_edge && i < n_tokens; i++)
                memcpy(y + i * j->ldy, edge[i], (size_t)n_rows * sizeof *y);
        }
    }
}

#define DEFINE_STREAM(name, n, ...)                                                                \
    static void stream_##name##_##n(const qh_matmul_job *j, int64_t row, int t0)                   \
    {                                                                                              \
        stream(j, row, t0, __VA_ARGS__, n);                                                        \
    }
#define X(name, class, lo, hi, table, zero, k, kind, min)                                          \
    DEFINE_STREAM(name, 1, lo, hi, table, zero, k, kind, min)                                      \
    DEFINE_STREAM(name, 2, lo, hi, table, zero, k, kind, min)                                      \
    DEFINE_STREAM(name, 3, lo, hi, table, zero, k, kind, min)                                      \
    DEFINE_STREAM(name, 4, lo, hi, table, zero, k, kind, min)                                      \
    static void matmul_##name(const qh_matmul_job *j)                                              \
    {                                                                                              \
        static stream_fn *const streams[STREAM_TOKENS] = {stream_##name##_1, stream_##name##_2,    \
                                                          stream_##name##_3, stream_##name##_4};   \
        if (j->t_end - j->t_begin <= STREAM_MAX) run_streams(j, streams);                          \
        else tiled(j, tiles_##class, lo, hi, table, k, kind, min);                                 \
    }
QH_LAYOUT_LIST(X)
#undef X

/* ---- products with float weights ---- */

enum { WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16 };

/* Weights of k and k + 1 (a pair of a group at p; F32 and F16 are simply two rows of 16). */
QH_BODY void load_pair(vf w[2], const uint8_t *p, int v, int kind)
{
    if (kind == WEIGHT_F32) {
        UNROLL for (int i = 0; i < 2; i++)
            w[i] = vf_load((const float *)p + i * QH_GROUP_ROWS + v * LANES);
    } else if (kind == WEIGHT_F16) {
        UNROLL for (int i = 0; i < 2; i++)
            w[i] = vf_load_f16(p + 2 * (i * QH_GROUP_ROWS + v * LANES));
    } else {
        const vb b = vb_load(p + 4 * v * LANES);
        w[0] = vf_from_bits(vi_sll(vi_from_vb(b), 16));
        w[1] = vf_from_bits(vi_and(vi_from_vb(b), vi_set1((int)0xffff0000u)));
    }
}

/* The last k of an odd width. */
QH_BODY vf load_last(const uint8_t *p, int v, int kind)
{
    if (kind == WEIGHT_F32) return vf_load((const float *)p + v * LANES);
    if (kind == WEIGHT_F16) return vf_load_f16(p + 2 * v * LANES);
    return vf_from_bits(vi_sll(vi_from_vb(vb_load(p + 4 * v * LANES)), 16));
}

/* n_groups groups of rows from row on; the sums of a row are one chain, so few tokens take two
 * groups at a time to hide its latency. */
QH_BODY void stream_float(const qh_matmul_job *j, int64_t row, int kind, int n_groups, int n_tokens)
{
    const qh_acts_shape at = qh_acts_shape_of(j->m->isa, j->m->dim, true);
    const float *x = qh_acts_floats(j->a, &at, j->t_begin);
    const size_t ldx = at.float_bytes / sizeof *x, pair_bytes = kind == WEIGHT_F32 ? 128 : 64;
    const size_t group_bytes = j->m->group_bytes;
    const uint8_t *p = j->m->data + (size_t)(row / QH_GROUP_ROWS) * group_bytes;
    vf sum[STREAM_TOKENS][2][NV];
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int g = 0; g < n_groups; g++)
            UNROLL for (int v = 0; v < NV; v++) sum[t][g][v] = vf_zero();
    int64_t k = 0;
    for (; k + 2 <= j->m->dim; k += 2, p += pair_bytes)
        UNROLL for (int g = 0; g < n_groups; g++) {
            __builtin_prefetch(p + g * group_bytes + AHEAD_FLOAT_BYTES);
            if (kind == WEIGHT_F32)
                __builtin_prefetch(p + g * group_bytes + AHEAD_FLOAT_BYTES + QH_LINE_BYTES);
            UNROLL for (int v = 0; v < NV; v++) {
                vf w[2];
                load_pair(w, p + g * group_bytes, v, kind);
                UNROLL for (int t = 0; t < n_tokens; t++)
                    UNROLL for (int i = 0; i < 2; i++)
                        sum[t][g][v] = vf_fma(w[i], vf_load1(x + t * ldx + k + i), sum[t][g][v]);
            }
        }
    if (k < j->m->dim)
        UNROLL for (int g = 0; g < n_groups; g++)
            UNROLL for (int v = 0; v < NV; v++)
                UNROLL for (int t = 0; t < n_tokens; t++)
                    sum[t][g][v] = vf_fma(load_last(p + g * group_bytes, v, kind),
                                          vf_load1(x + t * ldx + k), sum[t][g][v]);
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int g = 0; g < n_groups; g++)
            store_rows(j->y + (int64_t)(j->t_begin + t) * j->ldy + row + g * QH_GROUP_ROWS,
                       sum[t][g], j->row_end - row - g * QH_GROUP_ROWS);
}

QH_BODY void stream_float_rows(const qh_matmul_job *j, int kind, int n_tokens)
{
    int64_t row = j->row_begin;
    if (n_tokens * NV < 4)
        for (; row + QH_GROUP_ROWS < j->row_end; row += 2 * QH_GROUP_ROWS)
            stream_float(j, row, kind, 2, n_tokens);
    for (; row < j->row_end; row += QH_GROUP_ROWS) stream_float(j, row, kind, 1, n_tokens);
}

/* A tile over float weights w[group][k][16], k0 <= k < k0 + n_k of x. */
typedef struct {
    const float *w[PANEL_GROUPS];
    int v0;
    int64_t k0, n_k;
    const float *x;
    size_t ldx;
    float *y;
    int64_t ldy;
} float_tile_args;

typedef void float_tile_fn(const float_tile_args *a);

QH_BODY void float_tile(const float_tile_args *a, int n_vectors, int n_tokens)
{
    vf sum[FLOAT_TILE_T][TILE_V];
    float *const y = a->y + a->v0 * LANES;
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            sum[t][v] = a->k0 ? vf_load(y + t * a->ldy + v * LANES) : vf_zero();
    const float *w[TILE_V];
    UNROLL for (int v = 0; v < n_vectors; v++)
        w[v] = a->w[(a->v0 + v) / NV] + (a->v0 + v) % NV * LANES;
    const float *x = a->x + a->k0;
    for (int64_t k = 0; k < a->n_k; k++) {
        vf wv[TILE_V];
        UNROLL for (int v = 0; v < n_vectors; v++) wv[v] = vf_load(w[v] + k * QH_GROUP_ROWS);
        UNROLL for (int t = 0; t < n_tokens; t++) {
            const vf xv = vf_load1(x + t * a->ldx + k);
            UNROLL for (int v = 0; v < n_vectors; v++) sum[t][v] = vf_fma(wv[v], xv, sum[t][v]);
        }
    }
    UNROLL for (int t = 0; t < n_tokens; t++)
        UNROLL for (int v = 0; v < n_vectors; v++) vf_store(y + t * a->ldy + v * LANES, sum[t][v]);
}

typedef struct {
    int n_tokens;
    float_tile_fn *full, *narrow;
} float_tile_size;

#define DEFINE_FLOAT_TILE(tokens, suffix)                                                          \
    static void float_tile_##suffix##_v(const float_tile_args *a) { float_tile(a, TILE_V, tokens); } \
    static void float_tile_##suffix##_1(const float_tile_args *a) { float_tile(a, 1, tokens); }
#define FLOAT_TILE_ENTRY(tokens, suffix) {tokens, float_tile_##suffix##_v, float_tile_##suffix##_1},
TILE_SIZES(DEFINE_FLOAT_TILE, FLOAT_TILE_T)
static const float_tile_size float_tiles[N_TILE_SIZES] = {
    TILE_SIZES(FLOAT_TILE_ENTRY, FLOAT_TILE_T)};

static void run_float_tiles(float_tile_args a, int n_groups, int n_tokens)
{
    const float *const x = a.x;
    float *const y = a.y;
    for (int t = 0, i = 0; t < n_tokens; t += float_tiles[i].n_tokens) {
        while (float_tiles[i].n_tokens > n_tokens - t) i++;
        a.x = x + (size_t)t * a.ldx;
        a.y = y + (int64_t)t * a.ldy;
        for (a.v0 = 0; a.v0 < n_groups * NV;) {
            const bool is_full = a.v0 + TILE_V <= n_groups * NV;
            (is_full ? float_tiles[i].full : float_tiles[i].narrow)(&a);
            a.v0 += is_full ? TILE_V : 1;
        }
    }
}

QH_BODY void fill_float_panel(float *dst, const uint8_t *p, int64_t n_k, int kind)
{
    const size_t pair_bytes = 64;
    int64_t k = 0;
    for (; k + 2 <= n_k; k += 2, p += pair_bytes, dst += 2 * QH_GROUP_ROWS)
        UNROLL for (int v = 0; v < NV; v++) {
            vf w[2];
            load_pair(w, p, v, kind);
            UNROLL for (int i = 0; i < 2; i++) vf_store(dst + i * QH_GROUP_ROWS + v * LANES, w[i]);
        }
    if (k < n_k)
        UNROLL for (int v = 0; v < NV; v++) vf_store(dst + v * LANES, load_last(p, v, kind));
}

QH_BODY void tiled_float(const qh_matmul_job *j, int kind)
{
    const qh_acts_shape at = qh_acts_shape_of(j->m->isa, j->m->dim, true);
    const int block_tokens = token_block(at.float_bytes);
    const size_t k_bytes = QH_GROUP_ROWS * (kind == WEIGHT_F32 ? 4 : 2);
    float edge[TOKEN_BLOCK_MAX][QH_GROUP_ROWS];
    float pan[PANEL_GROUPS][PANEL_FLOAT_K * QH_GROUP_ROWS] __attribute__((aligned(64)));
    for (int t = j->t_begin; t < j->t_end; t += block_tokens) {
        const int n_tokens = j->t_end - t < block_tokens ? j->t_end - t : block_tokens;
        int n_groups;
        for (int64_t row = j->row_begin; row < j->row_end; row += n_groups * QH_GROUP_ROWS) {
            const int64_t n_rows = j->row_end - row;
            const bool is_edge = n_rows < QH_GROUP_ROWS;
            n_groups = n_rows >= 2 * QH_GROUP_ROWS ? 2 : 1;
            float *const y = j->y + (int64_t)t * j->ldy + row;
            float_tile_args a = {.x = qh_acts_floats(j->a, &at, t),
                                 .ldx = at.float_bytes / sizeof(float),
                                 .y = is_edge ? edge[0] : y,
                                 .ldy = is_edge ? QH_GROUP_ROWS : j->ldy};
            for (a.k0 = 0; a.k0 < j->m->dim; a.k0 += PANEL_FLOAT_K) {
                a.n_k = j->m->dim - a.k0 < PANEL_FLOAT_K ? j->m->dim - a.k0 : PANEL_FLOAT_K;
                for (int g = 0; g < n_groups; g++) {
                    const uint8_t *p = j->m->data +
                                       (size_t)(row / QH_GROUP_ROWS + g) * j->m->group_bytes +
                                       (size_t)a.k0 * k_bytes;
                    if (kind != WEIGHT_F32) fill_float_panel(pan[g], p, a.n_k, kind);
                    a.w[g] = kind == WEIGHT_F32 ? (const float *)p : pan[g];
                }
                run_float_tiles(a, n_groups, n_tokens);
            }
            for (int i = 0; is_edge && i < n_tokens; i++)
                memcpy(y + i * j->ldy, edge[i], (size_t)n_rows * sizeof *y);
        }
    }
}

QH_BODY void matmul_float(const qh_matmul_job *j, int kind)
{
    switch (j->t_end - j->t_begin) {
    case 1: stream_float_rows(j, kind, 1); break;
    case 2: stream_float_rows(j, kind, 2); break;
    case 3: stream_float_rows(j, kind, 3); break;
    case 4: stream_float_rows(j, kind, 4); break;
    default: tiled_float(j, kind); break;
    }
}

static void matmul_F32(const qh_matmul_job *j) { matmul_float(j, WEIGHT_F32); }
static void matmul_F16(const qh_matmul_job *j) { matmul_float(j, WEIGHT_F16); }
static void matmul_BF16(const qh_matmul_job *j) { matmul_float(j, WEIGHT_BF16); }

/* ---- quantizing activations ---- */

/* One block: n <= 32 floats, the rest counts as zero. What is not finite becomes the scale, over
 * quants of 0, and makes every product of the block NaN. */
static void quantize_block(qh_acts_block *out, const float *x, int n)
{
    float pad[QH_BLOCK_K] = {0};
    int32_t sum[2] = {0, 0};
    if (n < QH_BLOCK_K) x = memcpy(pad, x, (size_t)n * sizeof *x);
    const float largest = largest_32(x);
    if (largest < INFINITY && largest >= QH_ACTS_TINY) {
        out->scale = largest / 127.0f;
        quantize_32(out->x, sum, x, 127.0f / largest);
    } else {
        out->scale = largest < QH_ACTS_TINY ? 0.0f : largest;
        memset(out->x, 0, sizeof out->x);
    }
    out->sum = out->scale * (float)(sum[0] + sum[1]);
    out->neg = -(sum[0] + sum[1]);
    for (int h = 0; h < 2; h++) {
        out->half_sum[h] = out->scale * (float)sum[h];
        out->half_neg[h] = -sum[h];
    }
    out->unused = 0;
}

static void acts_set(const qh_acts *a, const float *x, int64_t ldx, int t_begin, int t_end)
{
    const qh_acts_shape at = qh_acts_shape_of(a->isa, a->dim, a->has_float);
    for (int t = t_begin; t < t_end; t++) {
        const float *src = x + (int64_t)t * ldx;
        qh_acts_block *out = qh_acts_blocks(a, &at, t);
        for (int64_t b = 0; b < at.n_blocks; b++) {
            const int64_t n = a->dim - b * QH_BLOCK_K;
            quantize_block(out + b, src + b * QH_BLOCK_K, n < QH_BLOCK_K ? (int)n : QH_BLOCK_K);
        }
        if (a->has_float) memcpy(qh_acts_floats(a, &at, t), src, (size_t)a->dim * sizeof *src);
    }
}

#define X(name, number, n, bytes) [QH_DTYPE_AT_##name] = matmul_##name,
const qh_matrix_kernels QH_LEVEL = {.matmul = {QH_DTYPE_LIST(X)}, .acts_set = acts_set};
#undef X
