/* spm.c - see spm.h
 *
 * SentencePiece merges over the whole text. No merge crosses a place where a space follows another
 * character when no piece has a space there; that is so in vocabularies trained with the usual
 * split_by_whitespace, is checked once, and lets the text be merged word by word. */
#include "text/spm.h"
#include "base/mem.h"
#include "text/utf8.h"
#include <stdlib.h>
#include <string.h>

struct qh_spm {
    const qh_vocab *vocab;
    int32_t *rank;          /* [n_tokens] 0 for the best score; equal scores share one */
    qh_token byte_ids[256]; /* QH_NO_TOKEN: no byte token */
    qh_token unk;
    qh_wholes wholes;
    bool splits_at_spaces;
};

/* ---- construction -------------------------------------------------------------------------- */

typedef struct {
    float score;
    qh_token id;
} scored;

static int by_falling_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

static qh_status rank_scores(qh_spm *s, qh_err *err)
{
    int n = qh_vocab_len(s->vocab);
    scored *sorted = qh_try_alloc0((size_t)n, sizeof *sorted);
    s->rank = qh_try_alloc0((size_t)n, sizeof *s->rank);
    if (!sorted || !s->rank) {
        qh_free(sorted);
        return qh_fail(err, QH_ENOMEM, "tokenizer: %d tokens", n);
    }
    for (int i = 0; i < n; i++) sorted[i] = (scored){qh_vocab_score(s->vocab, i), i};
    qsort(sorted, (size_t)n, sizeof *sorted, by_falling_score);
    for (int i = 0, rank = 0; i < n; i++) {
        if (i && sorted[i].score < sorted[i - 1].score) rank = i;
        s->rank[sorted[i].id] = rank;
    }
    qh_free(sorted);
    return QH_OK;
}

static qh_status find_bytes(qh_spm *s, qh_err *err)
{
    for (int b = 0; b < 256; b++) s->byte_ids[b] = QH_NO_TOKEN;
    for (qh_token id = 0; id < qh_vocab_len(s->vocab); id++)
        if (qh_vocab_type(s->vocab, id) == QH_TOKEN_BYTE)
            s->byte_ids[(unsigned char)qh_vocab_bytes(s->vocab, id).data[0]] = id;
    s->unk = qh_vocab_unk(s->vocab);
    for (int b = 0; s->unk < 0 && b < 256; b++)
        if (s->byte_ids[b] < 0)
            return qh_fail(err, QH_EFORMAT,
                           "tokenizer: the vocabulary has neither a byte token <0x%02X> nor "
                           "an unknown token",
                           (unsigned)b);
    return QH_OK;
}

static bool has_inner_space(qh_slice text)
{
    for (size_t i = 1; i < text.len; i++)
        if (text.data[i] == ' ' && text.data[i - 1] != ' ') return true;
    return false;
}

static bool no_piece_crosses_a_space(const qh_vocab *v)
{
    for (qh_token id = 0; id < qh_vocab_len(v); id++)
        if (qh_vocab_type(v, id) == QH_TOKEN_NORMAL && has_inner_space(qh_vocab_bytes(v, id)))
            return false;
    return true;
}

qh_status qh_spm_new(qh_spm **out, const qh_vocab *v, qh_err *err)
{
    *out = NULL;
    qh_spm *s = qh_new0(qh_spm);
    s->vocab = v;
    s->splits_at_spaces = no_piece_crosses_a_space(v);
    qh_status st;
    if ((st = qh_wholes_init(&s->wholes, qh_vocab_len(v))))
        qh_fail(err, st, "tokenizer: %d tokens", qh_vocab_len(v));
    if (st || (st = rank_scores(s, err)) || (st = find_bytes(s, err))) {
        qh_spm_free(s);
        return st;
    }
    *out = s;
    return QH_OK;
}

