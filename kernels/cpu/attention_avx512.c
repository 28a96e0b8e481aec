/* attention_avx512.c - see attention.h */
#define QH_VEC_AVX512
#define QH_ATTN_OPS qh_attn_ops_avx512
#include "kernels/cpu/attention_body.h"
