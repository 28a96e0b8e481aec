/* kvpool.h - who holds which KV page: reference counts, free pages, idle cached pages.
 *
 * Sequences and the prefix cache hold pages by reference. A page that only the cache holds is idle:
 * it may be evicted. Idle pages stand in the order in which they became idle, so the oldest is the
 * next victim.
 * Invariant: n_free + (pages with at least one reference) == n_pages.
 * Thread: engine thread only, no locks inside. */
#pragma once
#include "base/err.h"
#include "kernels/backend.h"

typedef struct qh_kvpool qh_kvpool;

qh_status qh_kvpool_new(qh_kvpool **out, int n_pages, qh_err *err);
void      qh_kvpool_free(qh_kvpool *p);             /* NULL is fine */

/* One free page with one reference. QH_AGAIN: none is free, so evict or wait. */
qh_status qh_kvpool_take(qh_kvpool *p, qh_page *out);
void      qh_kvpool_ref(qh_kvpool *p, qh_page page);
void      qh_kvpool_unref(qh_kvpool *p, qh_page page);  /* the last reference frees it */

/* Mark a page as held by the prefix cache, which owns one of its references. The cache clears the
 * mark before it gives its reference back. */
void      qh_kvpool_set_cached(qh_kvpool *p, qh_page page, bool is_cached);

int       qh_kvpool_refs(const qh_kvpool *p, qh_page page);
bool      qh_kvpool_is_cached(const qh_kvpool *p, qh_page page);
bool      qh_kvpool_is_idle(const qh_kvpool *p, qh_page page);
qh_page   qh_kvpool_oldest_idle(const qh_kvpool *p);    /* QH_NO_PAGE when there is none */
int       qh_kvpool_n_pages(const qh_kvpool *p);
int       qh_kvpool_n_free(const qh_kvpool *p);
int       qh_kvpool_n_idle(const qh_kvpool *p);
int       qh_kvpool_n_cached(const qh_kvpool *p);

/* Recount everything; asserts the invariants. For tests: O(n_pages). */
void      qh_kvpool_check(const qh_kvpool *p);
