/* rope_table.c - see rope_table.h */
#include "kernels/cpu/rope_table.h"
#include "base/mem.h"
#include "model/rope.h"
#include <math.h>

qh_status qh_rope_table_init(qh_rope_table *r, const qh_desc *d, const float *factors, qh_err *err)
{
    *r = (qh_rope_table){.dim = d->rope_dim, .is_interleaved = d->rope_kind == QH_ROPE_INTERLEAVED};
    r->freqs = qh_try_alloc0((size_t)d->rope_dim / 2, sizeof *r->freqs);
    if (!r->freqs)
        return qh_fail(err, QH_ENOMEM, "no memory for %d rope frequencies", d->rope_dim / 2);
    r->magnitude = qh_rope_freqs(d, factors, r->freqs);
    return QH_OK;
}

void qh_rope_table_deinit(qh_rope_table *r)
{
    qh_free(r->freqs);
    r->freqs = NULL;
}

void qh_rope_table_row(const qh_rope_table *r, int position, float *cos_sin)
{
    float *c = cos_sin, *s = cos_sin + r->dim;
    for (int i = 0; i < r->dim / 2; i++) {
        double angle = position * r->freqs[i];
        float cosine = (float)(cos(angle) * r->magnitude),
              sine = (float)(sin(angle) * r->magnitude);
        int first = r->is_interleaved ? 2 * i : i;
        int second = r->is_interleaved ? 2 * i + 1 : i + r->dim / 2;
        c[first] = c[second] = cosine;
        s[first] = -sine;
        s[second] = sine;
    }
}
