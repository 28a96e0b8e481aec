/* quantize.h - floats to blocks of the stored types: the reverse of quant.h.
 *
 * Each block's scale (and minimum) is searched for: from the plain choice that maps the extreme
 * value to the end of the range, nearby ones are tried, and for the integers that each gives the
 * least-squares scale is taken; the one with the least weighted squared error stays. K types weigh
 * by magnitude, the plain types weigh all alike; Q4_0 and Q8_0 keep the plain choice. Integers are
 * rounded again under the scales as stored (f16, or 6 and 8 bits).
 * Formats: the block layouts of ggml (GGUF specification). Thread: any, pure functions. */
#pragma once
#include "model/dtype.h"

/* F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and Q6_K. */
bool qh_quantize_is_known(qh_dtype t);

/* dst = n values of src as blocks of t, which must be known. n: a multiple of the block length.
 * The values are finite; a scale past the range of f16 is clipped to it. dst need not be aligned. */
void qh_quantize(qh_dtype t, void *dst, const float *src, int64_t n);
