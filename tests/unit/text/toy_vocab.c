/* toy_vocab.c - see toy_vocab.h */
#include "toy_vocab.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = 4096, MAX_PIECE = 512 };

typedef struct {
    char bytes[MAX_TOKENS][MAX_PIECE];
    qh_slice pieces[MAX_TOKENS];
    int32_t types[MAX_TOKENS];
    float scores[MAX_TOKENS];
    int n;
} draft;

static void add(draft *d, const char *piece, int32_t type, float score)
{
    size_t len = strlen(piece);
    if (d->n == MAX_TOKENS || len >= MAX_PIECE) abort();
    memcpy(d->bytes[d->n], piece, len + 1);
    d->pieces[d->n] = (qh_slice){d->bytes[d->n], len};
    d->types[d->n] = type;
    d->scores[d->n++] = score;
}

static bool has(const draft *d, const char *piece)
{
    for (int i = 0; i < d->n; i++)
        if (!strcmp(d->bytes[i], piece)) return true;
    return false;
}

static qh_vocab *finish(draft *d, qh_vocab_spec *spec)
{
    qh_err err = {0};
    qh_vocab *v;
    spec->n_tokens = d->n;
    spec->pieces = d->pieces;
    spec->types = d->types;
    spec->scores = d->scores;
    spec->eot = spec->pad = QH_NO_TOKEN;
    if (qh_vocab_new(&v, spec, &err)) {
        fprintf(stderr, "toy vocabulary: %s\n", err.msg);
        abort();
    }
    qh_free(d);
    return v;
}

void toy_letter(int byte, char out[3])
{
    bool is_printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    int code = byte;
    if (!is_printable) {
        code = 256;
        for (int b = 0; b < byte; b++)
            code += !((b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae);
    }
    memset(out, 0, 3);
    if (code < 0x80)
        out[0] = (char)code;
    else
        out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 0x3f));
}

qh_vocab *toy_bpe(const char *pretokenizer, const char *const *merges, int n_merges,
                  const toy_token *specials)
{
    draft *d = qh_new0(draft);
    qh_slice *lines = qh_alloc0((size_t)(n_merges ? n_merges : 1) * sizeof *lines);
    for (int b = 0; b < 256; b++) {
        char letter[3];
        toy_letter(b, letter);
        add(d, letter, QH_TOKEN_NORMAL, 0);
    }
    for (int i = 0; i < n_merges; i++) {
        char joined[MAX_PIECE];
        const char *space = strchr(merges[i], ' ');
        snprintf(joined, sizeof joined, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        if (!has(d, joined)) add(d, joined, QH_TOKEN_NORMAL, 0);
        lines[i] = (qh_slice){merges[i], strlen(merges[i])};
    }
    qh_token first = specials && specials->piece ? d->n : QH_NO_TOKEN;
    for (; specials && specials->piece; specials++)
        add(d, specials->piece, (int32_t)specials->type, 0);
    qh_vocab *v = finish(d, &(qh_vocab_spec){.kind = QH_TOKENIZER_BPE,
                                             .pretokenizer = pretokenizer,
                                             .merges = lines,
                                             .n_merges = n_merges,
                                             .bos = first,
                                             .eos = first,
                                             .unk = QH_NO_TOKEN,
                                             .add_bos = first >= 0});
    qh_free(lines);
    return v;
}

qh_vocab *toy_spm(const toy_token *tokens, bool has_bytes, bool add_space)
{
    draft *d = qh_new0(draft);
    add(d, "<unk>", QH_TOKEN_UNKNOWN, 0);
    for (int b = 0; has_bytes && b < 256; b++) {
        char piece[8];
        snprintf(piece, sizeof piece, "<0x%02X>", (unsigned)b);
        add(d, piece, QH_TOKEN_BYTE, 0);
    }
    for (; tokens->piece; tokens++) add(d, tokens->piece, (int32_t)tokens->type, tokens->score);
    return finish(d, &(qh_vocab_spec){.kind = QH_TOKENIZER_SPM,
                                      .bos = QH_NO_TOKEN,
                                      .eos = QH_NO_TOKEN,
                                      .unk = 0,
                                      .add_space_prefix = add_space});
}
