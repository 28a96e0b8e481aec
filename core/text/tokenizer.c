/* tokenizer.c - special tokens are cut out, the text between goes to BPE or SPM; see tokenizer.h */
#include "text/tokenizer.h"
#include "base/mem.h"
#include "text/bpe.h"
#include "text/merge.h"
#include "text/special.h"
#include "text/spm.h"
#include <string.h>

enum { MAX_TEXT_BYTES = 1 << 30, MIN_TOKENS = 64 };

struct qh_tokenizer {
    const qh_vocab *vocab;
    qh_specials *specials;
    qh_bpe *bpe; /* one of the two */
    qh_spm *spm;
};

/* ---- token lists --------------------------------------------------------------------------- */

void qh_tokens_deinit(qh_tokens *t)
{
    qh_free(t->ids);
    *t = (qh_tokens){0};
}

static qh_status grow(qh_tokens *t, int n)
{
    if (n > INT32_MAX - t->len) return QH_ELIMIT;
    int64_t cap = t->cap < MIN_TOKENS ? MIN_TOKENS : 2 * (int64_t)t->cap;
    if (cap < t->len + n) cap = t->len + n;
    if (cap > INT32_MAX) cap = INT32_MAX;
    qh_token *ids = qh_try_realloc(t->ids, (size_t)cap, sizeof *ids);
    if (!ids) return QH_ENOMEM;
    t->ids = ids;
    t->cap = (int)cap;
    return QH_OK;
}

qh_status qh_tokens_append(qh_tokens *t, const qh_token *ids, int n)
{
    if (n <= 0) return QH_OK;
    if (n > t->cap - t->len) {
        qh_status st = grow(t, n);
        if (st) return st;
    }
    memcpy(t->ids + t->len, ids, (size_t)n * sizeof *ids);
    t->len += n;
    return QH_OK;
}

/* ---- construction -------------------------------------------------------------------------- */

qh_status qh_tokenizer_new(qh_tokenizer **out, const qh_vocab *v, qh_err *err)
{
    *out = NULL;
    qh_tokenizer *t = qh_new0(qh_tokenizer);
    t->vocab = v;
    qh_status st = qh_specials_new(&t->specials, v, err);
    if (!st && qh_vocab_kind(v) == QH_TOKENIZER_BPE) st = qh_bpe_new(&t->bpe, v, err);
    if (!st && qh_vocab_kind(v) == QH_TOKENIZER_SPM) st = qh_spm_new(&t->spm, v, err);
    if (st) {
        qh_tokenizer_free(t);
        return st;
    }
    *out = t;
    return QH_OK;
}

void qh_tokenizer_free(qh_tokenizer *t)
{
    if (!t) return;
    qh_specials_free(t->specials);
    qh_bpe_free(t->bpe);
    qh_spm_free(t->spm);
    qh_free(t);
}

const qh_vocab *qh_tokenizer_vocab(const qh_tokenizer *t)
{
    return t->vocab;
}

/* ---- encoding ------------------------------------------------------------------------------ */

typedef struct {
    const qh_tokenizer *t;
    const char *text; /* of all segments */
    size_t len;
    size_t raw_from; /* text[raw_from ..) is not encoded yet */
    qh_merger merger;
    char *spaced; /* SPM: raw text behind its space */
    size_t spaced_cap;
    qh_tokens *out;
    qh_err *err;
} job;

static qh_status append(job *j, qh_token id)
{
    qh_status st = qh_tokens_append(j->out, &id, 1);
    return st ? qh_fail(j->err, st, "tokenizer: %d tokens so far", j->out->len) : QH_OK;
}

static qh_status put_space_in_front(job *j, const char *raw, size_t len)
{
    if (j->spaced_cap < len + 1) {
        char *spaced = qh_try_realloc(j->spaced, len + 1, 1);
        if (!spaced) return qh_fail(j->err, QH_ENOMEM, "tokenizer: a text of %zu bytes", len);
        j->spaced = spaced;
        j->spaced_cap = len + 1;
    }
    j->spaced[0] = ' ';
    memcpy(j->spaced + 1, raw, len);
    return QH_OK;
}

