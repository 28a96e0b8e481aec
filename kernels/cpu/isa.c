/* isa.c - see isa.h */
#include "kernels/cpu/isa.h"
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* What the CPU executes and the operating system saves on a context switch. */
typedef struct {
    bool avx2, vex_vnni, avx512, avx512bf16, neon, neondot;
    bool has_fast_bf16;
} features;

#if defined(__x86_64__)

static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool has_all(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

/* Bits of CPUID leaves 1, 7.0 and 7.1: Intel SDM vol. 2A, "CPUID"; XCR0: vol. 1, 13.3. */
static features detect(void)
{
    enum { FMA = 1u << 12, OSXSAVE = 1u << 27, AVX = 1u << 28, F16C = 1u << 29 };    /* 1.ecx */
    enum { AVX2 = 1u << 5, F = 1u << 16, DQ = 1u << 17, BW = 1u << 30 };             /* 7.0.ebx */
    const uint32_t VL = 1u << 31;                                                    /* 7.0.ebx */
    enum { VNNI512 = 1u << 11 };                                                     /* 7.0.ecx */
    enum { VNNI256 = 1u << 4, BF16 = 1u << 5 };                                      /* 7.1.eax */
    enum { XMM_YMM = 0x6, OPMASK_ZMM = 0xe0 };                                       /* XCR0 */
    features f = {0};
    uint32_t a, b, c, d, a71 = 0, b7, c7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, OSXSAVE | AVX)) return f;
    const uint32_t c1 = c;
    const uint64_t xcr0 = read_xcr0();
    if ((xcr0 & XMM_YMM) != XMM_YMM) return f;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return f;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    const bool zmm = (xcr0 & OPMASK_ZMM) == OPMASK_ZMM;
    f.avx2 = has_all(c1, FMA | F16C) && has_all(b7, AVX2);
    f.avx512 = f.avx2 && zmm && has_all(b7, F | DQ | BW | VL) && has_all(c7, VNNI512);
    f.avx512bf16 = f.avx512 && has_all(a71, BF16);
    f.has_fast_bf16 = f.avx512bf16 && __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
    f.vex_vnni = f.avx2 && has_all(a71, VNNI256);
    return f;
}

#elif defined(__aarch64__)

static features detect(void)
{
    enum { ASIMD = 1u << 1, ASIMDDP = 1u << 20 };               /* HWCAP, Linux arm64 ABI */
    const unsigned long hwcap = getauxval(AT_HWCAP);
    features f = {0};
    f.neon = hwcap & ASIMD;
    f.neondot = f.neon && (hwcap & ASIMDDP);
    return f;
}

#else
static features detect(void) { return (features){0}; }
#endif

bool qh_isa_is_available(qh_isa isa)
{
    const features f = detect();
    switch (isa) {
    case QH_ISA_REF:
    case QH_ISA_SCALAR: return true;
    case QH_ISA_AVX2: return f.avx2;
    case QH_ISA_AVXVNNI: return f.vex_vnni || f.avx512;
    case QH_ISA_AVX512: return f.avx512;
    case QH_ISA_AVX512BF16: return f.avx512bf16;
    case QH_ISA_NEON: return f.neon;
    case QH_ISA_NEONDOT: return f.neondot;
    case QH_N_ISA: break;
    }
    return false;
}

/* Asked for each row of activations, and under a hypervisor CPUID takes some 30 us: remembered. Two
 * threads may both find out; they find the same. */
bool qh_isa_has_vex_vnni(void)
{
    enum { UNKNOWN, NO, YES };
    static _Atomic int known = UNKNOWN;
    if (known == UNKNOWN) known = detect().vex_vnni ? YES : NO;
    return known == YES;
}

const char *qh_isa_name(qh_isa isa)
{
    static const char *const names[QH_N_ISA] = {
#define X(id, name) [QH_ISA_##id] = name,
        QH_ISA_LIST(X)
#undef X
    };
    return (unsigned)isa < QH_N_ISA ? names[isa] : "?";
}

/* The list runs from slow to fast within a family, and a machine has one family. Only AMD's cores run
 * the BF16 dot at the rate of fma (Zen 4 and 5 measured); on an Emerald Rapids Xeon it gives 90 GFLOP/s
 * a core and fma 180, so there the level must be asked for. */
qh_isa qh_isa_best(void)
{
    const bool has_fast_bf16 = detect().has_fast_bf16;
    for (int isa = QH_N_ISA - 1; isa > QH_ISA_SCALAR; isa--)
        if (qh_isa_is_available((qh_isa)isa) && (isa != QH_ISA_AVX512BF16 || has_fast_bf16))
            return (qh_isa)isa;
    return QH_ISA_SCALAR;
}

qh_status qh_isa_parse(qh_isa *out, const char *name, qh_err *err)
{
    *out = QH_ISA_SCALAR;
    if (!strcmp(name, "auto")) {
        *out = qh_isa_best();
        return QH_OK;
    }
    for (int isa = 0; isa < QH_N_ISA; isa++) {
        if (strcmp(name, qh_isa_name((qh_isa)isa))) continue;
        if (!qh_isa_is_available((qh_isa)isa))
            return qh_fail(err, QH_EUNSUPPORTED,
                           "instruction-set level \"%s\": this machine or build does not have it "
                           "(best here: %s)",
                           name, qh_isa_name(qh_isa_best()));
        *out = (qh_isa)isa;
        return QH_OK;
    }
    static const char names[] = "auto"
#define X(id, label) ", " label
        QH_ISA_LIST(X)
#undef X
        ;
    return qh_fail(err, QH_EINVAL, "instruction-set level \"%s\": expected one of %s", name, names);
}
