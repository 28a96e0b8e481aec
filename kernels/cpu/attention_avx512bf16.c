/* attention_avx512bf16.c - see attention.h */
#define QH_VEC_AVX512
#define QH_BF16_DOT
#define QH_ATTN_OPS qh_attn_ops_avx512bf16
#include "kernels/cpu/attention_body.h"