void qh_spm_free(qh_spm *s)
{
    if (!s) return;
    qh_free(s->rank);
    qh_wholes_deinit(&s->wholes);
    qh_free(s);
}

/* ---- encoding ------------------------------------------------------------------------------ */

typedef struct {
    const qh_spm *s;
    const char *word;
} word_ctx;

static qh_pair find_pair(const void *ctx, const qh_symbol *a, const qh_symbol *b)
{
    const word_ctx *w = ctx;
    qh_token id = qh_vocab_find_text(w->s->vocab, w->word + a->start, a->len + b->len);
    return id >= 0 ? (qh_pair){w->s->rank[id], id} : (qh_pair){-1, QH_NO_TOKEN};
}

static void fill_chars(const qh_spm *s, const char *word, size_t len, qh_merger *m)
{
    m->n = 0;
    for (size_t i = 0, n; i < len; i += n) {
        int c_len = qh_utf8_len(word + i, len - i);
        n = c_len ? (size_t)c_len : 1;
        qh_token id = c_len ? qh_vocab_find_text(s->vocab, word + i, n) : QH_NO_TOKEN;
        m->syms[m->n++] = (qh_symbol){(uint32_t)i, (uint32_t)n, id};
    }
}

static qh_status append_bytes(const qh_spm *s, const char *bytes, size_t len, qh_tokens *out)
{
    qh_token ids[4]; /* only single characters are without a token */
    qh_assert(len <= sizeof ids / sizeof *ids);
    for (size_t i = 0; i < len; i++) {
        ids[i] = s->byte_ids[(unsigned char)bytes[i]];
        if (ids[i] < 0) return qh_tokens_append(out, &s->unk, 1);
    }
    return qh_tokens_append(out, ids, (int)len);
}

static qh_status merge_word(const qh_spm *s, const char *word, size_t len, qh_merger *m)
{
    qh_status st = qh_merger_reserve(m, len);
    if (st) return st;
    fill_chars(s, word, len, m);
    return qh_merger_run(m, find_pair, &(word_ctx){s, word});
}

static qh_status append_symbols(const qh_spm *s, const char *word, const qh_merger *m,
                                qh_tokens *out)
{
    qh_status st = QH_OK;
    for (int i = 0; !st && i < m->n; i++) {
        const qh_symbol *y = &m->syms[i];
        st = y->id >= 0 ? qh_tokens_append(out, &y->id, 1)
                        : append_bytes(s, word + y->start, y->len, out);
    }
    return st;
}

static qh_status encode_word(qh_spm *s, const char *word, size_t len, qh_merger *m, qh_tokens *out)
{
    qh_token whole = qh_vocab_find_text(s->vocab, word, len);
    qh_whole met = whole >= 0 ? qh_wholes_get(&s->wholes, whole) : QH_WHOLE_NO;
    if (met == QH_WHOLE_YES) return qh_tokens_append(out, &whole, 1);
    qh_status st = merge_word(s, word, len, m);
    if (!st && met == QH_WHOLE_UNMET) qh_wholes_learn(&s->wholes, whole, m);
    return st ? st : append_symbols(s, word, m, out);
}

/* Length of the word at text: up to the next space that follows another character. */
static size_t word_len(const char *text, size_t len)
{
    size_t i = 0;
    while (i < len && text[i] == ' ') i++;
    const char *space = i < len ? memchr(text + i, ' ', len - i) : NULL;
    return space ? (size_t)(space - text) : len;
}

qh_status qh_spm_encode(qh_spm *s, const char *text, size_t len, qh_merger *m, qh_tokens *out,
                        qh_err *err)
{
    for (size_t at = 0, n; at < len; at += n) {
        n = s->splits_at_spaces ? word_len(text + at, len - at) : len;
        qh_status st = encode_word(s, text + at, n, m, out);
        if (st)
            return qh_fail(err, st, "tokenizer: a word of %zu bytes, %d tokens so far", n,
                           out->len);
    }
    return QH_OK;
}
