/* seq.h - a sequence: its tokens, and the KV pages of those already computed.
 *
 *   tokens   [ computed: kv.n_tokens | pending ]
 *
 * Appending only adds pending tokens; the scheduler decides when they are computed. A mark is a length;
 * rewinding to it forgets the tokens after it and their keys and values, and leaves no other trace.
 * A fork shares all pages until one side writes. Whoever wants the logits after the last token must
 * have at least one token pending: qh_seq_want_logits.
 * Thread: engine thread only. */
#pragma once
#include "engine/prefix.h"
#include "text/tokenizer.h"

typedef struct {
    qh_tokens tokens;
    qh_kvtable kv;
    uint64_t salt;              /* of the prefix cache */
    int max_tokens;             /* the sequence never grows beyond; at most the engine's context */
} qh_seq;

/* QH_ENOMEM, and then *out is NULL. */
qh_status qh_seq_new(qh_seq **out, qh_kvpool *pool, uint64_t salt, int max_tokens);
void      qh_seq_free(qh_seq *s);               /* gives its pages back; NULL is fine */

qh_status qh_seq_append(qh_seq *s, const qh_token *ids, int n);    /* QH_ENOMEM, QH_ECONTEXT */
qh_status qh_seq_fork(qh_seq **out, const qh_seq *s);              /* QH_ENOMEM */

static inline int qh_seq_mark(const qh_seq *s) { return s->tokens.len; }
void      qh_seq_rewind(qh_seq *s, int mark);   /* mark <= length */
/* Makes the last token pending, if it is not. */
void      qh_seq_want_logits(qh_seq *s);

static inline int qh_seq_n_pending(const qh_seq *s) { return s->tokens.len - s->kv.n_tokens; }

/* Take from the prefix cache, for a sequence without pages: at most n_cached tokens of what it has of the
 * first n. Returns how many that were. */
int       qh_seq_load(qh_seq *s, qh_prefix *c, int n, int n_cached);
/* Leave the computed tokens to the prefix cache (c may be NULL: no cache) and let go of all pages: the
 * whole sequence is pending afterwards. */
void      qh_seq_unload(qh_seq *s, qh_prefix *c);
