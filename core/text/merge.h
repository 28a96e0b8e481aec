/* merge.h - greedy pair merging, the loop that byte-level BPE and SentencePiece BPE share.
 *
 * A word starts as symbols; again and again the neighbouring pair with the lowest rank, the leftmost
 * of equals, becomes one symbol, until no pair can merge (Sennrich et al., ACL 2016). Short words scan
 * for the minimum; long ones use a heap: n log n in time, about 50 bytes of memory a symbol.
 * Thread: a merger belongs to one call. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

typedef struct {
    uint32_t start, len;            /* bytes of the word */
    qh_token id;                    /* QH_NO_TOKEN: bytes without a token */
} qh_symbol;

typedef struct {
    int32_t rank;                   /* lower merges first; negative: the pair does not merge */
    qh_token id;                    /* of the merged symbol */
} qh_pair;

/* What a and b, which stand side by side, would become. */
typedef qh_pair (*qh_pair_fn)(const void *ctx, const qh_symbol *a, const qh_symbol *b);

typedef struct {
    qh_symbol *syms;
    int n, cap;
} qh_merger;                        /* a zeroed one is empty */

void      qh_merger_deinit(qh_merger *m);
qh_status qh_merger_reserve(qh_merger *m, size_t n);     /* QH_ENOMEM, QH_ELIMIT: over INT32_MAX */
/* Merges syms[0 .. n) in place and lowers n. Symbols tile the word. QH_ENOMEM */
qh_status qh_merger_run(qh_merger *m, qh_pair_fn find, const void *ctx);
