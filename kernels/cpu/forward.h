/* forward.h - one step of a decoder-only transformer on a team of threads.
 *
 * No graph: a layer is five regions between barriers, each doing what needs no other thread:
 *   1  norm, quantize; q, k, v rows
 *   2  bias, q/k norm, rope; keys and values into their pages; attention
 *   3  quantize; o rows, added to the residual
 *   4  norm, quantize; gate and up rows, silu
 *   5  quantize; down rows, added to the residual
 * With one or two rows every thread quantizes them for itself; with more the rows are shared out
 * and a barrier is paid. With one row a sequence the item that sees its last keys also writes them.
 * Matrices are cut by output rows (and tokens): no sum ever crosses a thread.
 * The last layer computes only what the wanted logits need.
 *
 * Thread: one at a time; it becomes thread 0 of the team. Nothing is allocated after new. */
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_model.h"
#include "kernels/cpu/team.h"

typedef struct qh_forward qh_forward;

/* kv: one that the level has (attention.h). */
size_t qh_forward_page_bytes(const qh_desc *d, qh_isa isa, qh_kv_type kv);
/* Everything but weights and pages: activations, logits, what threads keep for themselves. */
size_t qh_forward_scratch_bytes(const qh_desc *d, const qh_weights *w, qh_isa isa,
                                const qh_backend_limits *limits, int n_threads);

/* scratch: scratch_bytes; pages: limits->n_pages * page_bytes; both zeroed and aligned to cache
 * lines. Model, team, scratch and pages are borrowed until free. */
qh_status qh_forward_new(qh_forward **out, const qh_cpu_model *m, const qh_weights *w,
                         qh_team *team, const qh_backend_limits *limits, qh_kv_type kv,
                         uint8_t *scratch, uint8_t *pages, qh_err *err);
void      qh_forward_free(qh_forward *f);           /* NULL is fine */

/* Run a checked step. Returns logits [n_outputs][n_vocab], valid until the next run. */
const float *qh_forward_run(qh_forward *f, const qh_step *step);

/* See qh_cpu_backend_profile. */
void qh_forward_profile(qh_forward *f, qh_cpu_profile *profiles);
