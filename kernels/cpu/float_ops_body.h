/* float_ops_body.h - the table of one level; included once by each float_ops_<level>.c, which
 * defines the level's QH_VEC_ macro and QH_FLOAT_OPS, the table's name. */
#include "kernels/cpu/float_ops.h"
#include "kernels/cpu/vec.h"
#include <math.h>

/* Four partial sums a lane, folded in a tree; the tail is one partial vector, zero-filled. */
static float sum_squares(const float *x, int n)
{
    vf s[4] = {vset1(0), vset1(0), vset1(0), vset1(0)};
    int i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int j = 0; j < 4; j++) {
            vf v = vload(x + i + j * VL);
            s[j] = vfma(v, v, s[j]);
        }
    for (int j = 0; i < n; i += VL, j++) {
        vf v = i + VL <= n ? vload(x + i) : vload_n(x + i, n - i);
        s[j] = vfma(v, v, s[j]);
    }
    return vsum(vadd(vadd(s[0], s[1]), vadd(s[2], s[3])));
}

static void rms_norm(float *y, const float *x, const float *w, int dim, float eps)
{
    const vf scale = vset1(1.0f / sqrtf(sum_squares(x, dim) / (float)dim + eps));
    int i = 0;
    for (; i + VL <= dim; i += VL)
        vstore(y + i, vmul(vmul(vload(x + i), scale), vload(w + i)));
    if (i < dim)
        vstore_n(y + i, vmul(vmul(vload_n(x + i, dim - i), scale), vload_n(w + i, dim - i)),
                 dim - i);
}

static inline vf silu_mul_lanes(vf g, vf u)
{
    vf e = vexp(vsub(vset1(0), g));
    return vmul(vdiv(g, vadd(vset1(1), e)), u);
}

static void silu_mul(float *gate, const float *up, int n)
{
    int i = 0;
    for (; i + VL <= n; i += VL)
        vstore(gate + i, silu_mul_lanes(vload(gate + i), vload(up + i)));
    if (i < n)
        vstore_n(gate + i, silu_mul_lanes(vload_n(gate + i, n - i), vload_n(up + i, n - i)), n - i);
}

static void add(float *y, const float *x, int n)
{
    int i = 0;
    for (; i + VL <= n; i += VL) vstore(y + i, vadd(vload(y + i), vload(x + i)));
    if (i < n) vstore_n(y + i, vadd(vload_n(y + i, n - i), vload_n(x + i, n - i)), n - i);
}

/* y = x * cos + partner * signed_sin; the partner sits next door or half a head away. */
static inline vf rotate(vf x, vf partner, const float *cos_sin, int dim, int n)
{
    vf c = n == VL ? vload(cos_sin) : vload_n(cos_sin, n);
    vf s = n == VL ? vload(cos_sin + dim) : vload_n(cos_sin + dim, n);
    return vfma(x, c, vmul(partner, s));
}

static void rope_interleaved(float *x, const float *cos_sin, int dim)
{
    for (int i = 0; i < dim; i += VL) {
        int n = dim - i < VL ? dim - i : VL;
        vf v = n == VL ? vload(x + i) : vload_n(x + i, n);
        v = rotate(v, vswap_pairs(v), cos_sin + i, dim, n);
        if (n == VL) vstore(x + i, v);
        else vstore_n(x + i, v, n);
    }
}

static void rope_halves(float *x, const float *cos_sin, int dim)
{
    const int half = dim / 2;
    for (int i = 0; i < half; i += VL) {
        int n = half - i < VL ? half - i : VL;
        vf a = n == VL ? vload(x + i) : vload_n(x + i, n);
        vf b = n == VL ? vload(x + half + i) : vload_n(x + half + i, n);
        vf ra = rotate(a, b, cos_sin + i, dim, n);
        vf rb = rotate(b, a, cos_sin + half + i, dim, n);
        if (n == VL) {
            vstore(x + i, ra);
            vstore(x + half + i, rb);
        } else {
            vstore_n(x + i, ra, n);
            vstore_n(x + half + i, rb, n);
        }
    }
}

static void rope(float *x, const float *cos_sin, int dim, bool is_interleaved)
{
    if (is_interleaved) rope_interleaved(x, cos_sin, dim);
    else rope_halves(x, cos_sin, dim);
}

const qh_float_ops QH_FLOAT_OPS = {
    .rms_norm = rms_norm, .silu_mul = silu_mul, .add = add, .rope = rope};