/* Raw text always stands at the very front or behind a special token. */
static qh_status encode_raw(job *j, size_t to)
{
    size_t len = to - j->raw_from;
    if (!len) return QH_OK;
    const char *raw = j->text + j->raw_from;
    if (j->t->bpe) return qh_bpe_encode(j->t->bpe, raw, len, &j->merger, j->out, j->err);
    if (!qh_vocab_adds_space(j->t->vocab))
        return qh_spm_encode(j->t->spm, raw, len, &j->merger, j->out, j->err);
    qh_status st = put_space_in_front(j, raw, len);
    return st ? st : qh_spm_encode(j->t->spm, j->spaced, len + 1, &j->merger, j->out, j->err);
}

/* Looks for special tokens that begin in text[from .. to), a run of one state of trust, and encodes
 * all that comes before the last of them. A user-defined token may reach over the end of the run.
 */
static qh_status encode_run(job *j, size_t from, size_t to, bool is_trusted)
{
    size_t at = from > j->raw_from ? from : j->raw_from;
    while ((at = qh_specials_skip(j->t->specials, j->text, at, to, is_trusted)) < to) {
        size_t hit_len;
        qh_token id =
            qh_specials_match(j->t->specials, j->text, at, j->len, is_trusted ? to : 0, &hit_len);
        if (id < 0) {
            at++;
            continue;
        }
        qh_status st = encode_raw(j, at);
        if (!st) st = append(j, id);
        if (st) return st;
        at = j->raw_from = at + hit_len;
    }
    return QH_OK;
}

static qh_status encode_text(job *j, const qh_segment *segs, int n_segs)
{
    size_t from = 0;
    for (int i = 0; i < n_segs;) {
        bool is_trusted = segs[i].is_special;
        size_t to = from;
        for (; i < n_segs && (segs[i].is_special == is_trusted || !segs[i].len); i++)
            to += segs[i].len;
        qh_status st = encode_run(j, from, to, is_trusted);
        if (st) return st;
        from = to;
    }
    return encode_raw(j, j->len);
}

static qh_status encode_with_ends(job *j, const qh_segment *segs, int n_segs, bool add_special)
{
    const qh_vocab *v = j->t->vocab;
    qh_status st = add_special && qh_vocab_adds_bos(v) ? append(j, qh_vocab_bos(v)) : QH_OK;
    if (!st) st = encode_text(j, segs, n_segs);
    if (!st && add_special && qh_vocab_adds_eos(v)) st = append(j, qh_vocab_eos(v));
    return st;
}

/* Segments side by side in one block, which the caller frees. */
static char *join(const qh_segment *segs, int n_segs, size_t len)
{
    char *text = qh_try_alloc0(len, 1), *at = text;
    for (int i = 0; text && i < n_segs; i++) {
        if (segs[i].len) memcpy(at, segs[i].text, segs[i].len);
        at += segs[i].len;
    }
    return text;
}

qh_status qh_tokenizer_encode_segments(const qh_tokenizer *t, const qh_segment *segs, int n_segs,
                                       bool add_special, qh_tokens *out, qh_err *err)
{
    size_t len = 0;
    for (int i = 0; i < n_segs; i++) {
        if (segs[i].len > MAX_TEXT_BYTES - len)
            return qh_fail(err, QH_ELIMIT, "tokenizer: a text of more than %d bytes",
                           MAX_TEXT_BYTES);
        len += segs[i].len;
    }
    char *joined = n_segs > 1 ? join(segs, n_segs, len) : NULL;
    if (n_segs > 1 && !joined)
        return qh_fail(err, QH_ENOMEM, "tokenizer: a text of %zu bytes", len);

    int len_before = out->len;
    job j = {
        .t = t, .text = n_segs == 1 ? segs[0].text : joined, .len = len, .out = out, .err = err};
    qh_status st = encode_with_ends(&j, segs, n_segs, add_special);
    if (st) out->len = len_before;
    qh_merger_deinit(&j.merger);
    qh_free(j.spaced);
    qh_free(joined);
    return st;
}

qh_status qh_tokenizer_encode(const qh_tokenizer *t, const char *text, size_t len, int flags,
                              qh_tokens *out, qh_err *err)
{
    qh_segment whole = {text, len, flags & QH_ENCODE_PARSE_SPECIAL};
    return qh_tokenizer_encode_segments(t, &whole, 1, flags & QH_ENCODE_ADD_SPECIAL, out, err);
}
