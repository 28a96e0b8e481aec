/* kvtable.c - see kvtable.h */
#include "engine/kvtable.h"
#include "base/mem.h"
#include <string.h>

qh_status qh_kvtable_init(qh_kvtable *t, qh_kvpool *pool, int max_tokens)
{
    *t = (qh_kvtable){.pool = pool, .cap_pages = qh_pages_for(max_tokens)};
    t->pages = qh_try_alloc0((size_t)t->cap_pages, sizeof *t->pages);
    return t->pages ? QH_OK : QH_ENOMEM;
}

void qh_kvtable_deinit(qh_kvtable *t)
{
    if (t->pages) qh_kvtable_truncate(t, 0);
    qh_free(t->pages);
    *t = (qh_kvtable){0};
}

static void push(qh_kvtable *t, qh_page page)
{
    qh_assert(t->n_pages < t->cap_pages);
    t->pages[t->n_pages++] = page;
}

void qh_kvtable_fork(qh_kvtable *dst, const qh_kvtable *src)
{
    qh_assert(dst->n_pages == 0);
    int n_used = qh_pages_for(src->n_tokens);
    for (int i = 0; i < n_used; i++) {
        qh_kvpool_ref(dst->pool, src->pages[i]);
        push(dst, src->pages[i]);
    }
    dst->n_tokens = src->n_tokens;
}

void qh_kvtable_adopt_page(qh_kvtable *t, qh_page page, int n_tokens)
{
    qh_assert(t->n_tokens == t->n_pages * QH_PAGE_TOKENS);
    qh_kvpool_ref(t->pool, page);
    push(t, page);
    t->n_tokens += n_tokens;
}

void qh_kvtable_truncate(qh_kvtable *t, int n_tokens)
{
    int n_keep = qh_pages_for(n_tokens);
    while (t->n_pages > n_keep) qh_kvpool_unref(t->pool, t->pages[--t->n_pages]);
    if (n_tokens < t->n_tokens) t->n_tokens = n_tokens;
}

qh_page qh_kvtable_shared_tail(const qh_kvtable *t)
{
    int at = t->n_tokens / QH_PAGE_TOKENS;
    if (at >= t->n_pages) return QH_NO_PAGE;
    return qh_kvpool_refs(t->pool, t->pages[at]) > 1 ? t->pages[at] : QH_NO_PAGE;
}

int qh_kvtable_pages_needed(const qh_kvtable *t, int n_rows)
{
    if (n_rows == 0) return 0;
    int n_new = qh_pages_for(t->n_tokens + n_rows) - t->n_pages;
    return (n_new > 0 ? n_new : 0) + (qh_kvtable_shared_tail(t) != QH_NO_PAGE);
}

static qh_status copy_tail(qh_kvtable *t, qh_backend *be, qh_err *err)
{
    qh_page *slot = &t->pages[t->n_tokens / QH_PAGE_TOKENS], own;
    qh_status st = qh_kvpool_take(t->pool, &own);
    if (st) return st;
    st = be->ops->copy_page(be, own, *slot, t->n_tokens % QH_PAGE_TOKENS, err);
    if (st) {
        qh_kvpool_unref(t->pool, own);
        return st;
    }
    qh_kvpool_unref(t->pool, *slot);
    *slot = own;
    return QH_OK;
}

qh_status qh_kvtable_reserve(qh_kvtable *t, qh_backend *be, int n_rows, qh_err *err)
{
    if (qh_kvtable_shared_tail(t) != QH_NO_PAGE) {
        qh_status st = copy_tail(t, be, err);
        if (st) return st;
    }
    while (t->n_pages < qh_pages_for(t->n_tokens + n_rows)) {
        qh_page page;
        qh_status st = qh_kvpool_take(t->pool, &page);
        if (st) return st;
        push(t, page);
    }
    return QH_OK;
}

int qh_kvtable_pages_released(const qh_kvtable *t)
{
    int n = 0;
    for (int i = 0; i < t->n_pages; i++)
        n += qh_kvpool_refs(t->pool, t->pages[i]) == 1 + qh_kvpool_is_cached(t->pool, t->pages[i]);
    return n;
}
