/* prefix.h - pages of past sequences, found again by their tokens.
 *
 * A tree: a node is one page, its children are the pages that followed it, sorted by their tokens.
 * Walking it compares the tokens themselves, so a hit is exact and there is no hash to collide; the
 * same search finds the child that shares the longest beginning, so hits are exact to the token (the
 * page is shared, and copied at the first write like any shared tail). The first level of the tree is
 * the salt: jobs of different salts never meet.
 *
 *   root - salt 0 - [64 tokens] - [64 tokens] - [17 tokens]
 *                 \             \ [64 tokens]
 *                  [9 tokens]
 *
 * Full pages may have children, partial ones (the end of a finished sequence) are leaves. No node's
 * tokens are a beginning of a sibling's.
 * Invariant: a sequence that holds a node's page holds the pages of all its ancestors. So the pages
 * that only the cache holds form whole subtrees, and the oldest idle page is a leaf.
 * Thread: engine thread only. */
#pragma once
#include "engine/kvtable.h"

typedef struct qh_prefix qh_prefix;

qh_status qh_prefix_new(qh_prefix **out, qh_kvpool *pool, qh_err *err);     /* pool is borrowed */
void      qh_prefix_free(qh_prefix *c);             /* gives every page back; NULL is fine */

typedef struct {
    int n_tokens;               /* length of the longest cached beginning */
    int n_pages;                /* pages that hold it */
    qh_page partial;            /* the last of them, when it is used in part; else QH_NO_PAGE */
    int n_idle;                 /* of those, pages that are idle now: using them makes them unevictable */
} qh_prefix_hit;

/* What is cached of tokens[0..n). Changes nothing. */
qh_prefix_hit qh_prefix_find(const qh_prefix *c, uint64_t salt, const qh_token *tokens, int n);
/* The same walk, and t (empty) adopts the pages of at most max_tokens tokens. With what find returned as
 * max_tokens it adopts the very pages that find counted, if nothing was inserted or evicted in between.
 * Returns the tokens adopted. */
int qh_prefix_use(qh_prefix *c, uint64_t salt, const qh_token *tokens, int n, int max_tokens,
                  qh_kvtable *t);

/* Remember the pages of t, which holds tokens[0..t->n_tokens): full pages, and with is_final the partial
 * tail, which nobody may write afterwards but by copy. A full page whose tokens are cached already is
 * exchanged in t for the cached one, so that equal prefixes share memory; when forks of t hold it as well,
 * nothing from there on is remembered before they are gone. Without memory for a node, less is
 * remembered. */
void qh_prefix_insert(qh_prefix *c, uint64_t salt, const qh_token *tokens, qh_kvtable *t,
                      bool is_final);

/* Evict idle pages, oldest first, until n_free pages are free. QH_AGAIN: not enough were idle. */
qh_status qh_prefix_make_room(qh_prefix *c, int n_free);
void      qh_prefix_check(const qh_prefix *c);      /* asserts the invariants; for tests */
