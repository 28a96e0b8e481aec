/* prefix.c - see prefix.h */
#include "engine/prefix.h"
#include "base/mem.h"
#include <string.h>

typedef struct node {
    struct node *parent;
    struct node **children;             /* sorted by tokens */
    int n_children, cap_children;
    qh_page page;                       /* QH_NO_PAGE: the root and the salts */
    int n_tokens;
    qh_token tokens[QH_PAGE_TOKENS];    /* a salt: its two halves */
} node;

enum { SALT_TOKENS = 2 };

struct qh_prefix {
    qh_kvpool *pool;
    node root;
    node **node_of;                     /* [n_pages] the node that holds a cached page */
};

qh_status qh_prefix_new(qh_prefix **out, qh_kvpool *pool, qh_err *err)
{
    *out = NULL;
    int n_pages = qh_kvpool_n_pages(pool);
    node **node_of = qh_try_alloc0((size_t)n_pages, sizeof *node_of);
    if (!node_of)
        return qh_fail(err, QH_ENOMEM, "no memory for a prefix cache of %d pages", n_pages);
    qh_prefix *c = qh_new0(qh_prefix);
    c->pool = pool;
    c->node_of = node_of;
    c->root.page = QH_NO_PAGE;
    *out = c;
    return QH_OK;
}

static void give_page_back(qh_prefix *c, node *n)
{
    if (n->page == QH_NO_PAGE) return;
    c->node_of[n->page] = NULL;
    qh_kvpool_set_cached(c->pool, n->page, false);
    qh_kvpool_unref(c->pool, n->page);
    n->page = QH_NO_PAGE;
}

static void free_subtrees(qh_prefix *c, node *n)
{
    for (int i = 0; i < n->n_children; i++) {
        free_subtrees(c, n->children[i]);
        give_page_back(c, n->children[i]);
        qh_free(n->children[i]);
    }
    qh_free(n->children);
    n->children = NULL;
    n->n_children = 0;
}

void qh_prefix_free(qh_prefix *c)
{
    if (!c) return;
    free_subtrees(c, &c->root);
    qh_free(c->node_of);
    qh_free(c);
}

