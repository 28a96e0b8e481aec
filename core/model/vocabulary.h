/* vocabulary.h - the tokenizer keys of a GGUF file, made into a qh_vocab.
 *
 * Defaults for keys that a file leaves out are those of llama.cpp, because files are written to be
 * read by it. Thread: any. */
#pragma once
#include "model/gguf.h"
#include "text/vocab.h"

enum {
    QH_MAX_VOCAB = 1 << 19,             /* tokens */
    QH_MAX_MERGES = 1 << 19
};

/* Messages name file and key. QH_EUNSUPPORTED: a kind of tokenizer that is not implemented. */
qh_status qh_vocabulary_read(qh_vocab **out, const qh_gguf *g, qh_err *err);
