/* pack: units out of the stored blocks of any GGUF type.
 *
 * Shapes    src[h]: rows of dim elements, row_bytes apart, no alignment; dst: all units of the
 *           matrix. Row r of unit half h is source row tile * tile_rows + r: with 16 rows a tile
 *           both sources are the same matrix and half h adds 8; with 8, half 0 is of the first
 *           and half 1 of the second.
 * Launch    a warp a unit, 8 warps a block, no shared memory. Every byte of a unit is written.
 * Traffic   stored bytes in (a byte is read by up to 8 lanes, through cache), unit bytes out.
 *           Runs at load.
 * Numerics  integers are exact; scales and minima become f16 (d * sub-scale of the K types is
 *           rounded), F32 and F16 values become bf16.
 * Oracle    qh_dequantize, |err| <= 2^-10 of scale * q and of the minimum;
 *           tests/gpu/kernels_test.c */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"
#include "model/dtype.h"

/* A stored value is s * q + m; m alone for the float types. */
struct element {
    int q;
    float s, m;
};

static __device__ float f16_at(const uint8_t *p)
{
    return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}
static __device__ uint32_t u32_at(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static __device__ const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113};

static __device__ void scale_min_k(const uint8_t *s, int g, int *scale, int *min)
{
    *scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
    *min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
}

/* Blocks of 32: element i < 16 in the low nibble of byte i, i + 16 in the high one. */
static __device__ int nibble32(const uint8_t *q, int i)
{
    return i < 16 ? q[i] & 15 : q[i - 16] >> 4;
}

/* Element k of a row, q with its offset still on: 0 .. 2^bits - 1. Layouts: GGUF specification. */
static __device__ element read_element(int dtype, const uint8_t *row, int k)
{
    const int i = k % 32, e = k % 256;
    const uint8_t *b;
    element r = {0, 0, 0};
    switch (dtype) {
    case QH_F32: r.m = __uint_as_float(u32_at(row + 4 * (size_t)k)); break;
    case QH_F16: r.m = f16_at(row + 2 * (size_t)k); break;
    case QH_BF16:
        r.m = __uint_as_float((uint32_t)(row[2 * (size_t)k] | row[2 * (size_t)k + 1] << 8) << 16);
        break;
    case QH_Q4_0:
        b = row + k / 32 * 18;
        r = {nibble32(b + 2, i), f16_at(b), 0};
        break;
    case QH_Q4_1:
        b = row + k / 32 * 20;
        r = {nibble32(b + 4, i), f16_at(b), f16_at(b + 2)};
        break;
    case QH_Q5_0:
        b = row + k / 32 * 22;
        r = {nibble32(b + 6, i) | (int)(u32_at(b + 2) >> i & 1) << 4, f16_at(b), 0};
        break;
    case QH_Q5_1:
        b = row + k / 32 * 24;
        r = {nibble32(b + 8, i) | (int)(u32_at(b + 4) >> i & 1) << 4, f16_at(b), f16_at(b + 2)};
        break;
    case QH_Q8_0:
        b = row + k / 32 * 34;
        r = {(int8_t)b[2 + i] + 128, f16_at(b), 0};
        break;
    case QH_IQ4_NL:
        b = row + k / 32 * 18;
        r = {iq4_values[nibble32(b + 2, i)] + 128, f16_at(b), 0};
        break;
    case QH_Q2_K: {
        b = row + k / 256 * 84;
        const int g = e / 16;
        r = {b[16 + g / 8 * 32 + e % 32] >> (g % 8 / 2 * 2) & 3,
             __fmul_rn(f16_at(b + 80), (float)(b[g] & 15)),
             -__fmul_rn(f16_at(b + 82), (float)(b[g] >> 4))};
        break;
    }
    case QH_Q3_K: {
        b = row + k / 256 * 110;
        const int g = e / 16;
        const uint8_t *s = b + 96;
        const int scale = (s[g % 8] >> (g / 8 * 4) & 15) | (s[8 + g % 4] >> (g / 4 * 2) & 3) << 4;
        r.q = (b[32 + g / 8 * 32 + e % 32] >> (g % 8 / 2 * 2) & 3) | (b[e % 32] >> (g / 2) & 1)
                                                                         << 2;
        r.s = __fmul_rn(f16_at(b + 108), (float)(scale - 32));
        break;
    }
    case QH_Q4_K:
    case QH_Q5_K: {
        const bool is_five = dtype == QH_Q5_K;
        b = row + k / 256 * (is_five ? 176 : 144);
        const int g = e / 32;
        int scale, min;
        scale_min_k(b + 4, g, &scale, &min);
        r.q = b[(is_five ? 48 : 16) + g / 2 * 32 + i] >> (g % 2 * 4) & 15;
        if (is_five) r.q |= (b[16 + i] >> g & 1) << 4;
        r.s = __fmul_rn(f16_at(b), (float)scale);
        r.m = -__fmul_rn(f16_at(b + 2), (float)min);
        break;
    }
    case QH_Q6_K: {
        b = row + k / 256 * 210;
        const int half = e / 128, run = e % 128 / 32;
        const int low = b[half * 64 + run % 2 * 32 + i] >> (run / 2 * 4) & 15;
        const int high = b[128 + half * 32 + i] >> (run * 2) & 3;
        r = {low | high << 4, __fmul_rn(f16_at(b + 208), (float)(int8_t)b[192 + e / 16]), 0};
        break;
    }
    case QH_IQ4_XS: {
        b = row + k / 256 * 136;
        const int g = e / 32;
        const int scale = (b[4 + g / 2] >> (g % 2 * 4) & 15) | ((b[2] | b[3] << 8) >> (2 * g) & 3)
                                                                   << 4;
        r = {iq4_values[nibble32(b + 8 + g * 16, i)] + 128,
             __fmul_rn(f16_at(b), (float)(scale - 32)), 0};
        break;
    }
    }
    return r;
}

