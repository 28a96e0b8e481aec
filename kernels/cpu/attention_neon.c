/* attention_neon.c - see attention.h */
#define QH_VEC_NEON
#define QH_ATTN_OPS qh_attn_ops_neon
#include "kernels/cpu/attention_body.h"
