/* merge.c - see merge.h */
#include "text/merge.h"
#include "base/mem.h"
#include <string.h>

enum { SHORT_WORD = 32 }; /* symbols; beyond, the heap is faster */

void qh_merger_deinit(qh_merger *m)
{
    qh_free(m->syms);
    *m = (qh_merger){0};
}

qh_status qh_merger_reserve(qh_merger *m, size_t n)
{
    if (n <= (size_t)m->cap) return QH_OK;
    if (n > INT32_MAX) return QH_ELIMIT;
    size_t cap = n < 256 ? 256 : n + n / 2 > INT32_MAX ? INT32_MAX : n + n / 2;
    qh_symbol *syms = qh_try_realloc(m->syms, cap, sizeof *syms);
    if (!syms) return QH_ENOMEM;
    m->syms = syms;
    m->cap = (int)cap;
    return QH_OK;
}

/* ---- short words: ranks of all neighbours in an array, scanned for the minimum ------------- */

static void merge_short(qh_merger *m, qh_pair_fn find, const void *ctx)
{
    qh_symbol *s = m->syms;
    qh_pair pairs[SHORT_WORD]; /* pairs[i]: of s[i] and s[i + 1] */
    int n = m->n;
    for (int i = 0; i + 1 < n; i++) pairs[i] = find(ctx, &s[i], &s[i + 1]);
    for (;;) {
        int best = -1;
        for (int i = 0; i + 1 < n; i++)
            if (pairs[i].rank >= 0 && (best < 0 || pairs[i].rank < pairs[best].rank)) best = i;
        if (best < 0) break;

        s[best].id = pairs[best].id;
        s[best].len += s[best + 1].len;
        n--;
        memmove(&s[best + 1], &s[best + 2], (size_t)(n - best - 1) * sizeof *s);
        if (best + 1 < n) {
            memmove(&pairs[best], &pairs[best + 1], (size_t)(n - best - 1) * sizeof *pairs);
            pairs[best] = find(ctx, &s[best], &s[best + 1]);
        }
        if (best > 0) pairs[best - 1] = find(ctx, &s[best - 1], &s[best]);
    }
    m->n = n;
}

/* ---- long words: a heap of candidate pairs over a linked list of symbols ------------------- */

/* A candidate is stale when its left symbol is gone or the bytes it covered have changed: the span
 * of the pair that begins at a symbol only ever grows, so comparing its length is enough. */
typedef struct {
    uint64_t key;  /* rank << 32 | index of the left symbol: least first */
    uint32_t span; /* bytes of both symbols */
    qh_token id;
} candidate;

typedef struct {
    qh_symbol *syms;
    int32_t *next, *prev; /* -1 at the ends; a symbol merged away has len 0 */
    candidate *heap;
    size_t n_heap, cap_heap;
    qh_pair_fn find;
    const void *ctx;
} long_word;

static void sift_down(candidate *heap, size_t n, size_t i)
{
    candidate c = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1].key < heap[child].key) child++;
        if (heap[child].key >= c.key) break;
        heap[i] = heap[child];
    }
    heap[i] = c;
}

static void sift_up(candidate *heap, size_t i)
{
    candidate c = heap[i];
    for (size_t up; i > 0; i = up) {
        up = (i - 1) / 2;
        if (heap[up].key <= c.key) break;
        heap[i] = heap[up];
    }
    heap[i] = c;
}

static bool heap_has_room(long_word *w, size_t extra)
{
    if (w->n_heap + extra <= w->cap_heap) return true;
    size_t cap = w->cap_heap + w->cap_heap / 2 + 64 + extra;
    candidate *heap = qh_try_realloc(w->heap, cap, sizeof *heap);
    if (!heap) return false;
    w->heap = heap;
    w->cap_heap = cap;
    return true;
}

