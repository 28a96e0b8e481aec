/* kvpool.c - counters per page and one doubly linked list of idle pages; see kvpool.h */
#include "engine/kvpool.h"
#include "base/mem.h"

typedef struct {
    int n_refs;
    bool is_cached;
    qh_page prev, next;         /* in the idle list, or next in the free list */
} page_state;

struct qh_kvpool {
    page_state *pages;
    int n_pages, n_free, n_idle, n_cached;
    qh_page free_top;
    qh_page oldest, newest;     /* ends of the idle list */
};

qh_status qh_kvpool_new(qh_kvpool **out, int n_pages, qh_err *err)
{
    *out = NULL;
    if (n_pages < 1) return qh_fail(err, QH_EINVAL, "n_pages is %d, expected at least 1", n_pages);
    page_state *pages = qh_try_alloc0((size_t)n_pages, sizeof *pages);
    if (!pages) return qh_fail(err, QH_ENOMEM, "no memory for a table of %d KV pages", n_pages);
    qh_kvpool *p = qh_new0(qh_kvpool);
    p->pages = pages;
    p->n_pages = p->n_free = n_pages;
    p->oldest = p->newest = QH_NO_PAGE;
    for (int i = 0; i < n_pages; i++) pages[i].next = i + 1 < n_pages ? i + 1 : QH_NO_PAGE;
    *out = p;
    return QH_OK;
}

void qh_kvpool_free(qh_kvpool *p)
{
    if (!p) return;
    qh_free(p->pages);
    qh_free(p);
}

static page_state *state(const qh_kvpool *p, qh_page page)
{
    qh_assert(page >= 0 && page < p->n_pages);
    return &p->pages[page];
}

static bool idle(const page_state *s) { return s->is_cached && s->n_refs == 1; }

static void idle_append(qh_kvpool *p, qh_page page)
{
    page_state *s = state(p, page);
    s->prev = p->newest;
    s->next = QH_NO_PAGE;
    if (p->newest != QH_NO_PAGE) p->pages[p->newest].next = page;
    else p->oldest = page;
    p->newest = page;
    p->n_idle++;
}

static void idle_remove(qh_kvpool *p, qh_page page)
{
    page_state *s = state(p, page);
    if (s->prev != QH_NO_PAGE) p->pages[s->prev].next = s->next;
    else p->oldest = s->next;
    if (s->next != QH_NO_PAGE) p->pages[s->next].prev = s->prev;
    else p->newest = s->prev;
    p->n_idle--;
}

qh_status qh_kvpool_take(qh_kvpool *p, qh_page *out)
{
    *out = p->free_top;
    if (p->n_free == 0) {
        *out = QH_NO_PAGE;
        return QH_AGAIN;
    }
    page_state *s = state(p, p->free_top);
    p->free_top = s->next;
    p->n_free--;
    s->n_refs = 1;
    return QH_OK;
}

void qh_kvpool_ref(qh_kvpool *p, qh_page page)
{
    page_state *s = state(p, page);
    qh_assert(s->n_refs > 0);
    if (idle(s)) idle_remove(p, page);
    s->n_refs++;
}

void qh_kvpool_unref(qh_kvpool *p, qh_page page)
{
    page_state *s = state(p, page);
    qh_assert(s->n_refs > (s->is_cached ? 1 : 0));
    s->n_refs--;
    if (idle(s)) idle_append(p, page);
    if (s->n_refs > 0) return;
    s->next = p->free_top;
    p->free_top = page;
    p->n_free++;
}

void qh_kvpool_set_cached(qh_kvpool *p, qh_page page, bool is_cached)
{
    page_state *s = state(p, page);
    qh_assert(s->n_refs > 0 && s->is_cached != is_cached);
    if (idle(s)) idle_remove(p, page);
    s->is_cached = is_cached;
    p->n_cached += is_cached ? 1 : -1;
    if (idle(s)) idle_append(p, page);
}

int qh_kvpool_refs(const qh_kvpool *p, qh_page page) { return state(p, page)->n_refs; }
bool qh_kvpool_is_cached(const qh_kvpool *p, qh_page page) { return state(p, page)->is_cached; }
bool qh_kvpool_is_idle(const qh_kvpool *p, qh_page page) { return idle(state(p, page)); }
qh_page qh_kvpool_oldest_idle(const qh_kvpool *p) { return p->oldest; }
int qh_kvpool_n_pages(const qh_kvpool *p) { return p->n_pages; }
int qh_kvpool_n_free(const qh_kvpool *p) { return p->n_free; }
int qh_kvpool_n_idle(const qh_kvpool *p) { return p->n_idle; }
int qh_kvpool_n_cached(const qh_kvpool *p) { return p->n_cached; }

void qh_kvpool_check(const qh_kvpool *p)
{
    int n_free = 0, n_idle = 0, n_cached = 0, n_listed = 0;
    for (int i = 0; i < p->n_pages; i++) {
        const page_state *s = &p->pages[i];
        n_free += s->n_refs == 0;
        n_idle += idle(s);
        n_cached += s->is_cached;
        qh_assert(s->n_refs >= (s->is_cached ? 1 : 0));
    }
    qh_assert(n_free == p->n_free && n_idle == p->n_idle && n_cached == p->n_cached);
    for (qh_page i = p->free_top; n_listed < n_free; i = p->pages[i].next, n_listed++)
        qh_assert(p->pages[i].n_refs == 0);
    n_listed = 0;
    for (qh_page i = p->oldest; i != QH_NO_PAGE; i = p->pages[i].next, n_listed++)
        qh_assert(idle(&p->pages[i]));
    qh_assert(n_listed == n_idle);
}
