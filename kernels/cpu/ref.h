/* ref.h - the operations in double precision, the plain way: the oracle of each kernel, and with
 * the tables below the ref level itself.
 *
 * Inputs and results are float (the ref level's results are rounded once); everything between is
 * double. Thread: pure functions. */
#pragma once
#include "kernels/cpu/attention.h"
#include "kernels/cpu/float_ops.h"

/* y[c] = x[c] * w[c] / sqrt(mean of x^2 + eps) */
void qh_ref_rms_norm(float *y, const float *x, const float *w, int dim, float eps);
/* gate[i] = silu(gate[i]) * up[i] */
void qh_ref_silu_mul(float *gate, const float *up, int n);
void qh_ref_add(float *y, const float *x, int n);
/* Rotate pair i of the first dim values by the angle whose cosine and sine are in the table. */
void qh_ref_rope(float *x, const float *cos_sin, int dim, bool is_interleaved);

/* One query: out = sum over keys of softmax(scale * q.k) v. k, v [n_keys] rows, ld floats apart. */
void qh_ref_attention(float *out, const float *q, const float *k, const float *v, int ld,
                      int n_keys, int head_dim, float scale);
