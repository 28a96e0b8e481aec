/* spec.h - checking a generation before it enters the engine. Thread: any. */
#pragma once
#include "engine/engine.h"

/* What an engine can serve. */
typedef struct {
    int n_vocab;                /* tokens that exist */
    int max_context;            /* tokens of a sequence, prompt and completion */
    int n_pages;                /* of the pool */
    bool is_pool_bound;         /* the pool, not the model or the configuration, bounds max_context */
    int max_seqs;
} qh_spec_limits;

/* QH_EINVAL or QH_ECONTEXT with the field, its value and what was expected. */
qh_status qh_gen_check(const qh_gen *g, const qh_spec_limits *lim, qh_err *err);
