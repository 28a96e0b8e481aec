/* tokenizer.h - text to token ids and back, for byte-level BPE and SentencePiece BPE.
 *
 * Text is UTF-8; invalid bytes are tokenized as bytes, so that decode(encode(x)) == x for any bytes
 * that the vocabulary has (bpe.h says what happens to a byte without a token). Linear in the length of
 * the text, n log n in the length of a single word. Immutable after qh_tokenizer_new: any thread may
 * encode at the same time. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

typedef struct qh_tokenizer qh_tokenizer;

/* Keeps v (borrowed; must outlive it). QH_EUNSUPPORTED names an unknown pre-tokenizer and lists the
 * known ones; QH_EFORMAT names a byte that the vocabulary can neither spell nor replace; QH_ELIMIT names
 * an overlong special token. */
qh_status qh_tokenizer_new(qh_tokenizer **out, const qh_vocab *v, qh_err *err);
void      qh_tokenizer_free(qh_tokenizer *t);
const qh_vocab *qh_tokenizer_vocab(const qh_tokenizer *t);

typedef struct {                    /* growing list of ids; a zeroed one is empty */
    qh_token *ids;
    int len, cap;
} qh_tokens;
void qh_tokens_deinit(qh_tokens *t);
qh_status qh_tokens_append(qh_tokens *t, const qh_token *ids, int n); /* QH_ENOMEM, QH_ELIMIT: 2^31 */

enum {
    QH_ENCODE_ADD_SPECIAL = 1,      /* bos/eos as the model asks */
    QH_ENCODE_PARSE_SPECIAL = 2     /* "<|im_end|>" in the text becomes the control token */
};
/* Append the ids of text to out. User-defined tokens are found without PARSE_SPECIAL too: they are
 * ordinary text that has an id of its own. Where several special tokens begin at one place the longest
 * is taken. SPM with add_space_prefix puts a space in front of the text and after every special token.
 * QH_ENOMEM, QH_ELIMIT (text over 1 GiB); then out is as it was before. */
qh_status qh_tokenizer_encode(const qh_tokenizer *t, const char *text, size_t len, int flags,
                              qh_tokens *out, qh_err *err);

/* One piece of a prompt: text that may hold special tokens, or text that may not. */
typedef struct {
    const char *text;
    size_t len;
    bool is_special;                /* parse special tokens inside */
} qh_segment;
/* The ids of the whole text that the segments make together, with this one difference: a control or
 * unknown token is taken only where all its bytes lie in is_special segments (neighbouring ones count
 * as one). So a boundary between segments is no boundary for words, merges or user-defined tokens, an
 * empty segment is nothing, and "<|im_end|>" of which a user wrote any part is ordinary text.
 * A conversation is encoded like this, in one call: template text is_special, user text not.
 * Failures as for qh_tokenizer_encode. */
qh_status qh_tokenizer_encode_segments(const qh_tokenizer *t, const qh_segment *segs, int n_segs,
                                       bool add_special, qh_tokens *out, qh_err *err);
