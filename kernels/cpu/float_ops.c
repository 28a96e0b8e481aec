/* float_ops.c - which table serves which level */
#include "kernels/cpu/float_ops.h"

const qh_float_ops *qh_float_ops_of(qh_isa isa)
{
    switch (isa) {
    case QH_ISA_REF: return &qh_float_ops_ref;
#if defined(__x86_64__)
    case QH_ISA_AVX2:
    case QH_ISA_AVXVNNI: return &qh_float_ops_avx2;
    case QH_ISA_AVX512:
    case QH_ISA_AVX512BF16: return &qh_float_ops_avx512;
#elif defined(__aarch64__)
    case QH_ISA_NEON:
    case QH_ISA_NEONDOT: return &qh_float_ops_neon;
#endif
    default: return &qh_float_ops_scalar;
    }
}
