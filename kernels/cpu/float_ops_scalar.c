/* float_ops_scalar.c - see float_ops.h */
#define QH_VEC_PORTABLE
#define QH_FLOAT_OPS qh_float_ops_scalar
#include "kernels/cpu/float_ops_body.h"
