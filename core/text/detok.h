/* detok.h - the streaming detokenizer: ids in, whole UTF-8 characters out.
 *
 * Invariant: the concatenation of what push and finish return equals qh_detok_all of all ids, invalid
 * UTF-8 replaced. A character that is still incomplete is held back; bytes that can never become valid
 * UTF-8 come out as U+FFFD, one for each maximal part of a character (Unicode 15, section 3.9). Control,
 * unknown and unused tokens give no text, but for those in `shown`; an id outside the vocabulary gives U+FFFD.
 * One per sequence, no locks. */
#pragma once
#include "base/str.h"
#include "text/vocab.h"

typedef struct {
    const qh_vocab *vocab;          /* borrowed */
    unsigned char pending[4];       /* start of a character */
    int n_pending;
    const qh_token *shown;          /* borrowed: [n_shown] ids that give their name whatever their type */
    int n_shown;
    bool is_first;                  /* SPM: the space that encoding put in front is dropped */
} qh_detok;

/* strip_first_space: for a text that begins at its first token (matters for SPM models with
 * add_space_prefix; after a special token their space is dropped in any case). */
void qh_detok_init(qh_detok *d, const qh_vocab *v, bool strip_first_space);
void qh_detok_push(qh_detok *d, qh_token id, qh_str *out);      /* appends to out */
void qh_detok_finish(qh_detok *d, qh_str *out);                 /* an incomplete end becomes U+FFFD */

/* The exact bytes of ids, invalid UTF-8 kept, from the first token on: undoes qh_tokenizer_encode.
 * show_special writes control, unknown and unused tokens by name. */
void qh_detok_all(const qh_vocab *v, const qh_token *ids, int n, bool show_special, qh_str *out);
