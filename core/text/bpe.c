/* bpe.c - see bpe.h */
#include "text/bpe.h"
#include "base/hash.h"
#include "base/mem.h"
#include "text/pretok.h"
#include "text/utf8.h"
#include <string.h>

enum { MAX_FALLBACK = 3 };

typedef struct {
    qh_token left, right; /* left QH_NO_TOKEN: free */
    qh_pair pair;
} pair_slot;

struct qh_bpe {
    const qh_vocab *vocab;
    qh_pretok *pretok;
    pair_slot *pairs;
    size_t pair_mask;
    qh_token byte_ids[256];          /* QH_NO_TOKEN: the vocabulary lacks the byte */
    qh_token fallback[MAX_FALLBACK]; /* stands for a character with such a byte */
    int n_fallback;
    qh_wholes wholes;
};

/* ---- construction -------------------------------------------------------------------------- */

static pair_slot *slot_of(const qh_bpe *b, qh_token left, qh_token right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = qh_hash_mix(key) & b->pair_mask;
    while (b->pairs[i].left >= 0 && (b->pairs[i].left != left || b->pairs[i].right != right))
        i = (i + 1) & b->pair_mask;
    return &b->pairs[i];
}

static qh_status index_merges(qh_bpe *b, qh_err *err)
{
    int n;
    const qh_merge *merges = qh_vocab_merges(b->vocab, &n);
    size_t n_slots = 16;
    while (n_slots < 2 * (size_t)n) n_slots *= 2;
    b->pairs = qh_try_alloc0(n_slots, sizeof *b->pairs);
    if (!b->pairs) return qh_fail(err, QH_ENOMEM, "tokenizer: index of %d merges", n);
    b->pair_mask = n_slots - 1;
    for (size_t i = 0; i < n_slots; i++) b->pairs[i].left = QH_NO_TOKEN;
    for (int i = 0; i < n; i++) {
        pair_slot *s = slot_of(b, merges[i].left, merges[i].right);
        if (s->left < 0) *s = (pair_slot){merges[i].left, merges[i].right, {i, merges[i].result}};
    }
    return QH_OK;
}

static qh_status find_bytes(qh_bpe *b, qh_err *err)
{
    int lacking = -1;
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;
        b->byte_ids[c] = qh_vocab_find_text(b->vocab, &byte, 1);
        if (b->byte_ids[c] < 0) lacking = c;
    }
    if (lacking < 0) return QH_OK;

    const unsigned char replacement[] = {0xef, 0xbf, 0xbd};
    for (b->n_fallback = 0; b->n_fallback < MAX_FALLBACK; b->n_fallback++) {
        b->fallback[b->n_fallback] = b->byte_ids[replacement[b->n_fallback]];
        if (b->fallback[b->n_fallback] < 0) break;
    }
    if (b->n_fallback == MAX_FALLBACK) return QH_OK;
    b->n_fallback = 1;
    b->fallback[0] = qh_vocab_unk(b->vocab);
    if (b->fallback[0] >= 0) return QH_OK;
    return qh_fail(
        err, QH_EFORMAT,
        "tokenizer: the vocabulary has no token for byte 0x%02X, and neither U+FFFD nor an "
        "unknown token to put in its place",
        (unsigned)lacking);
}

qh_status qh_bpe_new(qh_bpe **out, const qh_vocab *v, qh_err *err)
{
    *out = NULL;
    qh_bpe *b = qh_new0(qh_bpe);
    b->vocab = v;
    qh_status st = qh_wholes_init(&b->wholes, qh_vocab_len(v));
    if (st) qh_fail(err, st, "tokenizer: %d tokens", qh_vocab_len(v));
    if (st || (st = qh_pretok_new(&b->pretok, qh_vocab_pretokenizer(v), err)) ||
        (st = find_bytes(b, err)) || (st = index_merges(b, err))) {
        qh_bpe_free(b);
        return st;
    }
    *out = b;
    return QH_OK;
}

