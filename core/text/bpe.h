/* bpe.h - byte-level BPE: a splitter cuts words, merges build tokens from their bytes.
 *
 * A byte without a token (some vocabularies lack bytes that UTF-8 never has, or rare control
 * characters) takes its whole character with it: that becomes U+FFFD, or the unknown token where
 * the vocabulary cannot spell U+FFFD either. Thread: any after new. */
#pragma once
#include "text/merge.h"
#include "text/tokenizer.h"

typedef struct qh_bpe qh_bpe;

qh_status qh_bpe_new(qh_bpe **out, const qh_vocab *v, qh_err *err);
void qh_bpe_free(qh_bpe *b);
/* Appends the ids of text, in which no special token is looked for. m is scratch. */
qh_status qh_bpe_encode(qh_bpe *b, const char *text, size_t len, qh_merger *m, qh_tokens *out,
                        qh_err *err);
