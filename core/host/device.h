/* device.h - chooses and opens a backend: the only place that names concrete ones. */
#pragma once
#include "kernels/backend.h"
#include "model/model.h"

typedef struct {
    const char *device;             /* "auto", "cpu", "cuda" or "cuda:N"; NULL: auto, a GPU where there is one */
    const char *isa;                /* CPU level: "auto", "ref", "avx2", ...; NULL: auto */
    int n_threads;                  /* CPU; 0: all cores of this process */
    bool is_exact;                  /* GPU: bits that depend on a sequence's prefix only, at a lower speed */
    double memory_share;            /* GPU: of its memory that may be used; 0: 0.9 */
    const char *kv_type;            /* how keys and values are stored: "bf16" or, on the CPU, "q8_0"; NULL: bf16 */
} qh_device_options;

/* m must outlive the backend. QH_ENOMEM says what was planned and what is there. */
qh_status qh_device_open(qh_backend **out, const qh_model *m, const qh_device_options *opt,
                         const qh_backend_limits *limits, qh_err *err);
/* The plan alone, without allocating. */
qh_status qh_device_plan(qh_memory_plan *out, const qh_model *m, const qh_device_options *opt,
                         const qh_backend_limits *limits, qh_err *err);
