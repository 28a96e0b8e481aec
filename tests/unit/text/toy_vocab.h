/* toy_vocab.h - tests only: small vocabularies made by hand, and random numbers that repeat. */
#pragma once
#include "base/hash.h"
#include "text/vocab.h"

typedef struct {
    const char *piece; /* NULL ends a list */
    qh_token_type type;
    float score; /* SPM */
} toy_token;

/* Byte-level BPE: ids 0 to 255 are the bytes, then the results of merges ("left right" in the
 * printable alphabet) in order, each once, then the specials. bos and eos: the first special, if
 * any. */
qh_vocab *toy_bpe(const char *pretokenizer, const char *const *merges, int n_merges,
                  const toy_token *specials);

/* SPM: id 0 is <unk>, then 256 byte tokens when has_bytes, then tokens. */
qh_vocab *toy_spm(const toy_token *tokens, bool has_bytes, bool add_space);

/* The printable character of a byte, NUL-terminated. */
void toy_letter(int byte, char out[3]);

/* splitmix64; the state may start anywhere. */
static inline uint64_t toy_random(uint64_t *state)
{
    return qh_hash_mix(*state += 0x9e3779b97f4a7c15u);
}
