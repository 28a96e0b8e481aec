/* kvtable.h - the page table of one sequence: token i lives in page i / 64, at i % 64.
 *
 * Full pages that others hold as well are never written. A page that is written in part and shared
 * (after a fork, a prefix hit or a rewind) is copied at the first write, and only then.
 *
 *   tokens    0 ........ 63 | 64 ....... 127 | 128 .. 140        n_tokens = 141
 *   pages     [ 7, shared ]   [ 3, shared ]    [ 12, own ]
 *
 * Thread: engine thread only. */
#pragma once
#include "engine/kvpool.h"

typedef struct {
    qh_kvpool *pool;            /* borrowed */
    qh_page *pages;
    int n_pages, cap_pages;
    int n_tokens;               /* keys and values stored; n_pages >= ceil(n_tokens / 64) */
} qh_kvtable;

static inline int qh_pages_for(int n_tokens)
{
    return (n_tokens + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS;
}

/* Room for max_tokens in the list of pages; takes no page. QH_ENOMEM. */
qh_status qh_kvtable_init(qh_kvtable *t, qh_kvpool *pool, int max_tokens);
void      qh_kvtable_deinit(qh_kvtable *t);         /* zeroed is fine */

/* dst, empty, becomes a copy of src that shares every page. */
void      qh_kvtable_fork(qh_kvtable *dst, const qh_kvtable *src);
/* Append a page that somebody else wrote, holding n_tokens more tokens of this sequence. */
void      qh_kvtable_adopt_page(qh_kvtable *t, qh_page page, int n_tokens);
/* Forget tokens from n_tokens on; pages beyond are given back, last first. */
void      qh_kvtable_truncate(qh_kvtable *t, int n_tokens);

/* The shared page that a write at n_tokens would have to copy, or QH_NO_PAGE. */
qh_page   qh_kvtable_shared_tail(const qh_kvtable *t);
/* Pages to take from the pool before n_rows more tokens can be written, the copy included. */
int       qh_kvtable_pages_needed(const qh_kvtable *t, int n_rows);
/* Make n_rows more tokens writable: copy the shared tail, take new pages. Does not change n_tokens.
 * QH_AGAIN: the pool ran out; what was taken stays. Other failures are the backend's. */
qh_status qh_kvtable_reserve(qh_kvtable *t, qh_backend *be, int n_rows, qh_err *err);
/* Pages that would become free or idle if this table let go of them all, as far as it is certain:
 * those that no other sequence holds. */
int       qh_kvtable_pages_released(const qh_kvtable *t);
