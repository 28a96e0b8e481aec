/* attention.c - which table serves which level, and the state before the first key */
#include "kernels/cpu/attention.h"
#include <string.h>

const qh_attn_ops *qh_attn_ops_of(qh_isa isa, qh_kv_type type)
{
    switch (isa) {
    case QH_ISA_REF: return type == QH_KV_BF16 ? &qh_attn_ops_ref : NULL;
#if defined(__x86_64__)
    case QH_ISA_AVX2:
    case QH_ISA_AVXVNNI: return &qh_attn_ops_avx2[type];
    case QH_ISA_AVX512: return &qh_attn_ops_avx512[type];
    case QH_ISA_AVX512BF16: return &qh_attn_ops_avx512bf16[type];
#elif defined(__aarch64__)
    case QH_ISA_NEON:
    case QH_ISA_NEONDOT: return &qh_attn_ops_neon[type];
#endif
    default: return &qh_attn_ops_scalar[type];
    }
}

/* The maximum starts at a number below every score, not at -inf: the difference of two equal
 * maxima must be 0, also where no key has been seen. */
void qh_attn_clear(float *states, int n, int head_dim)
{
    const int d = qh_attn_padded(head_dim), len = qh_attn_state_len(head_dim);
    memset(states, 0, (size_t)n * len * sizeof *states);
    for (int i = 0; i < n; i++) states[i * len + d + QH_ATTN_STATE_MAX] = -1e30f;
}
