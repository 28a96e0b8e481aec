/* attention_scalar.c - see attention.h */
#define QH_VEC_PORTABLE
#define QH_ATTN_OPS qh_attn_ops_scalar
#include "kernels/cpu/attention_body.h"
