/* attention_avx2.c - see attention.h */
#define QH_VEC_AVX2
#define QH_ATTN_OPS qh_attn_ops_avx2
#include "kernels/cpu/attention_body.h"
