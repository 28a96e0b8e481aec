/* vocab.h - the token table of a model: bytes, type and score of every id, and the special ids.
 *
 * Built once from a model file by core/model and then immutable; the tokenizer, the detokenizer
 * and the grammar engine read it. Thread: any after qh_vocab_new. */
#pragma once
#include "base/err.h"
#include "base/str.h"

typedef int32_t qh_token;                       /* index into the vocabulary */
enum { QH_NO_TOKEN = -1 };

typedef enum {                                  /* numbers as in GGUF's tokenizer.ggml.token_type */
    QH_TOKEN_NORMAL = 1,
    QH_TOKEN_UNKNOWN = 2,                       /* special, like a control token */
    QH_TOKEN_CONTROL = 3,                       /* special: never produced from user text, not shown */
    QH_TOKEN_USER_DEFINED = 4,                  /* special for parsing, shown as text */
    QH_TOKEN_UNUSED = 5,                        /* a filler id: never encoded, never shown */
    QH_TOKEN_BYTE = 6                           /* SentencePiece byte fallback, "<0x0A>" */
} qh_token_type;

typedef enum { QH_TOKENIZER_BPE, QH_TOKENIZER_SPM } qh_tokenizer_kind;

/* What a model file says. Everything is borrowed for the call. */
typedef struct {
    qh_tokenizer_kind kind;
    const char *pretokenizer;                   /* BPE: "gpt-2", "smollm", "llama-bpe", "qwen2", ... */
    int n_tokens;
    const qh_slice *pieces;                     /* [n_tokens] as stored: byte-level BPE in its printable
                                                   alphabet, SentencePiece with U+2581 for space */
    const float *scores;                        /* [n_tokens] SPM only, else NULL */
    const int32_t *types;                       /* [n_tokens] or NULL: all normal; 0 is normal too */
    int n_merges;
    const qh_slice *merges;                     /* BPE: "left right", best first */
    qh_token bos, eos, eot, unk, pad;           /* QH_NO_TOKEN when absent */
    bool add_bos, add_eos;                      /* by default, when add_special is asked for */
    bool add_space_prefix;                      /* SPM: a space goes in front of the text */
    const qh_token *stops;                      /* further end-of-generation ids; may be NULL */
    int n_stops;
} qh_vocab_spec;

typedef struct qh_vocab qh_vocab;

typedef struct {                                /* left and right, side by side, become result */
    qh_token left, right, result;
} qh_merge;

/* QH_EFORMAT names the id or key that is wrong (id out of range, duplicate piece, empty merge ...);
 * QH_ELIMIT: more than 4 GiB of pieces. Empty pieces are accepted: nothing encodes to them. A merge
 * that would make a control token is left out, so that no text becomes one by merging. */
qh_status qh_vocab_new(qh_vocab **out, const qh_vocab_spec *spec, qh_err *err);
void      qh_vocab_free(qh_vocab *v);           /* NULL is fine */

int           qh_vocab_len(const qh_vocab *v);
qh_tokenizer_kind qh_vocab_kind(const qh_vocab *v);
qh_token_type qh_vocab_type(const qh_vocab *v, qh_token id);
/* The bytes that the token stands for in text (byte-level alphabet and U+2581 undone, byte tokens
 * as their byte). A control token gives its name, e.g. "<|im_end|>": the caller decides to show it. */
qh_slice      qh_vocab_bytes(const qh_vocab *v, qh_token id);
qh_slice      qh_vocab_piece(const qh_vocab *v, qh_token id);   /* as stored in the file */
/* By stored piece; QH_NO_TOKEN. */
qh_token      qh_vocab_find(const qh_vocab *v, const char *piece, size_t len);
/* The NORMAL token that stands for exactly these bytes of text; QH_NO_TOKEN. */
qh_token      qh_vocab_find_text(const qh_vocab *v, const char *text, size_t len);
float         qh_vocab_score(const qh_vocab *v, qh_token id);   /* SPM; 0 for BPE */
const qh_merge *qh_vocab_merges(const qh_vocab *v, int *n);     /* best first */
const char   *qh_vocab_pretokenizer(const qh_vocab *v);         /* "default" when the file names none */
qh_token      qh_vocab_bos(const qh_vocab *v);
qh_token      qh_vocab_eos(const qh_vocab *v);
qh_token      qh_vocab_eot(const qh_vocab *v);
qh_token      qh_vocab_unk(const qh_vocab *v);
qh_token      qh_vocab_pad(const qh_vocab *v);
bool          qh_vocab_adds_bos(const qh_vocab *v);
bool          qh_vocab_adds_eos(const qh_vocab *v);
bool          qh_vocab_adds_space(const qh_vocab *v);           /* SPM: spec's add_space_prefix */
bool          qh_vocab_is_stop(const qh_vocab *v, qh_token id); /* eos, eot and the further stops */
bool          qh_vocab_is_special(const qh_vocab *v, qh_token id); /* control, unknown or user-defined */
bool          qh_vocab_is_shown(const qh_vocab *v, qh_token id); /* text: not control, unknown, unused */
