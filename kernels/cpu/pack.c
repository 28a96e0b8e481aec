/* pack.c - stored rows into groups of 16 and back: qh_matrix_pack and qh_matrix_row.
 *
 * A row is taken apart 256 k (or one block of 32) at a time into plain quants and scales, the one
 * form that every stored type has in common; 16 rows of it are then laid into planes. */
#include "kernels/cpu/matrix_layout.h"
#include "model/quant.h"
#include <string.h>

const int8_t qh_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

const qh_layout *qh_layout_of(qh_dtype t)
{
    switch (t) {
#define X(name, class, lo, hi, table, zero_, k, kind, min)                                         \
    case QH_##name: {                                                                              \
        static const qh_layout l = {.lo_bits = lo, .hi_bits = hi, .is_table = table,               \
                                    .zero = zero_, .scale_k = k, .scale_kind = kind,               \
                                    .has_min = min};                                               \
        return &l;                                                                                 \
    }
        QH_LAYOUT_LIST(X)
#undef X
    default: return NULL;
    }
}

size_t qh_group_bytes(qh_dtype t, int64_t dim)
{
    const qh_layout *l = qh_layout_of(t);
    if (!l) {
        const size_t n = t == QH_BF16 ? (size_t)(dim + 1) / 2 * 2 : (size_t)dim;
        return qh_round_up(n * qh_dtype_block_bytes(t) * QH_GROUP_ROWS, QH_LINE_BYTES);
    }
    const size_t n_blocks = (size_t)(dim / QH_BLOCK_K);
    const int rest = (int)(n_blocks % QH_CHUNK_BLOCKS);
    size_t n = n_blocks * qh_block_quant_bytes(l->lo_bits, l->hi_bits);
    n += n_blocks / QH_CHUNK_BLOCKS *
         qh_chunk_scale_bytes(l->scale_kind, l->scale_k, l->has_min, QH_CHUNK_BLOCKS);
    if (rest) n += qh_chunk_scale_bytes(l->scale_kind, l->scale_k, l->has_min, rest);
    return n;
}

/* Up to 256 k of one row. f16[b], f16_min[b]: of block b (F16 scales); [0] the super scale and
 * minimum of the K types, whose code[g], code_min[g] belong to group g of 16 or 32 k. */
typedef struct {
    uint8_t q[QH_CHUNK_K];
    uint16_t f16[QH_CHUNK_BLOCKS], f16_min[QH_CHUNK_BLOCKS];
    int8_t code[16], code_min[16];
} plain_chunk;

/* ---- taking one stored block apart; layouts as in the GGUF specification (ggml-common) ---- */

static uint16_t read_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t read_u32(const uint8_t *p) { return read_u16(p) | (uint32_t)read_u16(p + 2) << 16; }

/* 16 bytes: low nibbles are elements 0-15, high ones 16-31. */
static void split_nibbles_16(uint8_t *q, const uint8_t *src)
{
    for (int i = 0; i < 16; i++) {
        q[i] = src[i] & 15;
        q[i + 16] = src[i] >> 4;
    }
}

static void add_fifth_bits(uint8_t *q, uint32_t bits)
{
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((bits >> i & 1) << 4);
}

static void unpack_Q4_0(plain_chunk *c, int b, const uint8_t *p)
{
    c->f16[b] = read_u16(p);
    split_nibbles_16(c->q + 32 * b, p + 2);
}

static void unpack_Q4_1(plain_chunk *c, int b, const uint8_t *p)
{
    c->f16[b] = read_u16(p);
    c->f16_min[b] = read_u16(p + 2);
    split_nibbles_16(c->q + 32 * b, p + 4);
}

static void unpack_Q5_0(plain_chunk *c, int b, const uint8_t *p)
{
    c->f16[b] = read_u16(p);
    split_nibbles_16(c->q + 32 * b, p + 6);
    add_fifth_bits(c->q + 32 * b, read_u32(p + 2));
}

static void unpack_Q5_1(plain_chunk *c, int b, const uint8_t *p)
{
    c->f16[b] = read_u16(p);
    c->f16_min[b] = read_u16(p + 2);
    split_nibbles_16(c->q + 32 * b, p + 8);
    add_fifth_bits(c->q + 32 * b, read_u32(p + 4));
}

