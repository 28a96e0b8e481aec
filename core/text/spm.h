/* spm.h - SentencePiece BPE: characters merge by the score of what they become (Kudo and
 * Richardson, EMNLP 2018). A character without a piece becomes its byte tokens, or the unknown
 * token.
 *
 * A space is kept as a space here; the pieces' U+2581 is undone in the vocabulary. A U+2581 that
 * stands in the text itself goes to byte tokens, so that it comes back as what it was.
 * Thread: any after new. */
#pragma once
#include "text/merge.h"
#include "text/tokenizer.h"

typedef struct qh_spm qh_spm;

qh_status qh_spm_new(qh_spm **out, const qh_vocab *v, qh_err *err);
void qh_spm_free(qh_spm *s);
/* Appends the ids of text, in which no special token is looked for. m is scratch. */
qh_status qh_spm_encode(qh_spm *s, const char *text, size_t len, qh_merger *m, qh_tokens *out,
                        qh_err *err);
