/* cpu_backend.h - the backend that computes on this machine's CPUs.
 *
 * Opening packs the weights and takes all memory, pages and activations included; a step allocates
 * nothing. submit runs the step on the calling thread and the team, wait only hands out the result.
 * Bits are exact within an ISA level, see isa.h; the number of threads does not matter.
 *
 * Thread: plan anywhere; the rest as backend.h says. */
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/kv_type.h"
#include "model/weights.h"

typedef struct {
    qh_isa isa;
    qh_kv_type kv_type;
    int n_threads;                  /* the calling thread included; 0: as many as CPUs may be used */
    bool pin;                       /* keep each thread but the caller's on a CPU of its own */
    bool is_mapped;                 /* weights lie in a file mapping: drop its pages once packed */
} qh_cpu_options;

/* Where a step's time goes, thread by thread. name, text. */
#define QH_CPU_REGION_LIST(X)                                                                      \
    X(EMBED, "embeddings, rope table")                                                             \
    X(QUANTIZE, "norm and quantize")                                                               \
    X(QKV, "q, k, v")                                                                              \
    X(APPEND, "keys and values into pages")                                                        \
    X(ATTENTION, "attention")                                                                      \
    X(OUT, "attention output")                                                                     \
    X(GATE_UP, "gate, up, silu")                                                                   \
    X(DOWN, "down")                                                                                \
    X(HEAD, "logits")                                                                              \
    X(WAIT, "waiting at barriers")

typedef enum {
#define X(id, text) QH_CPU_REGION_##id,
    QH_CPU_REGION_LIST(X)
#undef X
    QH_N_CPU_REGION
} qh_cpu_region;

typedef struct {
    int64_t ns[QH_N_CPU_REGION];
} qh_cpu_profile;

/* What open will take, and what there is. */
qh_status qh_cpu_backend_plan(qh_memory_plan *out, const qh_desc *d, const qh_weights *w,
                              const qh_backend_limits *limits, const qh_cpu_options *options,
                              qh_err *err);
/* Weights and description are borrowed for the call only. QH_ENOMEM states the plan's numbers when
 * it does not fit what is available; QH_EUNSUPPORTED names what the kernels cannot do. */
qh_status qh_cpu_backend_open(qh_backend **out, const qh_desc *d, const qh_weights *w,
                              const qh_backend_limits *limits, const qh_cpu_options *options,
                              qh_err *err);

/* Start adding up the times of the following steps in profiles [n_threads], or stop with NULL.
 * Costs a clock reading a region. Returns the number of threads. */
int qh_cpu_backend_profile(qh_backend *b, qh_cpu_profile *profiles);
