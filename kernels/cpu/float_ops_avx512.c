/* float_ops_avx512.c - see float_ops.h */
#define QH_VEC_AVX512
#define QH_FLOAT_OPS qh_float_ops_avx512
#include "kernels/cpu/float_ops_body.h"
