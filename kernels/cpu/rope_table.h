/* rope_table.h - a row of cosines and sines for one position, as the rotation reads it.
 *
 * A row is cos[rope_dim] then signed_sin[rope_dim], laid out for
 *     y[j] = x[j] * cos[j] + x[partner(j)] * signed_sin[j]
 * with the partner next door (interleaved) or half the rotated part away (neox). Frequencies come
 * from model/rope.h; angles are taken in double, at 262,144 tokens a float is 0.01 radians off.
 * Thread: immutable after init. */
#pragma once
#include "model/arch.h"

typedef struct {
    int dim;                        /* rotated dimensions of a head */
    bool is_interleaved;
    double magnitude;               /* multiplies cos and sin: YaRN */
    double *freqs;                  /* [dim / 2] radians a position */
} qh_rope_table;

/* factors: [rope_dim / 2], see qh_rope_freqs. */
qh_status qh_rope_table_init(qh_rope_table *r, const qh_desc *d, const float *factors, qh_err *err);
void      qh_rope_table_deinit(qh_rope_table *r);   /* zeroed is fine */
void      qh_rope_table_row(const qh_rope_table *r, int position, float *cos_sin);  /* [2 * dim] */