void qh_bpe_free(qh_bpe *b)
{
    if (!b) return;
    qh_pretok_free(b->pretok);
    qh_free(b->pairs);
    qh_wholes_deinit(&b->wholes);
    qh_free(b);
}

/* ---- encoding ------------------------------------------------------------------------------ */

typedef struct {
    qh_bpe *b;
    qh_merger *m;
    qh_tokens *out;
    qh_err *err;
} job;

static qh_pair find_pair(const void *ctx, const qh_symbol *a, const qh_symbol *c)
{
    const pair_slot *s = slot_of(ctx, a->id, c->id);
    return s->left >= 0 ? s->pair : (qh_pair){-1, QH_NO_TOKEN};
}

static void add_symbol(qh_merger *m, qh_token id)
{
    m->syms[m->n] = (qh_symbol){.start = (uint32_t)m->n, .len = 1, .id = id};
    m->n++;
}

/* One symbol a byte; false when a byte has no token. */
static bool fill_bytes(const qh_bpe *b, const char *word, size_t len, qh_merger *m)
{
    m->n = 0;
    for (size_t i = 0; i < len; i++) {
        qh_token id = b->byte_ids[(unsigned char)word[i]];
        if (id < 0) return false;
        add_symbol(m, id);
    }
    return true;
}

static void fill_with_fallback(const qh_bpe *b, const char *word, size_t len, qh_merger *m)
{
    m->n = 0;
    for (size_t i = 0, n; i < len; i += n) {
        int c_len = qh_utf8_len(word + i, len - i);
        bool is_lacking = false;
        n = c_len ? (size_t)c_len : 1;
        for (size_t k = 0; k < n; k++) is_lacking |= b->byte_ids[(unsigned char)word[i + k]] < 0;
        if (is_lacking)
            for (int k = 0; k < b->n_fallback; k++) add_symbol(m, b->fallback[k]);
        else
            for (size_t k = 0; k < n; k++) add_symbol(m, b->byte_ids[(unsigned char)word[i + k]]);
    }
}

static qh_status merge_word(const job *j, const char *word, size_t len)
{
    qh_status st = qh_merger_reserve(j->m, len);
    if (!st && !fill_bytes(j->b, word, len, j->m)) {
        st = qh_merger_reserve(j->m, len * MAX_FALLBACK);
        if (!st) fill_with_fallback(j->b, word, len, j->m);
    }
    if (!st) st = qh_merger_run(j->m, find_pair, j->b);
    return st ? qh_fail(j->err, st, "tokenizer: merging a word of %zu bytes", len) : QH_OK;
}

static qh_status append(const job *j, const qh_token *ids, int n)
{
    qh_status st = qh_tokens_append(j->out, ids, n);
    return st ? qh_fail(j->err, st, "tokenizer: %d tokens so far", j->out->len) : QH_OK;
}

static qh_status encode_word(void *ctx, const char *word, size_t len)
{
    const job *j = ctx;
    qh_token whole = qh_vocab_find_text(j->b->vocab, word, len);
    qh_whole met = whole >= 0 ? qh_wholes_get(&j->b->wholes, whole) : QH_WHOLE_NO;
    if (met == QH_WHOLE_YES || (whole >= 0 && qh_pretok_ignores_merges(j->b->pretok)))
        return append(j, &whole, 1);
    qh_status st = merge_word(j, word, len);
    if (!st && met == QH_WHOLE_UNMET) qh_wholes_learn(&j->b->wholes, whole, j->m);
    for (int i = 0; !st && i < j->m->n; i++) st = append(j, &j->m->syms[i].id, 1);
    return st;
}

qh_status qh_bpe_encode(qh_bpe *b, const char *text, size_t len, qh_merger *m, qh_tokens *out,
                        qh_err *err)
{
    job j = {b, m, out, err};
    return qh_pretok_split(b->pretok, text, len, encode_word, &j, err);
}
