/* merge.h - greedy pair merging, the loop that byte-level BPE and SentencePiece BPE share.
 *
 * A word starts as symbols; again and again the neighbouring pair with the lowest rank, the
 * leftmost of equals, becomes one symbol, until no pair can merge (Sennrich et al., ACL 2016).
 * Short words scan for the minimum; long ones use a heap: n log n in time, about 50 bytes of memory
 * a symbol. Thread: a merger belongs to one call. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"
#include <stdatomic.h>

typedef struct {
    uint32_t start, len; /* bytes of the word */
    qh_token id;         /* QH_NO_TOKEN: bytes without a token */
} qh_symbol;

typedef struct {
    int32_t rank; /* lower merges first; negative: the pair does not merge */
    qh_token id;  /* of the merged symbol */
} qh_pair;

/* What a and b, which stand side by side, would become. */
typedef qh_pair (*qh_pair_fn)(const void *ctx, const qh_symbol *a, const qh_symbol *b);

typedef struct {
    qh_symbol *syms;
    int n, cap;
} qh_merger; /* a zeroed one is empty */

void qh_merger_deinit(qh_merger *m);
qh_status qh_merger_reserve(qh_merger *m, size_t n); /* QH_ENOMEM, QH_ELIMIT: over INT32_MAX */
/* Merges syms[0 .. n) in place and lowers n. Symbols tile the word. QH_ENOMEM */
qh_status qh_merger_run(qh_merger *m, qh_pair_fn find, const void *ctx);

/* Most words of a text are tokens, so one look-up by their bytes would do, if merging gave that
 * token too. Whether it does is worked out when the word is first met and kept, a byte a token.
 * Threads that race there write the same value. */
typedef enum { QH_WHOLE_UNMET, QH_WHOLE_YES, QH_WHOLE_NO } qh_whole;
typedef struct {
    _Atomic(unsigned char) *of; /* [n_tokens] qh_whole */
} qh_wholes;

qh_status qh_wholes_init(qh_wholes *w, int n_tokens);
void qh_wholes_deinit(qh_wholes *w);
qh_whole qh_wholes_get(const qh_wholes *w, qh_token id);
/* m holds what merging made of the bytes of id. */
void qh_wholes_learn(qh_wholes *w, qh_token id, const qh_merger *m);
