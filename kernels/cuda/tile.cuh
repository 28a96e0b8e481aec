/* tile.cuh - reading units on the device; the layout is described in tile.h. */
#pragma once
#include "kernels/cuda/tile.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <int LOW, int HIGH, int GROUP, int HAS_MIN, int OFFSET>
struct tile_format {
    static constexpr int low = LOW, high = HIGH, group = GROUP, offset = OFFSET;
    static constexpr bool has_min = HAS_MIN;
    static constexpr int groups = GROUP == 16 ? 4 : 2;      /* of a unit */
    static constexpr int scales_at = QH_TILE_SCALES_AT(LOW, HIGH);
    static constexpr int unit_bytes = QH_TILE_UNIT_BYTES(LOW, HIGH, GROUP, HAS_MIN);
};

#define X(name, low, high, group, has_min, offset)                                                 \
    using tile_##name = tile_format<low, high, group, has_min, offset>;
QH_TILE_LIST(X)
#undef X

/* Formats as numbers, for code that takes one value at a time. */
static __device__ const qh_tile_info tile_infos[QH_N_TILES] = {
#define X(name, low, high, group, has_min, offset)                                                 \
    {low,                                                                                          \
     high,                                                                                         \
     group,                                                                                        \
     has_min,                                                                                      \
     offset,                                                                                       \
     QH_TILE_SCALES_AT(low, high),                                                                 \
     QH_TILE_UNIT_BYTES(low, high, group, has_min)},
    QH_TILE_LIST(X)
#undef X
};

/* What a lane holds of one unit, as loaded. */
template <class F>
struct lane_unit {
    uint32_t low[F::low == 16 ? 16 : F::low], high[F::high ? F::high : 1];
    uint32_t scale[F::groups], min[F::has_min ? F::groups : 1];     /* pairs: rows g and g + 8 */

    __device__ __forceinline__ void load(const uint8_t *unit, int lane)
    {
        load_values(unit, lane);
        if constexpr (F::group != 0) {
            load_pairs(scale, unit + F::scales_at + lane / 4 * record_bytes);
            if constexpr (F::has_min)
                load_pairs(min, unit + F::scales_at + lane / 4 * record_bytes + 4 * F::groups);
        }
    }

    __device__ __forceinline__ void load_values(const uint8_t *unit, int lane)
    {
        if constexpr (F::low >= 8) {
#pragma unroll
            for (int i = 0; i < F::low / 4; i++) {
                const uint4 v = __ldcs((const uint4 *)(unit + 512 * i + 16 * lane));
                low[4 * i] = v.x, low[4 * i + 1] = v.y, low[4 * i + 2] = v.z, low[4 * i + 3] = v.w;
            }
        } else if constexpr (F::low == 4) {
            const uint4 v = __ldcs((const uint4 *)(unit + 16 * lane));
            low[0] = v.x, low[1] = v.y, low[2] = v.z, low[3] = v.w;
        } else {
            const uint2 v = __ldcs((const uint2 *)(unit + 8 * lane));
            low[0] = v.x, low[1] = v.y;
        }
        const uint8_t *h = unit + 128 * F::low;
        if constexpr (F::high == 2) {
            const uint2 v = __ldcs((const uint2 *)(h + 8 * lane));
            high[0] = v.x, high[1] = v.y;
        } else if constexpr (F::high == 1) {
            high[0] = __ldcs((const uint32_t *)(h + 4 * lane));
        }
    }

    static constexpr int record_bytes = 4 * F::groups * (1 + F::has_min);

    static __device__ __forceinline__ void load_pairs(uint32_t (&p)[F::groups], const uint8_t *src)
    {
        if constexpr (F::groups == 4) {
            const uint4 v = __ldcs((const uint4 *)src);
            p[0] = v.x, p[1] = v.y, p[2] = v.z, p[3] = v.w;
        } else {
            const uint2 v = __ldcs((const uint2 *)src);
            p[0] = v.x, p[1] = v.y;
        }
    }

