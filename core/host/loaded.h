/* loaded.h - a model that is ready to generate: its file, its backend, its engine. The file is a
 * checkpoint, or with "scripted:FILE.lua" a Lua file that says what comes next.
 *
 * The sizes of context and KV cache are settled here, before anything is allocated: what the user
 * gave is taken or refused with the numbers, what was not given is chosen to fit. The plan is
 * printed as one log line. Thread: open on any one thread; then each part's own rules hold. */
#pragma once
#include "base/thread.h"
#include "engine/engine.h"
#include "host/device.h"
#include "model/model.h"

typedef struct {
    const char *model;              /* name or path */
    qh_device_options device;
    int n_ctx;                      /* tokens of a sequence; 0: the model's, as far as the KV cache holds it */
    int max_seqs;                   /* running at once; 0: 64 */
    int max_queued;                 /* waiting; 0: 256 */
    int step_tokens;                /* rows a step; 0: 512 */
    int64_t kv_bytes;               /* KV cache; 0: four full contexts, at most 1 GiB, at least one context
                                       as far as half of the memory that is free allows */
    bool no_prefix_cache;
    const char *metric_labels;      /* 'model="..."', kept for the life of the process; may be NULL */
    qh_wakeup on_events;            /* the engine's events can be polled */
} qh_loaded_options;

typedef struct {
    qh_model *model;                /* NULL: scripted */
    qh_tokenizer *script_tokenizer; /* scripted only, as is */
    char *script_template;
    char *path;
    qh_engine *engine;              /* owns the backend */
    qh_memory_plan plan;
    int n_ctx;
} qh_loaded;

qh_status qh_loaded_open(qh_loaded *l, const qh_loaded_options *opt, qh_err *err);
const qh_tokenizer *qh_loaded_tokenizer(const qh_loaded *l);
const char *qh_loaded_template(const qh_loaded *l);     /* Jinja source, or NULL */
const char *qh_loaded_arch(const qh_loaded *l);
void      qh_loaded_close(qh_loaded *l);    /* zeroed or half-open is fine */
