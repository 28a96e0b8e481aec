/* fake_vocab.h - a small vocabulary of byte-level pieces for engine tests.
 *
 * Ids 0..25 are "a".."z", 26 ".", 27 the newline, 28 and 29 the two bytes of "e acute" apart, 30 "ab",
 * 31 "b.", from 32 on "<n>" spelled with letters, the last one is the end-of-text control token. */
#pragma once
#include "base/mem.h"
#include "text/vocab.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline qh_vocab *fake_vocab(int n_tokens)
{
    qh_slice *pieces = qh_alloc0(sizeof *pieces * (size_t)n_tokens);
    int32_t *types = qh_alloc0(sizeof *types * (size_t)n_tokens);
    char(*text)[16] = qh_alloc0(16 * (size_t)n_tokens);
    for (int i = 0; i < n_tokens; i++) {
        types[i] = QH_TOKEN_NORMAL;
        if (i < 26) snprintf(text[i], 16, "%c", 'a' + i);
        else snprintf(text[i], 16, "%c%c%c", 'q' + i % 7, 'A' + i / 26 % 26, 'A' + i % 26);
    }
    const char *odd[] = {".", "\xc4\x8a" /* U+010A: newline */, "\xc3\x83" /* byte c3 */, "\xc2\xa9" /* byte a9 */, "ab", "b."};
    for (int i = 0; i < 6 && 26 + i < n_tokens - 1; i++) snprintf(text[26 + i], 16, "%s", odd[i]);
    snprintf(text[n_tokens - 1], 16, "<|end|>");
    types[n_tokens - 1] = QH_TOKEN_CONTROL;
    for (int i = 0; i < n_tokens; i++) pieces[i] = (qh_slice){text[i], strlen(text[i])};
    const qh_vocab_spec spec = {
        .kind = QH_TOKENIZER_BPE,
        .pretokenizer = "gpt-2",
        .n_tokens = n_tokens,
        .pieces = pieces,
        .types = types,
        .bos = QH_NO_TOKEN,
        .eos = n_tokens - 1,
        .eot = QH_NO_TOKEN,
        .unk = QH_NO_TOKEN,
        .pad = QH_NO_TOKEN,
    };
    qh_vocab *v;
    qh_err err = {0};
    if (qh_vocab_new(&v, &spec, &err)) fprintf(stderr, "fake vocabulary: %s\n", err.msg), abort();
    qh_free(pieces);
    qh_free(types);
    qh_free(text);
    return v;
}
