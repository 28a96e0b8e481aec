/* float_ops_neon.c - see float_ops.h */
#define QH_VEC_NEON
#define QH_FLOAT_OPS qh_float_ops_neon
#include "kernels/cpu/float_ops_body.h"