static void unpack_Q8_0(plain_chunk *c, int b, const uint8_t *p)
{
    c->f16[b] = read_u16(p);
    for (int i = 0; i < 32; i++) c->q[32 * b + i] = p[2 + i] ^ 0x80;      /* + 128 */
}

static void unpack_IQ4_NL(plain_chunk *c, int b, const uint8_t *p) { unpack_Q4_0(c, b, p); }

/* The K types keep planes of 32 elements: element 32 * i + l is some bits of byte l of a plane. */
static void take_plane(uint8_t *q, const uint8_t *src, int shift, int mask)
{
    for (int l = 0; l < 32; l++) q[l] = src[l] >> shift & mask;
}

static void add_plane(uint8_t *q, const uint8_t *src, int shift, int mask, int to)
{
    for (int l = 0; l < 32; l++) q[l] |= (uint8_t)((src[l] >> shift & mask) << to);
}

/* scales[16], qs[64], d, dmin: each half of 128 has 32 bytes of four 2-bit planes. */
static void unpack_Q2_K(plain_chunk *c, int b, const uint8_t *p)
{
    (void)b;
    for (int i = 0; i < 8; i++) take_plane(c->q + 32 * i, p + 16 + i / 4 * 32, i % 4 * 2, 3);
    for (int g = 0; g < 16; g++) {
        c->code[g] = p[g] & 15;
        c->code_min[g] = (int8_t)(p[g] >> 4);
    }
    c->f16[0] = read_u16(p + 80);
    c->f16_min[0] = read_u16(p + 82);
}

/* hmask[32], qs[64], scales[12], d: quants as in Q2_K with a third bit, plane e/32 of hmask. */
static void unpack_Q3_K(plain_chunk *c, int b, const uint8_t *p)
{
    (void)b;
    const uint8_t *qs = p + 32, *s = p + 96;
    for (int i = 0; i < 8; i++) {
        take_plane(c->q + 32 * i, qs + i / 4 * 32, i % 4 * 2, 3);
        add_plane(c->q + 32 * i, p, i, 1, 2);
    }
    for (int g = 0; g < 16; g++) {
        const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high = s[8 + g % 4] >> (g / 4 * 2) & 3;
        c->code[g] = (int8_t)((low | high << 4) - 32);
    }
    c->f16[0] = read_u16(p + 108);
}

