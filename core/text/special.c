/* special.c - see special.h
 *
 * The pieces are sorted by their bytes. Following the text byte by byte narrows the range of pieces
 * that begin like it, as a trie would, without nodes: a piece that ends here is the first of its
 * range. */
#include "text/special.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    qh_slice piece; /* the vocabulary's */
    qh_token id;
    bool needs_trust;
} special;

struct qh_specials {
    special *sorted;
    int n;
    int first[257];         /* sorted[first[b] .. first[b + 1]) begin with byte b */
    bool may_begin[2][256]; /* [is_trusted] */
};

static int by_bytes(const void *a, const void *b)
{
    const special *x = a, *y = b;
    size_t n = x->piece.len < y->piece.len ? x->piece.len : y->piece.len;
    int order = memcmp(x->piece.data, y->piece.data, n);
    return order ? order : (x->piece.len > y->piece.len) - (x->piece.len < y->piece.len);
}

static qh_status collect(qh_specials *s, const qh_vocab *v, qh_err *err)
{
    for (qh_token id = 0; id < qh_vocab_len(v); id++) {
        qh_slice p = qh_vocab_piece(v, id);
        if (!qh_vocab_is_special(v, id) || !p.len) continue;
        if (p.len > QH_SPECIAL_MAX_BYTES)
            return qh_fail(err, QH_ELIMIT, "token %d: a special token of %zu bytes, at most %d",
                           (int)id, p.len, QH_SPECIAL_MAX_BYTES);
        s->sorted[s->n++] = (special){p, id, qh_vocab_type(v, id) != QH_TOKEN_USER_DEFINED};
    }
    return QH_OK;
}

static int count_specials(const qh_vocab *v)
{
    int n = 0;
    for (qh_token id = 0; id < qh_vocab_len(v); id++) n += qh_vocab_is_special(v, id);
    return n;
}

static void index_first_bytes(qh_specials *s)
{
    int i = 0;
    for (int b = 0; b < 256; b++) {
        s->first[b] = i;
        for (; i < s->n && (unsigned char)s->sorted[i].piece.data[0] == b; i++) {
            s->may_begin[true][b] = true;
            if (!s->sorted[i].needs_trust) s->may_begin[false][b] = true;
        }
    }
    s->first[256] = i;
}

qh_status qh_specials_new(qh_specials **out, const qh_vocab *v, qh_err *err)
{
    *out = NULL;
    qh_specials *s = qh_new0(qh_specials);
    int n = count_specials(v);
    s->sorted = qh_try_alloc0((size_t)n, sizeof *s->sorted);
    qh_status st = s->sorted ? collect(s, v, err) : qh_fail(err, QH_ENOMEM, "%d special tokens", n);
    if (st) {
        qh_specials_free(s);
        return st;
    }
    qsort(s->sorted, (size_t)s->n, sizeof *s->sorted, by_bytes);
    index_first_bytes(s);
    *out = s;
    return QH_OK;
}

void qh_specials_free(qh_specials *s)
{
    if (!s) return;
    qh_free(s->sorted);
    qh_free(s);
}

size_t qh_specials_skip(const qh_specials *s, const char *text, size_t from, size_t to,
                        bool is_trusted)
{
    const bool *may_begin = s->may_begin[is_trusted];
    while (from < to && !may_begin[(unsigned char)text[from]]) from++;
    return from;
}

/* First of sorted[lo .. hi) whose byte at depth is at least b; all are longer than depth. */
static int lower_bound(const qh_specials *s, int lo, int hi, size_t depth, int b)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((unsigned char)s->sorted[mid].piece.data[depth] < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

qh_token qh_specials_match(const qh_specials *s, const char *text, size_t at, size_t len,
                           size_t trusted_end, size_t *hit_len)
{
    qh_token best = QH_NO_TOKEN;
    unsigned char b = (unsigned char)text[at];
    int lo = s->first[b], hi = s->first[b + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        /* All of sorted[lo .. hi) begin with the depth bytes at text[at]. */
        if (s->sorted[lo].piece.len == depth) {
            if (!s->sorted[lo].needs_trust || at + depth <= trusted_end) {
                best = s->sorted[lo].id;
                *hit_len = depth;
            }
            lo++;
        }
        if (at + depth == len) break;
        b = (unsigned char)text[at + depth];
        lo = lower_bound(s, lo, hi, depth, b);
        hi = lower_bound(s, lo, hi, depth, b + 1);
    }
    return best;
}
