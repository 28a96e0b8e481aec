/* tokenizer.h - text to token ids and back, for byte-level BPE and SentencePiece BPE.
 *
 * Text is UTF-8; invalid bytes are tokenized as bytes, so that decode(encode(x)) == x for any bytes.
 * Immutable after qh_tokenizer_new: any thread may encode at the same time. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

typedef struct qh_tokenizer qh_tokenizer;

/* Keeps v (borrowed; must outlive it). QH_EUNSUPPORTED names an unknown pre-tokenizer and lists the
 * known ones. */
qh_status qh_tokenizer_new(qh_tokenizer **out, const qh_vocab *v, qh_err *err);
void      qh_tokenizer_free(qh_tokenizer *t);
const qh_vocab *qh_tokenizer_vocab(const qh_tokenizer *t);

typedef struct {                    /* growing list of ids; a zeroed one is empty */
    qh_token *ids;
    int len, cap;
} qh_tokens;
void qh_tokens_deinit(qh_tokens *t);
qh_status qh_tokens_append(qh_tokens *t, const qh_token *ids, int n); /* QH_ENOMEM */

enum {
    QH_ENCODE_ADD_SPECIAL = 1,      /* bos/eos as the model asks */
    QH_ENCODE_PARSE_SPECIAL = 2     /* "<|im_end|>" in the text becomes the control token */
};
/* Append the ids of text to out. A conversation is encoded segment by segment: template text with
 * PARSE_SPECIAL, user text without. QH_ENOMEM, QH_ELIMIT (text over 1 GiB). */
qh_status qh_tokenizer_encode(const qh_tokenizer *t, const char *text, size_t len, int flags,
                              qh_tokens *out, qh_err *err);

/* One piece of a prompt: text that may hold special tokens, or text that may not. */
typedef struct {
    const char *text;
    size_t len;
    bool is_special;                /* parse special tokens inside */
} qh_segment;
/* Neighbouring segments are joined before splitting wherever no special token stands between them,
 * so that the ids are those of the whole text, with only the marked parts parsed for specials. */
qh_status qh_tokenizer_encode_segments(const qh_tokenizer *t, const qh_segment *segs, int n_segs,
                                       bool add_special, qh_tokens *out, qh_err *err);