/* Twelve bytes hold eight 6-bit scales and eight 6-bit minima. */
static void unpack_k_codes(plain_chunk *c, const uint8_t *s)
{
    for (int g = 0; g < 4; g++) {
        c->code[g] = s[g] & 63;
        c->code_min[g] = s[g + 4] & 63;
        c->code[g + 4] = (int8_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        c->code_min[g + 4] = (int8_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

/* d, dmin, codes[12], qs[128]: 32 bytes hold 32 low nibbles, then the next 32 elements. */
static void unpack_Q4_K(plain_chunk *c, int b, const uint8_t *p)
{
    (void)b;
    c->f16[0] = read_u16(p);
    c->f16_min[0] = read_u16(p + 2);
    unpack_k_codes(c, p + 4);
    for (int i = 0; i < 8; i++) take_plane(c->q + 32 * i, p + 16 + i / 2 * 32, i % 2 * 4, 15);
}

/* d, dmin, codes[12], qh[32], qs[128]: as Q4_K with a fifth bit, plane e/32 of qh. */
static void unpack_Q5_K(plain_chunk *c, int b, const uint8_t *p)
{
    (void)b;
    c->f16[0] = read_u16(p);
    c->f16_min[0] = read_u16(p + 2);
    unpack_k_codes(c, p + 4);
    for (int i = 0; i < 8; i++) {
        take_plane(c->q + 32 * i, p + 48 + i / 2 * 32, i % 2 * 4, 15);
        add_plane(c->q + 32 * i, p + 16, i, 1, 4);
    }
}

/* ql[128], qh[64], scales s8[16], d: in each half of 128, 64 bytes of nibbles and 32 of 2-bit
 * planes. */
static void unpack_Q6_K(plain_chunk *c, int b, const uint8_t *p)
{
    (void)b;
    for (int i = 0; i < 8; i++) {
        take_plane(c->q + 32 * i, p + i / 4 * 64 + i % 2 * 32, i / 2 % 2 * 4, 15);
        add_plane(c->q + 32 * i, p + 128 + i / 4 * 32, i % 4 * 2, 3, 4);
    }
    memcpy(c->code, p + 192, 16);
    c->f16[0] = read_u16(p + 208);
}

/* d, scales_h u16, scales_l[4], qs[128]: each 32 elements are laid out as in IQ4_NL. */
static void unpack_IQ4_XS(plain_chunk *c, int b, const uint8_t *p)
{
    (void)b;
    const uint32_t high = read_u16(p + 2);
    c->f16[0] = read_u16(p);
    for (int g = 0; g < 8; g++) {
        const uint32_t low = p[4 + g / 2] >> (g % 2 * 4) & 15;
        c->code[g] = (int8_t)((int)(low | (high >> 2 * g & 3) << 4) - 32);
        split_nibbles_16(c->q + 32 * g, p + 8 + 16 * g);
    }
}

static void unpack_chunk(plain_chunk *c, qh_dtype t, const uint8_t *src, int n_blocks)
{
    switch (t) {
#define X(name, ...)                                                                               \
    case QH_##name:                                                                                \
        for (int b = 0; b < n_blocks; b += qh_dtype_block_len(t) / QH_BLOCK_K) {                   \
            unpack_##name(c, b, src);                                                              \
            src += qh_dtype_block_bytes(t);                                                        \
        }                                                                                          \
        break;
        QH_LAYOUT_LIST(X)
#undef X
    default: break;
    }
}

/* ---- laying 16 rows into planes ---- */

/* st: the 8 steps of a block, [step][row][4]. */
static uint8_t *put_plane(uint8_t *dst, const uint8_t (*st)[QH_STEP_BYTES], int bits, int shift)
{
    const int n_vectors = bits, per_byte = 8 / bits, mask = (1 << bits) - 1;
    for (int v = 0; v < n_vectors; v++, dst += QH_STEP_BYTES)
        for (int j = 0; j < QH_STEP_BYTES; j++) {
            int byte = 0;
            for (int i = 0; i < per_byte; i++)
                byte |= (st[v + i * n_vectors][j] >> shift & mask) << (i * bits);
            dst[j] = (uint8_t)byte;
        }
    return dst;
}

static uint8_t *put_f16(uint8_t *dst, const plain_chunk *rows, int b, bool is_min)
{
    for (int r = 0; r < QH_GROUP_ROWS; r++)
        memcpy(dst + 2 * r, is_min ? &rows[r].f16_min[b] : &rows[r].f16[b], 2);
    return dst + 2 * QH_GROUP_ROWS;
}

static void put_scales(uint8_t *dst, const plain_chunk *rows, const qh_layout *l, int n_blocks)
{
    if (l->scale_kind == QH_SCALE_F16) {
        for (int b = 0; b < n_blocks; b++) {
            dst = put_f16(dst, rows, b, false);
            if (l->has_min) dst = put_f16(dst, rows, b, true);
        }
        return;
    }
    dst = put_f16(dst, rows, 0, false);
    if (l->has_min) dst = put_f16(dst, rows, 0, true);
    const int groups = QH_BLOCK_K / l->scale_k;
    for (int b = 0; b < n_blocks; b++) {
        const int kinds = l->scale_kind == QH_SCALE_CODE && l->has_min ? 2 : 1;
        for (int kind = 0; kind < kinds; kind++)
            for (int g = b * groups; g < (b + 1) * groups; g++, dst += QH_GROUP_ROWS)
                for (int r = 0; r < QH_GROUP_ROWS; r++) {
                    const plain_chunk *c = &rows[r];
                    if (l->scale_kind == QH_SCALE_NIBBLE)
                        dst[r] = (uint8_t)(c->code[g] | c->code_min[g] << 4);
                    else
                        dst[r] = (uint8_t)(kind ? c->code_min[g] : c->code[g]);
                }
    }
}

static uint8_t *put_chunk(uint8_t *dst, const plain_chunk *rows, const qh_layout *l, int n_blocks)
{
    const size_t n = qh_chunk_scale_bytes(l->scale_kind, l->scale_k, l->has_min, n_blocks);
    memset(dst + n - QH_LINE_BYTES, 0, QH_LINE_BYTES);          /* the padding */
    put_scales(dst, rows, l, n_blocks);
    dst += n;
    for (int b = 0; b < n_blocks; b++) {
        uint8_t st[8][QH_STEP_BYTES];
        for (int s = 0; s < 8; s++)
            for (int r = 0; r < QH_GROUP_ROWS; r++)
                memcpy(st[s] + 4 * r, rows[r].q + QH_BLOCK_K * b + 4 * s, 4);
        dst = put_plane(dst, st, l->lo_bits, 0);
        if (l->hi_bits) dst = put_plane(dst, st, l->hi_bits, l->lo_bits);
    }
    return dst;
}

static int chunk_blocks(int64_t dim, int64_t k)
{
    return (int)((dim - k < QH_CHUNK_K ? dim - k : QH_CHUNK_K) / QH_BLOCK_K);
}

static void pack_quants(uint8_t *dst, const qh_layout *l, const qh_tensor *t, int64_t row,
                        int n_rows)
{
    const size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dim);
    plain_chunk rows[QH_GROUP_ROWS];
    memset(rows, 0, sizeof rows);                             /* rows that are not there are zero */
    for (int64_t k = 0; k < t->dim; k += QH_CHUNK_K) {
        const int n_blocks = chunk_blocks(t->dim, k);
        const size_t at =
            (size_t)(k / qh_dtype_block_len(t->dtype)) * qh_dtype_block_bytes(t->dtype);
        for (int r = 0; r < n_rows; r++)
            unpack_chunk(&rows[r], t->dtype,
                         (const uint8_t *)t->data + (size_t)(row + r) * row_bytes + at, n_blocks);
        dst = put_chunk(dst, rows, l, n_blocks);
    }
}

/* F32 and F16: [k][16]; BF16: [k/2][16][2]. */
static void pack_floats(uint8_t *dst, size_t dst_bytes, const qh_tensor *t, int64_t row, int n_rows)
{
    const size_t size = qh_dtype_block_bytes(t->dtype), pair = t->dtype == QH_BF16 ? 2 : 1;
    if (n_rows < QH_GROUP_ROWS || t->dim % 2) memset(dst, 0, dst_bytes);
    for (int r = 0; r < n_rows; r++) {
        const uint8_t *src = (const uint8_t *)t->data + (size_t)(row + r) * (size_t)t->dim * size;
        for (size_t k = 0; k < (size_t)t->dim; k++)
            memcpy(dst + ((k / pair * QH_GROUP_ROWS + (size_t)r) * pair + k % pair) * size,
                   src + k * size, size);
    }
}

void qh_matrix_pack(qh_matrix *m, const qh_tensor *t, int64_t row_begin, int64_t row_end)
{
    const qh_layout *l = qh_layout_of(t->dtype);
    const size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dim);
    qh_assert(row_begin % QH_GROUP_ROWS == 0);
    for (int64_t row = row_begin; row < row_end; row += QH_GROUP_ROWS) {
        const int n = (int)(row_end - row < QH_GROUP_ROWS ? row_end - row : QH_GROUP_ROWS);
        uint8_t *dst = m->data + (size_t)(row / QH_GROUP_ROWS) * m->group_bytes;
        if (m->isa == QH_ISA_REF) {
            memcpy(dst, (const uint8_t *)t->data + (size_t)row * row_bytes, (size_t)n * row_bytes);
        } else if (l) {
            pack_quants(dst, l, t, row, n);
        } else {
            pack_floats(dst, m->group_bytes, t, row, n);
        }
    }
}

/* ---- and back: one row of packed weights ---- */

typedef struct {
    float scale[2], min[2];         /* of the halves of a block */
} block_scales;

static float f16_at(const uint8_t *p, int lane) { return qh_f16_to_f32(read_u16(p + 2 * lane)); }

static block_scales read_scales(const uint8_t *p, const qh_layout *l, int b, int lane)
{
    block_scales s = {{0}, {0}};
    const int groups = QH_BLOCK_K / l->scale_k;
    if (l->scale_kind == QH_SCALE_F16) {
        p += (size_t)b * 2 * QH_GROUP_ROWS * (l->has_min ? 2 : 1);
        s.scale[0] = s.scale[1] = f16_at(p, lane);
        if (l->has_min) s.min[0] = s.min[1] = f16_at(p + 2 * QH_GROUP_ROWS, lane);
        return s;
    }
    const float super = f16_at(p, lane);
    const float super_min = l->has_min ? f16_at(p + 2 * QH_GROUP_ROWS, lane) : 0.0f;
    const int kinds = l->scale_kind == QH_SCALE_CODE && l->has_min ? 2 : 1;
    p += 2 * QH_GROUP_ROWS * (l->has_min ? 2 : 1) + b * groups * kinds * QH_GROUP_ROWS + lane;
    for (int h = 0; h < 2; h++) {
        const int g = h * groups / 2;
        const int byte = p[g * QH_GROUP_ROWS];
        const bool is_nibble = l->scale_kind == QH_SCALE_NIBBLE;
        s.scale[h] = super * (float)(is_nibble ? byte & 15 : (int8_t)byte);
        if (l->has_min)
            s.min[h] = -super_min *
                       (float)(is_nibble ? byte >> 4 : (int8_t)p[(groups + g) * QH_GROUP_ROWS]);
    }
    return s;
}

static int read_plane(const uint8_t *p, int bits, int step, int at)
{
    return p[step % bits * QH_STEP_BYTES + at] >> (step / bits * bits) & ((1 << bits) - 1);
}

static void unpack_row(const qh_matrix *m, const qh_layout *l, const uint8_t *p, int lane,
                       float *dst)
{
    const size_t block_bytes = qh_block_quant_bytes(l->lo_bits, l->hi_bits);
    for (int64_t k = 0; k < m->dim; k += QH_CHUNK_K) {
        const int n_blocks = chunk_blocks(m->dim, k);
        const uint8_t *q =
            p + qh_chunk_scale_bytes(l->scale_kind, l->scale_k, l->has_min, n_blocks);
        for (int b = 0; b < n_blocks; b++, q += block_bytes, dst += QH_BLOCK_K) {
            const block_scales s = read_scales(p, l, b, lane);
            for (int i = 0; i < QH_BLOCK_K; i++) {
                int v = read_plane(q, l->lo_bits, i / 4, 4 * lane + i % 4);
                if (l->hi_bits)
                    v |= read_plane(q + l->lo_bits * QH_STEP_BYTES, l->hi_bits, i / 4,
                                    4 * lane + i % 4) << l->lo_bits;
                v = l->is_table ? qh_iq4_values[v] : v - l->zero;
                dst[i] = s.scale[i / 16] * (float)v + s.min[i / 16];
            }
        }
        p = q;
    }
}

void qh_matrix_row(const qh_matrix *m, int64_t row, float *dst)
{
    qh_assert(row >= 0 && row < m->n_rows);
    const qh_layout *l = qh_layout_of(m->dtype);
    const uint8_t *p = m->data + (size_t)(row / QH_GROUP_ROWS) * m->group_bytes;
    const int lane = (int)(row % QH_GROUP_ROWS);
    if (m->isa == QH_ISA_REF) {
        qh_dequantize(m->dtype, dst, p + (size_t)lane * qh_dtype_row_bytes(m->dtype, m->dim),
                      m->dim);
    } else if (l) {
        unpack_row(m, l, p, lane, dst);
    } else {
        const int64_t size = (int64_t)qh_dtype_block_bytes(m->dtype),
                      pair = m->dtype == QH_BF16 ? 2 : 1;
        for (int64_t k = 0; k < m->dim; k++)
            qh_dequantize(m->dtype, dst + k,
                          p + ((k / pair * QH_GROUP_ROWS + lane) * pair + k % pair) * size, 1);
    }
}