    /* Values 4*step .. 4*step+3 of half c and row half h: unsigned bytes, offset not yet taken
     * off. */
    __device__ __forceinline__ uint32_t bytes(int c, int h, int step) const
    {
        uint32_t q;
        if constexpr (F::low == 8) q = low[4 * c + 2 * h + step];
        else if constexpr (F::low == 4) q = low[2 * c + h] >> 4 * step & 0x0f0f0f0fu;
        else q = low[c] >> (4 * h + 2 * step) & 0x03030303u;
        if constexpr (F::high == 2) q |= (high[c] >> (4 * h + 2 * step) & 0x03030303u) << F::low;
        if constexpr (F::high == 1)
            q |= (high[0] >> (4 * c + 2 * h + step) & 0x01010101u) << F::low;
        return q;
    }

    /* The A fragment of step (0, 1) in half c: integers less their offset, exact; bf16 values as
     * they are. */
    __device__ __forceinline__ void fragment(uint32_t (&a)[4], int c, int step) const
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if constexpr (F::low == 16) {
                a[h] = low[4 * (2 * c + h) + 2 * step];
                a[2 + h] = low[4 * (2 * c + h) + 2 * step + 1];
            } else if constexpr (F::low == 8) {
                const uint32_t q = bytes(c, h, step);
                float v[4];
                /* 0x4b0000qq is the float 2^23 + q: no integer conversion needed. */
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[i] = __uint_as_float(__byte_perm(q, 0x4b000000u, 0x7540 + i)) -
                           (8388608.0f + F::offset);
                a[h] = pair_of(__floats2bfloat162_rn(v[0], v[2]));
                a[2 + h] = pair_of(__floats2bfloat162_rn(v[1], v[3]));
            } else {
                /* 0x43qq is the bf16 128 + q for q below 128. */
                const uint32_t q = bytes(c, h, step);
                a[h] = less_offset((q & 0x00ff00ffu) | 0x43004300u);
                a[2 + h] = less_offset((q >> 8 & 0x00ff00ffu) | 0x43004300u);
            }
        }
    }

    static __device__ __forceinline__ uint32_t pair_of(__nv_bfloat162 v)
    {
        return *(const uint32_t *)&v;
    }

    static __device__ __forceinline__ uint32_t less_offset(uint32_t v)
    {
        return pair_of(
            __hsub2(*(const __nv_bfloat162 *)&v, __float2bfloat162_rn(128.0f + F::offset)));
    }
};

static __device__ __forceinline__ float2 halves_of(uint32_t pair)
{
    return __half22float2(*(const __half2 *)&pair);
}

/* Value (row, column) of a unit. */
static __device__ float tile_value(qh_tile tile, const uint8_t *unit, int row, int column)
{
    const qh_tile_info f = tile_infos[tile];
    const int g = row % 8, h = row / 8, c = column / 32, step = column % 32 / 16,
              t = column % 16 / 4, byte = column % 4;
    const int lane = 4 * g + t;
    if (f.low_bits == 16)
        return __bfloat162float(
            ((const __nv_bfloat16 *)(unit + 512 * (2 * c + h) +
                                     16 * lane))[4 * step + (byte == 1   ? 2
                                                             : byte == 2 ? 1
                                                                         : byte)]);
    int q;
    if (f.low_bits == 8) q = unit[512 * c + 16 * lane + 4 * (2 * h + step) + byte];
    else if (f.low_bits == 4) q = unit[16 * lane + 4 * (2 * c + h) + byte] >> 4 * step & 15;
    else q = unit[8 * lane + 4 * c + byte] >> (4 * h + 2 * step) & 3;
    const uint8_t *high = unit + 128 * f.low_bits;
    if (f.high_bits == 2)
        q |= (high[8 * lane + 4 * c + byte] >> (4 * h + 2 * step) & 3) << f.low_bits;
    if (f.high_bits == 1) q |= (high[4 * lane + byte] >> (4 * c + 2 * h + step) & 1) << f.low_bits;
    const int groups = f.group == 16 ? 4 : 2, group = f.group == 16 ? 2 * c + step : c;
    const __half *s =
        (const __half *)(unit + f.scales_at + g * 4 * groups * (1 + f.has_min)) + 2 * group + h;
    const float v = (float)(q - f.offset) * __half2float(s[0]);
    return f.has_min ? v + __half2float(s[2 * groups]) : v;
}