/* Adds the pair that begins at left, unsorted; false when there is none that merges. */
static bool add_candidate(long_word *w, int32_t left)
{
    int32_t right = left < 0 ? -1 : w->next[left];
    if (right < 0) return false;
    const qh_symbol *a = &w->syms[left], *b = &w->syms[right];
    qh_pair p = w->find(w->ctx, a, b);
    if (p.rank < 0) return false;
    w->heap[w->n_heap++] =
        (candidate){(uint64_t)p.rank << 32 | (uint32_t)left, a->len + b->len, p.id};
    return true;
}

static bool is_stale(const long_word *w, const candidate *c)
{
    int32_t left = (int32_t)(uint32_t)c->key;
    uint32_t len = w->syms[left].len;
    return len == 0 || w->next[left] < 0 || len + w->syms[w->next[left]].len != c->span;
}

static void merge_at(long_word *w, int32_t left, qh_token id)
{
    int32_t right = w->next[left], after = w->next[right];
    w->syms[left].id = id;
    w->syms[left].len += w->syms[right].len;
    w->syms[right].len = 0;
    w->next[left] = after;
    if (after >= 0) w->prev[after] = left;
}

static qh_status run_heap(long_word *w)
{
    for (size_t i = w->n_heap / 2; i-- > 0;) sift_down(w->heap, w->n_heap, i);
    while (w->n_heap) {
        candidate c = w->heap[0];
        w->heap[0] = w->heap[--w->n_heap];
        sift_down(w->heap, w->n_heap, 0);
        if (is_stale(w, &c)) continue;

        int32_t left = (int32_t)(uint32_t)c.key;
        merge_at(w, left, c.id);
        if (!heap_has_room(w, 2)) return QH_ENOMEM;
        if (add_candidate(w, w->prev[left])) sift_up(w->heap, w->n_heap - 1);
        if (add_candidate(w, left)) sift_up(w->heap, w->n_heap - 1);
    }
    return QH_OK;
}

static qh_status merge_long(qh_merger *m, qh_pair_fn find, const void *ctx)
{
    size_t n = (size_t)m->n;
    long_word w = {.syms = m->syms, .find = find, .ctx = ctx};
    w.next = qh_try_alloc0(n, sizeof *w.next);
    w.prev = qh_try_alloc0(n, sizeof *w.prev);
    qh_status st = w.next && w.prev ? QH_OK : QH_ENOMEM;
    if (!st) {
        for (size_t i = 0; i < n; i++) {
            w.next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
            w.prev[i] = (int32_t)i - 1;
        }
        for (size_t i = 0; !st && i < n; i++) {
            st = heap_has_room(&w, 1) ? QH_OK : QH_ENOMEM;
            if (!st) add_candidate(&w, (int32_t)i);
        }
        if (!st) st = run_heap(&w);
    }
    if (!st) {
        m->n = 0;
        for (size_t i = 0; i < n; i++)
            if (w.syms[i].len) m->syms[m->n++] = w.syms[i];
    }
    qh_free(w.next);
    qh_free(w.prev);
    qh_free(w.heap);
    return st;
}

qh_status qh_merger_run(qh_merger *m, qh_pair_fn find, const void *ctx)
{
    if (m->n > SHORT_WORD) return merge_long(m, find, ctx);
    merge_short(m, find, ctx);
    return QH_OK;
}

/* ---- words that are tokens ----------------------------------------------------------------- */

qh_status qh_wholes_init(qh_wholes *w, int n_tokens)
{
    w->of = qh_try_alloc0((size_t)n_tokens, sizeof *w->of);
    return w->of ? QH_OK : QH_ENOMEM;
}

void qh_wholes_deinit(qh_wholes *w)
{
    qh_free((void *)w->of);
    w->of = NULL;
}

qh_whole qh_wholes_get(const qh_wholes *w, qh_token id)
{
    return atomic_load_explicit(&w->of[id], memory_order_relaxed);
}

void qh_wholes_learn(qh_wholes *w, qh_token id, const qh_merger *m)
{
    bool is_itself = m->n == 1 && m->syms[0].id == id;
    atomic_store_explicit(&w->of[id], is_itself ? QH_WHOLE_YES : QH_WHOLE_NO, memory_order_relaxed);
}
