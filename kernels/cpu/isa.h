/* isa.h - instruction-set levels: what this machine has, and which one is used.
 *
 * One binary holds every level; each level's kernels live in translation units compiled with that
 * level's flags, and are reached through tables of functions chosen once at open. A level can be
 * forced, so that one machine tests all that it has. REF is the double-precision oracle run as a
 * level: slow, no quantized activations.
 *
 *   ref         double precision on dequantized weights
 *   scalar      plain C
 *   avx2        AVX2, FMA, F16C
 *   avxvnni     avx2 + AVX-VNNI (or its EVEX form: AVX-512 VL and VNNI)
 *   avx512      AVX-512 F, BW, VL, DQ, VNNI
 *   avx512bf16  avx512 + AVX512_BF16: BF16 weights meet activations rounded to BF16
 *   neon        AArch64
 *   neondot     neon + dot product
 *
 * A level is also the unit of exactness: equal bits are promised within one, never between two.
 * Thread: any. */
#pragma once
#include "base/err.h"

#define QH_ISA_LIST(X)                                                                             \
    X(REF, "ref")                                                                                  \
    X(SCALAR, "scalar")                                                                            \
    X(AVX2, "avx2")                                                                                \
    X(AVXVNNI, "avxvnni")                                                                          \
    X(AVX512, "avx512")                                                                            \
    X(AVX512BF16, "avx512bf16")                                                                    \
    X(NEON, "neon")                                                                                \
    X(NEONDOT, "neondot")

typedef enum {
#define X(id, name) QH_ISA_##id,
    QH_ISA_LIST(X)
#undef X
    QH_N_ISA
} qh_isa;

const char *qh_isa_name(qh_isa isa);
bool        qh_isa_is_available(qh_isa isa);    /* the CPU and the system have it (CPUID, XGETBV) */
bool        qh_isa_has_vex_vnni(void);          /* avxvnni: the VEX form; else only the EVEX form */
qh_isa      qh_isa_best(void);                  /* the fastest; but see isa.c about avx512bf16 */
/* "auto" or a name. QH_EINVAL lists the names; QH_EUNSUPPORTED: not on this machine. */
qh_status   qh_isa_parse(qh_isa *out, const char *name, qh_err *err);
