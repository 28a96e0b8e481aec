/* tile.h - the one layout in which matrices lie on the GPU: units in the order of the tensor cores.
 *
 * A unit is 16 rows x 64 columns, and a matrix [n_rows, dim] is ceil(n_rows/16) row tiles of
 * ceil(dim/64) units each, rows and columns beyond the edge being zeros. Units of a row tile follow
 * each other, so a warp that walks along k reads one contiguous range.
 *
 * Lane l = 4*g + t of a warp owns rows g and g+8 and, in each half c = 0, 1 of a unit and step s
 * = 0, 1 of a half, columns 32*c + 16*s + 4*t + i, i = 0..3. Sixteen columns are one m16n8k16
 * step, so that a group of 16 or 32 can be scaled after its products; inside a lane the
 * fragment's registers take columns (0, 2) and (1, 3), which masks cut out of a word. With j =
 * 4*s + i, integer formats keep value j of (c, row half h) in byte i:
 *
 *   4-bit plane  512 B: lane's uint4, word 2c+h, low nibbles j = 0..3, high nibbles j = 4..7
 *   8-bit plane 1024 B: at 512*c + 16*lane, words 2h + j/4
 *   2-bit plane  256 B: lane's uint2, word c, bits 4h + 2(j/4) of each byte
 *   1-bit plane  128 B: lane's word, bit 4c + 2h + j/4 of each byte
 *   bf16        2048 B: at 512*(2c+h) + 16*lane, values 0, 2, 1, 3 of each step
 *
 * A unit is [low plane][high plane][scales]. Scales are f16, a record a g: pairs (row g, row g+8)
 * of each group in order, then, where the format has them, the same of minima. A value is scale *
 * (q - offset) + minimum.
 *
 * Adding a format? Also tile.cuh, pack.cu, cuda_model.c. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { QH_TILE_ROWS = 16, QH_UNIT_DIM = 64 };

/* name, low bits, high bits, columns a scale, has minimum, offset */
#define QH_TILE_LIST(X)                                                                            \
    X(Q2M, 2, 0, 16, 1, 0)                                                                         \
    X(Q3S, 2, 1, 16, 0, 4)                                                                         \
    X(Q4S, 4, 0, 32, 0, 8)                                                                         \
    X(Q4M, 4, 0, 32, 1, 0)                                                                         \
    X(Q5S, 4, 1, 32, 0, 16)                                                                        \
    X(Q5M, 4, 1, 32, 1, 0)                                                                         \
    X(Q6S, 4, 2, 16, 0, 32)                                                                        \
    X(Q8S, 8, 0, 32, 0, 128)                                                                       \
    X(BF16, 16, 0, 0, 0, 0)

typedef enum {
#define X(name, low, high, group, has_min, offset) QH_TILE_##name,
    QH_TILE_LIST(X)
#undef X
    QH_N_TILES
} qh_tile;

typedef struct {
    int low_bits, high_bits, group, has_min, offset;
    int scales_at, unit_bytes;
} qh_tile_info;

#define QH_TILE_SCALES_AT(low, high) (128 * ((low) + (high)))
#define QH_TILE_UNIT_BYTES(low, high, group, has_min)                                              \
    (QH_TILE_SCALES_AT(low, high) +                                                                \
     ((group) ? 64 * 32 / ((group) + !(group)) * (1 + (has_min)) : 0))

static inline int qh_tile_unit_bytes(qh_tile t)
{
    static const int bytes[QH_N_TILES] = {
#define X(name, low, high, group, has_min, offset) QH_TILE_UNIT_BYTES(low, high, group, has_min),
        QH_TILE_LIST(X)
#undef X
    };
    return bytes[t];
}

/* A matrix in device memory. */
typedef struct {
    qh_tile tile;
    int n_rows, dim;                /* as stored; gate and up together: n_rows of each */
    int n_row_tiles, n_units;       /* units along dim */
    const uint8_t *units;
    const uint16_t *dense;          /* the same as rows of bf16, see qh_cuda_unpack; NULL: no copy */
} qh_tiles;