static int common_len(const qh_token *a, int n_a, const qh_token *b, int n_b)
{
    int n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* Index of the first child that does not sort before tokens[0..n). */
static int lower_bound(const node *parent, const qh_token *tokens, int n)
{
    int lo = 0, hi = parent->n_children;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        const node *m = parent->children[mid];
        int same = common_len(m->tokens, m->n_tokens, tokens, n);
        bool is_before =
            same == m->n_tokens ? same < n : same < n && m->tokens[same] < tokens[same];
        if (is_before) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* The child that shares the longest beginning with tokens[0..n), and how long that is. It stands on
 * one side of where tokens would be inserted. */
static node *best_child(const node *parent, const qh_token *tokens, int n, int *n_same)
{
    node *best = NULL;
    int at = lower_bound(parent, tokens, n);
    *n_same = 0;
    for (int i = at > 0 ? at - 1 : 0; i <= at && i < parent->n_children; i++) {
        node *c = parent->children[i];
        int same = common_len(c->tokens, c->n_tokens, tokens, n);
        if (same > *n_same) best = c, *n_same = same;
    }
    return best;
}

static void split_salt(uint64_t salt, qh_token out[SALT_TOKENS])
{
    out[0] = (qh_token)(uint32_t)salt;
    out[1] = (qh_token)(uint32_t)(salt >> 32);
}

static node *find_salt(const qh_prefix *c, uint64_t salt)
{
    qh_token key[SALT_TOKENS];
    int n_same;
    split_salt(salt, key);
    node *n = best_child(&c->root, key, SALT_TOKENS, &n_same);
    return n_same == SALT_TOKENS ? n : NULL;
}

/* Next step of a walk: the child that continues tokens[at..n), QH_PAGE_TOKENS of them at most. */
static node *next_node(const node *from, const qh_token *tokens, int at, int n, int *n_same)
{
    int n_left = n - at < QH_PAGE_TOKENS ? n - at : QH_PAGE_TOKENS;
    if (n_left <= 0) return NULL;
    return best_child(from, tokens + at, n_left, n_same);
}

qh_prefix_hit qh_prefix_find(const qh_prefix *c, uint64_t salt, const qh_token *tokens, int n)
{
    qh_prefix_hit hit = {.partial = QH_NO_PAGE};
    int n_same = QH_PAGE_TOKENS;
    const node *at = find_salt(c, salt);
    while (at && n_same == QH_PAGE_TOKENS &&
           (at = next_node(at, tokens, hit.n_tokens, n, &n_same))) {
        hit.n_tokens += n_same;
        hit.n_pages++;
        hit.n_idle += qh_kvpool_is_idle(c->pool, at->page);
        if (n_same < QH_PAGE_TOKENS) hit.partial = at->page;
    }
    return hit;
}

int qh_prefix_use(qh_prefix *c, uint64_t salt, const qh_token *tokens, int n, int max_tokens,
                  qh_kvtable *t)
{
    int n_same = QH_PAGE_TOKENS;
    const node *at = find_salt(c, salt);
    while (at && n_same == QH_PAGE_TOKENS && t->n_tokens < max_tokens &&
           (at = next_node(at, tokens, t->n_tokens, n, &n_same))) {
        int n_left = max_tokens - t->n_tokens;
        qh_kvtable_adopt_page(t, at->page, n_same < n_left ? n_same : n_left);
    }
    return t->n_tokens;
}

/* NULL when there is no memory for it. */
static node *insert_child(node *parent, int at, const qh_token *tokens, int n)
{
    if (parent->n_children == parent->cap_children) {
        int cap = parent->cap_children ? 2 * parent->cap_children : 2;
        node **grown = qh_try_realloc(parent->children, (size_t)cap, sizeof *grown);
        if (!grown) return NULL;
        parent->children = grown;
        parent->cap_children = cap;
    }
    node *n_new = qh_try_alloc0(1, sizeof *n_new);
    if (!n_new) return NULL;
    n_new->parent = parent;
    n_new->page = QH_NO_PAGE;
    n_new->n_tokens = n;
    memcpy(n_new->tokens, tokens, sizeof *tokens * (size_t)n);
    node **slot = parent->children + at;
    memmove(slot + 1, slot, sizeof *slot * (size_t)(parent->n_children - at));
    *slot = n_new;
    parent->n_children++;
    return n_new;
}

/* Unhook a leaf, give its page back, and drop its salt when that was the salt's last page. */
static void remove_leaf(qh_prefix *c, node *leaf)
{
    qh_assert(leaf->n_children == 0);
    node *parent = leaf->parent;
    int at = lower_bound(parent, leaf->tokens, leaf->n_tokens);
    qh_assert(parent->children[at] == leaf);
    node **slot = parent->children + at;
    memmove(slot, slot + 1, sizeof *slot * (size_t)(parent->n_children - at - 1));
    parent->n_children--;
    give_page_back(c, leaf);
    qh_free(leaf->children);
    qh_free(leaf);
    if (parent->n_children == 0 && parent->parent == &c->root) remove_leaf(c, parent);
}

static node *find_or_add_salt(qh_prefix *c, uint64_t salt)
{
    qh_token key[SALT_TOKENS];
    split_salt(salt, key);
    node *n = find_salt(c, salt);
    return n ? n
             : insert_child(&c->root, lower_bound(&c->root, key, SALT_TOKENS), key, SALT_TOKENS);
}

static void hold_page(qh_prefix *c, node *n, qh_page page)
{
    n->page = page;
    c->node_of[page] = n;
    qh_kvpool_ref(c->pool, page);
    qh_kvpool_set_cached(c->pool, page, true);
}

/* False when forks hold the page as well: they would go on holding this page's successors without
 * holding the cached page itself, and that the invariant forbids. */
static bool exchange(qh_prefix *c, qh_page *slot, qh_page cached)
{
    if (*slot == cached) return true;
    if (qh_kvpool_refs(c->pool, *slot) > 1) return false;
    qh_kvpool_ref(c->pool, cached);
    qh_kvpool_unref(c->pool, *slot);
    *slot = cached;
    return true;
}

/* The node below parent for the page at *slot with tokens[0..n); NULL ends the insertion. */
static node *insert_page(qh_prefix *c, node *parent, const qh_token *tokens, int n, qh_page *slot)
{
    int n_same;
    node *near = best_child(parent, tokens, n, &n_same);
    bool is_known = near && n_same == n;
    if (is_known && n < QH_PAGE_TOKENS) return NULL;
    if (is_known) return exchange(c, slot, near->page) ? near : NULL;
    qh_assert(!c->node_of[*slot]);
    node *fresh = insert_child(parent, lower_bound(parent, tokens, n), tokens, n);
    if (!fresh) return NULL;
    hold_page(c, fresh, *slot);
    if (near && n_same == near->n_tokens) remove_leaf(c, near);     /* a partial page, continued by this one */
    return fresh;
}

void qh_prefix_insert(qh_prefix *c, uint64_t salt, const qh_token *tokens, qh_kvtable *t,
                      bool is_final)
{
    int n_end = is_final ? t->n_tokens : t->n_tokens / QH_PAGE_TOKENS * QH_PAGE_TOKENS;
    if (n_end == 0) return;
    node *salted = find_or_add_salt(c, salt), *at = salted;
    for (int i = 0; at && i < n_end; i += QH_PAGE_TOKENS) {
        int n = n_end - i < QH_PAGE_TOKENS ? n_end - i : QH_PAGE_TOKENS;
        at = insert_page(c, at, tokens + i, n, &t->pages[i / QH_PAGE_TOKENS]);
    }
    if (salted && salted->n_children == 0) remove_leaf(c, salted);
}

qh_status qh_prefix_make_room(qh_prefix *c, int n_free)
{
    while (qh_kvpool_n_free(c->pool) < n_free) {
        qh_page oldest = qh_kvpool_oldest_idle(c->pool);
        if (oldest == QH_NO_PAGE) return QH_AGAIN;
        remove_leaf(c, c->node_of[oldest]);
    }
    return QH_OK;
}

static int check_subtree(const qh_prefix *c, const node *n)
{
    int n_nodes = 0;
    bool is_salt = n->parent == &c->root;
    for (int i = 0; i < n->n_children; i++) {
        const node *k = n->children[i];
        qh_assert(k->parent == n);
        qh_assert(is_salt || n == &c->root || n->n_tokens == QH_PAGE_TOKENS);
        if (n != &c->root) qh_assert(c->node_of[k->page] == k);
        if (i > 0) {
            const node *left = n->children[i - 1];
            int same = common_len(left->tokens, left->n_tokens, k->tokens, k->n_tokens);
            qh_assert(same < left->n_tokens && same < k->n_tokens);
            qh_assert(left->tokens[same] < k->tokens[same]);
        }
        if (n != &c->root && !is_salt)
            qh_assert(
                qh_kvpool_refs(c->pool, n->page) >= 1 &&
                (!qh_kvpool_is_idle(c->pool, n->page) || qh_kvpool_is_idle(c->pool, k->page)));
        n_nodes += 1 + check_subtree(c, k);
    }
    qh_assert(!is_salt || n->n_children > 0);
    return n_nodes;
}

void qh_prefix_check(const qh_prefix *c)
{
    int n_nodes = check_subtree(c, &c->root) - c->root.n_children;
    qh_assert(n_nodes == qh_kvpool_n_cached(c->pool));
}
