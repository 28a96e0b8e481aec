/* float_ops.h - the float operations between the matrices, one table for each ISA level.
 *
 * Rows are contiguous floats without any alignment. Every operation is elementwise or reduces one
 * row in a fixed order, so a row's bits do not depend on what else is computed.
 * Oracle: ref.h; tests/unit/kernels/float_ops_test.c states the error bounds.
 * Thread: pure functions. */
#pragma once
#include "base/err.h"
#include "kernels/cpu/isa.h"
#include <stdint.h>

typedef struct {
    /* y[c] = x[c] * w[c] / sqrt(mean of x^2 + eps); y may be x. */
    void (*rms_norm)(float *y, const float *x, const float *w, int dim, float eps);
    /* gate[i] = silu(gate[i]) * up[i], silu(g) = g / (1 + e^-g) */
    void (*silu_mul)(float *gate, const float *up, int n);
    /* y[i] += x[i] */
    void (*add)(float *y, const float *x, int n);
    /* Rotate the first dim values of a head in place; cos_sin: a row of rope_table.h. */
    void (*rope)(float *x, const float *cos_sin, int dim, bool is_interleaved);
} qh_float_ops;

const qh_float_ops *qh_float_ops_of(qh_isa isa);    /* isa must be available */

extern const qh_float_ops qh_float_ops_ref, qh_float_ops_scalar;
#if defined(__x86_64__)
extern const qh_float_ops qh_float_ops_avx2, qh_float_ops_avx512;
#elif defined(__aarch64__)
extern const qh_float_ops qh_float_ops_neon;
#endif
