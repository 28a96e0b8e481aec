/* backend.h - what an engine asks of the thing that computes: the one header it sees.
 *
 * A backend owns prepared weights, the KV pages and scratch memory. The engine owns which page
 * belongs to whom. A step is described flat: rows (one token each) grouped by sequence; the backend
 * writes each row's keys and values into its sequence's pages, runs the layers, and gives logits
 * for the rows that ask for them.
 *
 * Exactness: with is_exact, the bits of a row's logits depend on its prefix only - not on the other
 * rows of the step, the split into steps, or the number of threads.
 *
 * Thread: all calls from the engine thread; open and close from whoever owns the engine.
 *
 *   rows     | t0 t1 t2 | t3 | t4 t5 |          token[], position[]
 *   seqs     |  seq 0   | s1 |  s2   |          first_row, n_rows, n_past, pages
 */
#pragma once
#include "base/err.h"
#include "model/arch.h"
#include "text/vocab.h"

typedef struct qh_backend qh_backend;

enum { QH_PAGE_TOKENS = 64 };       /* tokens a KV page holds, for every layer */
typedef int32_t qh_page;            /* index into the backend's pages */
enum { QH_NO_PAGE = -1 };

/* Memory, in bytes, computed before anything is allocated. */
typedef struct {
    uint64_t weights_bytes;         /* as prepared, not as stored */
    uint64_t page_bytes;            /* one KV page over all layers */
    uint64_t kv_bytes;              /* n_pages * page_bytes */
    uint64_t scratch_bytes;         /* activations for max_rows rows, logits for max_outputs */
    uint64_t total_bytes;
    uint64_t available_bytes;       /* what the device says is free; 0: unknown */
    bool is_device_memory;          /* a GPU's own, which nobody else is waiting for */
} qh_memory_plan;

typedef struct {
    int n_pages;                    /* KV pages to reserve */
    int max_rows;                   /* rows of one step, over all sequences */
    int max_seqs;                   /* sequences of one step */
    int max_outputs;                /* rows of one step that want logits */
    int max_context;                /* longest sequence, in tokens */
} qh_backend_limits;

typedef struct {
    int first_row, n_rows;          /* in the step's row arrays */
    int n_past;                     /* tokens already in the KV pages; row i has position n_past + i */
    const qh_page *pages;           /* [(n_past + n_rows + 63) / 64], borrowed until wait returns */
} qh_step_seq;

typedef struct {
    int n_rows, n_seqs, n_outputs;
    const qh_token *tokens;         /* [n_rows] */
    const qh_step_seq *seqs;        /* [n_seqs]; a sequence appears once a step */
    const int *output_rows;         /* [n_outputs] ascending rows that want logits */
} qh_step;

typedef struct {
    const char *name;               /* "cpu", "cuda", "scripted", "fake" */
    bool is_exact;
    const qh_vocab *vocab;          /* a backend that brings its own (scripted), else NULL */
    qh_backend_limits limits;       /* as opened: the engine plans its steps within them */
} qh_backend_caps;

/* What a backend implements. Functions that fail leave the backend usable unless they return
 * QH_EDEVICE, after which only close is allowed. */
typedef struct {
    void (*close)(qh_backend *b);
    const qh_backend_caps *(*caps)(const qh_backend *b);
    const qh_memory_plan *(*plan)(const qh_backend *b);
    /* Start one step. QH_EINVAL: over the limits. Arrays of step are borrowed until wait returns. */
    qh_status (*submit)(qh_backend *b, const qh_step *step, qh_err *err);
    /* Wait for the submitted step. *logits: [n_outputs][n_vocab] float, valid until the next submit. */
    qh_status (*wait)(qh_backend *b, const float **logits, qh_err *err);
    /* dst = src for the first n_tokens of a page, all layers; ordered before the next submit. */
    qh_status (*copy_page)(qh_backend *b, qh_page dst, qh_page src, int n_tokens, qh_err *err);
    /* Bytes of a page out to host memory and back (page_bytes each): save, preempt, restore. */
    qh_status (*read_page)(qh_backend *b, void *dst, qh_page src, qh_err *err);
    qh_status (*write_page)(qh_backend *b, qh_page dst, const void *src, qh_err *err);
} qh_backend_ops;

struct qh_backend {                 /* first member of every implementation */
    const qh_backend_ops *ops;
};

static inline void qh_backend_close(qh_backend *b) { if (b) b->ops->close(b); }
