/* pretok.h - cuts text into the words inside which byte-level BPE may merge.
 *
 * Every model family was trained with its own splitter: one or more regular expressions, each
 * applied to what the ones before left, where matches and the gaps between them both become pieces.
 * Names as in GGUF's tokenizer.ggml.pre. Invalid UTF-8 is cut like control characters. Thread: any
 * after new. */
#pragma once
#include "base/err.h"

typedef struct qh_pretok qh_pretok;

/* QH_EUNSUPPORTED names an unknown splitter and lists the known ones. */
qh_status qh_pretok_new(qh_pretok **out, const char *name, qh_err *err);
void qh_pretok_free(qh_pretok *p);
/* A word that is a token of its own is not built from merges ("ignore_merges" of the Llama 3
 * family). */
bool qh_pretok_ignores_merges(const qh_pretok *p);

typedef qh_status (*qh_word_fn)(void *ctx, const char *word, size_t len);
/* Calls fn with each word, in order; together the words are the text. Stops at the first failure.
 */
qh_status qh_pretok_split(const qh_pretok *p, const char *text, size_t len, qh_word_fn fn,
                          void *ctx, qh_err *err);
