/* tile.cuh - reading units on the device; the layout is described in tile.h. */
#pragma once
#include "kernels/cuda/tile.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <int LOW, int HIGH, int GROUP, int HAS_MIN, int OFFSET>
struct tile_format {
    static constexpr int low = LOW, high = HIGH, group = GROUP, offset = OFFSET;
    static constexpr bool has_min = HAS_MIN;
    static constexpr int scales_at = QH_TILE_SCALES_AT(LOW, HIGH);
    static constexpr int unit_bytes = QH_TILE_UNIT_BYTES(LOW, HIGH, GROUP, HAS_MIN);
};

#define X(name, low, high, group, has_min, offset) using tile_##name = tile_format<low, high, group, has_min, offset>;
QH_TILE_LIST(X)
#undef X

/* Formats as numbers, for code that takes one value at a time. */
static __device__ const qh_tile_info tile_infos[QH_N_TILES] = {
#define X(name, low, high, group, has_min, offset)                                                 \
    {low, high, group, has_min, offset, QH_TILE_SCALES_AT(low, high), QH_TILE_UNIT_BYTES(low, high, group, has_min)},
    QH_TILE_LIST(X)
#undef X
};

/* What a lane holds of one unit, as loaded. */
template <class F>
struct lane_unit {
    uint32_t low[F::low == 16 ? 16 : F::low], high[F::high ? F::high : 1];
    uint32_t scale[F::group ? 2 : 1], min[F::has_min ? 2 : 1];

    __device__ __forceinline__ void load(const uint8_t *unit, int lane)
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
        if constexpr (F::group != 0) {
            const int record = F::group == 32 ? lane >> 2 : lane >> 1;
            const uint8_t *s = unit + F::scales_at + record * (F::has_min ? 16 : 8);
            if constexpr (F::has_min) {
                const uint4 v = __ldcs((const uint4 *)s);
                scale[0] = v.x, scale[1] = v.y, min[0] = v.z, min[1] = v.w;
            } else {
                const uint2 v = __ldcs((const uint2 *)s);
                scale[0] = v.x, scale[1] = v.y;
            }
        }
    }

    /* Values 4*step .. 4*step+3 of half c and row half h: unsigned bytes, offset not yet taken off. */
    __device__ __forceinline__ uint32_t bytes(int c, int h, int step) const
    {
        uint32_t q;
        if constexpr (F::low == 8) q = low[4 * c + 2 * h + step];
        else if constexpr (F::low == 4) q = low[2 * c + h] >> 4 * step & 0x0f0f0f0fu;
        else q = low[c] >> (4 * h + 2 * step) & 0x03030303u;
        if constexpr (F::high == 2) q |= (high[c] >> (4 * h + 2 * step) & 0x03030303u) << F::low;
        if constexpr (F::high == 1) q |= (high[0] >> (4 * c + 2 * h + step) & 0x01010101u) << F::low;
        return q;
    }

    static __device__ __forceinline__ float half_of(uint32_t pair, int i)
    {
        return __half2float(__ushort_as_half((unsigned short)(i ? pair >> 16 : pair & 0xffff)));
    }

    /* The four registers of the A fragment of step (0, 1) in half c. */
    __device__ __forceinline__ void fragment(uint32_t (&a)[4], int c, int step) const
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if constexpr (F::low == 16) {
                a[h] = low[4 * (2 * c + h) + 2 * step];
                a[2 + h] = low[4 * (2 * c + h) + 2 * step + 1];
            } else {
                const uint32_t q = bytes(c, h, step);
                const float s = half_of(scale[c], h);
                float v[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    /* 0x4b0000qq is the float 2^23 + q: no integer conversion needed. */
                    const float f = __uint_as_float(__byte_perm(q, 0x4b000000u, 0x7540 + i)) - (8388608.0f + F::offset);
                    if constexpr (F::has_min) v[i] = fmaf(f, s, half_of(min[c], h));
                    else v[i] = f * s;
                }
                const __nv_bfloat162 p0 = __floats2bfloat162_rn(v[0], v[1]), p1 = __floats2bfloat162_rn(v[2], v[3]);
                a[h] = *(const uint32_t *)&p0;
                a[2 + h] = *(const uint32_t *)&p1;
            }
        }
    }
};

/* Value (row, column) of a unit. */
static __device__ float tile_value(qh_tile tile, const uint8_t *unit, int row, int column)
{
    const qh_tile_info f = tile_infos[tile];
    const int g = row % 8, h = row / 8, c = column / 32, t = column % 32 / 8, j = column % 8, lane = 4 * g + t;
    const int byte = j & 3, step = j >> 2;
    if (f.low_bits == 16)
        return __bfloat162float(((const __nv_bfloat16 *)(unit + 512 * (2 * c + h) + 16 * lane))[j]);
    int q;
    if (f.low_bits == 8) q = unit[512 * c + 16 * lane + 4 * (2 * h + step) + byte];
    else if (f.low_bits == 4) q = unit[16 * lane + 4 * (2 * c + h) + byte] >> 4 * step & 15;
    else q = unit[8 * lane + 4 * c + byte] >> (4 * h + 2 * step) & 3;
    const uint8_t *high = unit + 128 * f.low_bits;
    if (f.high_bits == 2) q |= (high[8 * lane + 4 * c + byte] >> (4 * h + 2 * step) & 3) << f.low_bits;
    if (f.high_bits == 1) q |= (high[4 * lane + byte] >> (4 * c + 2 * h + step) & 1) << f.low_bits;
    const int record = f.group == 32 ? g : lane >> 1;
    const __half *s = (const __half *)(unit + f.scales_at + record * (f.has_min ? 16 : 8));
    const float v = (float)(q - f.offset) * __half2float(s[2 * c + h]);
    return f.has_min ? fmaf((float)q, __half2float(s[2 * c + h]), __half2float(s[4 + 2 * c + h])) : v;
}
