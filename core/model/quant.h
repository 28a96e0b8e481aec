/* quant.h - dequantization of every stored type, the plain way: the oracle of all fast kernels.
 *
 * Formats: the block layouts of ggml (GGUF specification). Thread: any, pure functions. */
#pragma once
#include "model/dtype.h"

/* dst[0..n) = the values of n elements at src. n is a multiple of the type's block length;
 * src need not be aligned. Exact products of the stored scales and integers in float. */
void qh_dequantize(qh_dtype t, float *dst, const void *src, int64_t n);

float    qh_f16_to_f32(uint16_t h);
uint16_t qh_f32_to_f16(float f);                /* round to nearest even */
static inline float qh_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}
uint16_t qh_f32_to_bf16(float f);               /* round to nearest even; NaN stays NaN */
