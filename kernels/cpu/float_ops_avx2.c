/* float_ops_avx2.c - see float_ops.h */
#define QH_VEC_AVX2
#define QH_FLOAT_OPS qh_float_ops_avx2
#include "kernels/cpu/float_ops_body.h"
