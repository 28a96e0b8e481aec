/* seq.c - see seq.h */
#include "engine/seq.h"
#include "base/mem.h"

qh_status qh_seq_new(qh_seq **out, qh_kvpool *pool, uint64_t salt, int max_tokens)
{
    *out = NULL;
    qh_seq *s = qh_try_alloc0(1, sizeof *s);
    if (!s) return QH_ENOMEM;
    s->salt = salt;
    s->max_tokens = max_tokens;
    qh_status st = qh_kvtable_init(&s->kv, pool, max_tokens);
    if (st) qh_seq_free(s);
    else *out = s;
    return st;
}

void qh_seq_free(qh_seq *s)
{
    if (!s) return;
    qh_tokens_deinit(&s->tokens);
    qh_kvtable_deinit(&s->kv);
    qh_free(s);
}

qh_status qh_seq_append(qh_seq *s, const qh_token *ids, int n)
{
    if (n > s->max_tokens - s->tokens.len) return QH_ECONTEXT;
    return qh_tokens_append(&s->tokens, ids, n);
}

qh_status qh_seq_fork(qh_seq **out, const qh_seq *s)
{
    qh_status st = qh_seq_new(out, s->kv.pool, s->salt, s->max_tokens);
    if (st) return st;
    st = qh_tokens_append(&(*out)->tokens, s->tokens.ids, s->tokens.len);
    if (st) {
        qh_seq_free(*out);
        *out = NULL;
        return st;
    }
    qh_kvtable_fork(&(*out)->kv, &s->kv);
    return QH_OK;
}

void qh_seq_rewind(qh_seq *s, int mark)
{
    qh_assert(mark >= 0 && mark <= s->tokens.len);
    s->tokens.len = mark;
    qh_kvtable_truncate(&s->kv, mark);
}

void qh_seq_want_logits(qh_seq *s)
{
    if (s->tokens.len > 0 && qh_seq_n_pending(s) == 0)
        qh_kvtable_truncate(&s->kv, s->tokens.len - 1);
}

int qh_seq_load(qh_seq *s, qh_prefix *c, int n, int n_cached)
{
    qh_assert(s->kv.n_tokens == 0);
    qh_kvtable_truncate(&s->kv, 0);
    return c ? qh_prefix_use(c, s->salt, s->tokens.ids, n, n_cached, &s->kv) : 0;
}

void qh_seq_unload(qh_seq *s, qh_prefix *c)
{
    if (c) qh_prefix_insert(c, s->salt, s->tokens.ids, &s->kv, true);
    qh_kvtable_truncate(&s->kv, 0);
}