/* The value itself, in the order of operations of qh_dequantize. */
static __device__ float value_of(int dtype, element e)
{
    int offset = 0;
    if (dtype == QH_Q4_0) offset = 8;
    if (dtype == QH_Q5_0) offset = 16;
    if (dtype == QH_Q8_0 || dtype == QH_IQ4_NL || dtype == QH_IQ4_XS) offset = 128;
    if (dtype == QH_Q3_K) offset = 4;
    if (dtype == QH_Q6_K) offset = 32;
    return __fadd_rn(__fmul_rn(e.s, (float)(e.q - offset)), e.m);
}

/* A group's scale and minimum come from its first column, which lane 4g has. */
static __device__ void pack_scale(const qh_tile_info &f, uint8_t *unit, int g, int group, int h,
                                  element e)
{
    const int groups = f.group == 16 ? 4 : 2;
    __half *s = (__half *)(unit + f.scales_at + g * 4 * groups * (1 + f.has_min)) + 2 * group + h;
    s[0] = __float2half_rn(e.s);
    if (f.has_min) s[2 * groups] = __float2half_rn(e.m);
}

static __global__ __launch_bounds__(256)
void pack(qh_pack_args a)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int64_t u = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    if (u >= (int64_t)a.n_tiles * a.n_units) return;
    const int tile = (int)(u / a.n_units), k_unit = (int)(u % a.n_units);
    const qh_tile_info f = tile_infos[a.tile];
    uint8_t *unit = a.dst + ((size_t)(a.first_tile + tile) * a.n_units + k_unit) * f.unit_bytes;
    uint32_t high1 = 0;
    for (int c = 0; c < 2; c++) {
        uint32_t word2 = 0, high2 = 0;
        for (int h = 0; h < 2; h++) {
            const int local = tile * a.tile_rows + g + (a.tile_rows == 16 ? 8 * h : 0);
            const int row = a.first_tile * a.tile_rows + local, dtype = a.dtype[h];
            const uint8_t *src = a.src[h] + (size_t)local * a.row_bytes[h];
            uint32_t low[2] = {0, 0};
            __nv_bfloat16 values[8];
            for (int j = 0; j < 8; j++) {
                const int i = j & 3, step = j >> 2, shift = 8 * i;
                const int k = k_unit * QH_UNIT_DIM + 32 * c + 16 * step + 4 * t + i;
                /* Outside the matrix q = 0 with scale and minimum 0: a zero, whatever the offset.
                 * */
                const bool is_in = row < a.n_rows && k < a.dim;
                const element v = is_in ? read_element(dtype, src, k) : element{0, 0, 0};
                if (f.low_bits == 16) {
                    values[4 * step + (i == 1   ? 2
                                       : i == 2 ? 1
                                                : i)] =
                        __float2bfloat16_rn(is_in ? value_of(dtype, v) : 0.0f);
                    continue;
                }
                if (t == 0 && i == 0 && (f.group == 16 || step == 0))
                    pack_scale(f, unit, g, f.group == 16 ? 2 * c + step : c, h, v);
                const uint32_t l = (uint32_t)v.q & ((1u << f.low_bits) - 1),
                               hi = (uint32_t)v.q >> f.low_bits;
                if (f.low_bits == 8) low[step] |= l << shift;
                if (f.low_bits == 4) low[0] |= l << (shift + 4 * step);
                if (f.low_bits == 2) word2 |= l << (shift + 4 * h + 2 * step);
                if (f.high_bits == 2) high2 |= hi << (shift + 4 * h + 2 * step);
                if (f.high_bits == 1) high1 |= hi << (shift + 4 * c + 2 * h + step);
            }
            if (f.low_bits == 16) {
                *(uint4 *)(unit + 512 * (2 * c + h) + 16 * lane) = *(const uint4 *)values;
                continue;
            }
            if (f.low_bits == 8)
                *(uint2 *)(unit + 512 * c + 16 * lane + 8 * h) = make_uint2(low[0], low[1]);
            if (f.low_bits == 4) *(uint32_t *)(unit + 16 * lane + 4 * (2 * c + h)) = low[0];
        }
        if (f.low_bits == 2) *(uint32_t *)(unit + 8 * lane + 4 * c) = word2;
        if (f.high_bits == 2) *(uint32_t *)(unit + 128 * f.low_bits + 8 * lane + 4 * c) = high2;
    }
    if (f.high_bits == 1) *(uint32_t *)(unit + 128 * f.low_bits + 4 * lane) = high1;
}

cudaError_t qh_cuda_pack(const qh_pack_args *a, cudaStream_t stream)
{
    const int64_t n = (int64_t)a->n_tiles * a->n_units;
    if (n == 0) return cudaSuccess;
    pack<<<(unsigned)((n + 7) / 8), 256, 0, stream>>>(*a);
    return cudaGetLastError();
}
