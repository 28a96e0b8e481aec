/* Pages, page tables, the prefix cache and sequences, without an engine. */
#include "test.h"
#include "base/rng.h"
#include "engine/seq.h"
#include "fake_backend.h"

enum { N_PAGES = 12, PAGE = QH_PAGE_TOKENS };

typedef struct {
    fake_backend fake;
    qh_kvpool *pool;
    qh_prefix *prefix;
} fixture;

static void open_pool(fixture *f)
{
    const fake_config fc = {.limits = {N_PAGES, 512, 8, 8, 2048}, .n_vocab = 8};
    fake_open(&f->fake, &fc);
    CHECK_OK(qh_kvpool_new(&f->pool, N_PAGES, NULL));
    CHECK_OK(qh_prefix_new(&f->prefix, f->pool, NULL));
}

/* Every page must be free once the cache is gone. */
static void close_pool(fixture *f)
{
    qh_prefix_check(f->prefix);
    qh_prefix_free(f->prefix);
    qh_kvpool_check(f->pool);
    CHECK_INT(qh_kvpool_n_free(f->pool), N_PAGES);
    qh_kvpool_free(f->pool);
    fake_deinit(&f->fake);
}

static qh_seq *seq_of(fixture *f, int n_tokens, int salt)
{
    qh_seq *s;
    CHECK_OK(qh_seq_new(&s, f->pool, (uint64_t)salt, 1000));
    for (qh_token i = 0; i < n_tokens; i++) CHECK_OK(qh_seq_append(s, &i, 1));
    return s;
}

/* Compute the next n pending tokens: write them where the table says. */
static void compute(fixture *f, qh_seq *s, int n)
{
    CHECK_OK(qh_prefix_make_room(f->prefix, qh_kvtable_pages_needed(&s->kv, n)));
    CHECK_OK(qh_kvtable_reserve(&s->kv, &f->fake.base, n, NULL));
    for (int i = 0; i < n; i++, s->kv.n_tokens++)
        f->fake.kv[s->kv.pages[s->kv.n_tokens / PAGE] * PAGE + s->kv.n_tokens % PAGE] =
            s->tokens.ids[s->kv.n_tokens];
}

static void check_content(const fixture *f, const qh_seq *s)
{
    for (int i = 0; i < s->kv.n_tokens; i++)
        CHECK_INT(f->fake.kv[s->kv.pages[i / PAGE] * PAGE + i % PAGE], s->tokens.ids[i]);
}

TEST(a_pool_hands_out_every_page_once_and_takes_it_back)
{
    qh_kvpool *p;
    qh_page page;
    bool seen[5] = {false};
    CHECK_STATUS(qh_kvpool_new(&p, 0, NULL), QH_EINVAL);
    CHECK_OK(qh_kvpool_new(&p, 5, NULL));
    for (int i = 0; i < 5; i++) {
        CHECK_OK(qh_kvpool_take(p, &page));
        CHECK(!seen[page]);
        seen[page] = true;
    }
    CHECK_STATUS(qh_kvpool_take(p, &page), QH_AGAIN);
    CHECK_INT(page, QH_NO_PAGE);
    qh_kvpool_ref(p, 3);
    qh_kvpool_unref(p, 3);
    CHECK_INT(qh_kvpool_n_free(p), 0);
    qh_kvpool_unref(p, 3);
    CHECK_OK(qh_kvpool_take(p, &page));
    CHECK_INT(page, 3);
    qh_kvpool_check(p);
    qh_kvpool_free(p);
}

TEST(idle_pages_stand_in_the_order_in_which_they_became_idle)
{
    qh_kvpool *p;
    qh_page page;
    CHECK_OK(qh_kvpool_new(&p, 3, NULL));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(qh_kvpool_take(p, &page));
        qh_kvpool_ref(p, page);                     /* the cache's reference */
        qh_kvpool_set_cached(p, page, true);
    }
    CHECK_INT(qh_kvpool_oldest_idle(p), QH_NO_PAGE);
    qh_kvpool_unref(p, 1);
    qh_kvpool_unref(p, 0);
    CHECK_INT(qh_kvpool_oldest_idle(p), 1);
    qh_kvpool_ref(p, 1);                            /* in use again, then idle later than 0 */
    qh_kvpool_unref(p, 1);
    CHECK_INT(qh_kvpool_oldest_idle(p), 0);
    CHECK_INT(qh_kvpool_n_idle(p), 2);
    qh_kvpool_check(p);
    qh_kvpool_free(p);
}

TEST(fork_shares_every_page_and_copies_the_partial_one_at_the_first_write)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, PAGE + 3, 0), *b;
    compute(&f, a, PAGE + 3);
    CHECK_OK(qh_seq_fork(&b, a));
    CHECK_INT(qh_kvpool_n_free(f.pool), N_PAGES - 2);
    CHECK_INT(f.fake.n_copies, 0);
    qh_token x = 100, y = 200;
    CHECK_OK(qh_seq_append(a, &x, 1));
    CHECK_OK(qh_seq_append(b, &y, 1));
    CHECK_INT(qh_kvtable_pages_needed(&b->kv, 1), 1);
    compute(&f, b, 1);
    CHECK_INT(f.fake.n_copies, 1);
    CHECK(b->kv.pages[0] == a->kv.pages[0] && b->kv.pages[1] != a->kv.pages[1]);
    CHECK_INT(qh_kvtable_pages_needed(&a->kv, 1), 0);   /* a is alone with its page again */
    compute(&f, a, 1);
    CHECK_INT(f.fake.n_copies, 1);
    check_content(&f, a);
    check_content(&f, b);
    qh_seq_free(a);
    check_content(&f, b);
    qh_seq_free(b);
    close_pool(&f);
}

TEST(forking_a_long_sequence_takes_no_page_and_copies_nothing)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 600, 0), *b[64];
    compute(&f, a, 600);
    int n_free = qh_kvpool_n_free(f.pool);
    for (int i = 0; i < 64; i++) CHECK_OK(qh_seq_fork(&b[i], a));
    CHECK_INT(qh_kvpool_n_free(f.pool), n_free);
    CHECK_INT(f.fake.n_copies, 0);
    for (int i = 0; i < 64; i++) qh_seq_free(b[i]);
    qh_seq_free(a);
    close_pool(&f);
}

TEST(a_rewind_forgets_tokens_and_pages_and_leaves_a_fork_as_it_was)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 2 * PAGE + 10, 0), *b;
    compute(&f, a, 2 * PAGE + 10);
    CHECK_OK(qh_seq_fork(&b, a));
    qh_seq_rewind(a, PAGE + 5);
    CHECK_INT(a->tokens.len, PAGE + 5);
    CHECK_INT(a->kv.n_tokens, PAGE + 5);
    CHECK_INT(a->kv.n_pages, 2);
    for (qh_token t = 500; t < 520; t++) CHECK_OK(qh_seq_append(a, &t, 1));
    compute(&f, a, 20);
    check_content(&f, a);
    check_content(&f, b);
    qh_seq_rewind(a, 0);
    CHECK_INT(a->kv.n_pages, 0);
    qh_seq_free(a);
    qh_seq_free(b);
    close_pool(&f);
}

TEST(wanting_logits_makes_the_last_token_pending_once)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, PAGE, 0);
    compute(&f, a, PAGE);
    qh_seq_want_logits(a);
    CHECK_INT(qh_seq_n_pending(a), 1);
    qh_seq_want_logits(a);
    CHECK_INT(qh_seq_n_pending(a), 1);
    qh_seq_free(a);
    close_pool(&f);
}

TEST(a_sequence_grows_to_its_bound_and_no_further)
{
    fixture f;
    open_pool(&f);
    qh_seq *s;
    qh_token t[3] = {1, 2, 3};
    CHECK_OK(qh_seq_new(&s, f.pool, 0, 4));
    CHECK_OK(qh_seq_append(s, t, 3));
    CHECK_STATUS(qh_seq_append(s, t, 2), QH_ECONTEXT);
    CHECK_OK(qh_seq_append(s, t, 1));
    qh_seq_free(s);
    close_pool(&f);
}

TEST(a_prefix_hit_is_exact_to_the_token)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 2 * PAGE + 20, 0);
    compute(&f, a, 2 * PAGE + 20);
    qh_seq_unload(a, f.prefix);
    CHECK_INT(qh_kvpool_n_idle(f.pool), 3);
    const struct {
        int n_same, n_pages;
    } cases[] = {{1, 1}, {63, 1}, {64, 1}, {65, 2}, {127, 2}, {128, 2}, {130, 3}, {148, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qh_seq *b = seq_of(&f, cases[i].n_same, 0);
        qh_token other = 999;
        for (int k = 0; k < 100; k++) CHECK_OK(qh_seq_append(b, &other, 1));
        qh_prefix_hit hit = qh_prefix_find(f.prefix, 0, b->tokens.ids, b->tokens.len);
        CHECK_INT(hit.n_tokens, cases[i].n_same);
        CHECK_INT(hit.n_pages, cases[i].n_pages);
        CHECK_INT(hit.n_idle, cases[i].n_pages);
        CHECK((hit.partial != QH_NO_PAGE) == (cases[i].n_same % PAGE != 0));
        CHECK_INT(qh_seq_load(b, f.prefix, b->tokens.len, hit.n_tokens), cases[i].n_same);
        compute(&f, b, qh_seq_n_pending(b));
        check_content(&f, b);
        qh_seq_free(b);
        qh_prefix_check(f.prefix);
    }
    qh_seq_load(a, f.prefix, a->tokens.len, a->tokens.len);
    check_content(&f, a);                               /* nobody wrote into it */
    CHECK_INT(a->kv.n_tokens, 2 * PAGE + 20);
    qh_seq_free(a);
    close_pool(&f);
}

TEST(salts_do_not_meet)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 100, 1), *b = seq_of(&f, 100, 2), *c = seq_of(&f, 100, 1);
    compute(&f, a, 100);
    qh_seq_unload(a, f.prefix);
    CHECK_INT(qh_seq_load(b, f.prefix, 100, 100), 0);
    CHECK_INT(qh_seq_load(c, f.prefix, 100, 100), 100);
    qh_seq_free(a);
    qh_seq_free(b);
    qh_seq_free(c);
    close_pool(&f);
}

TEST(equal_prefixes_computed_twice_end_up_on_the_same_pages)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 3 * PAGE, 0), *b = seq_of(&f, 3 * PAGE, 0);
    compute(&f, a, 3 * PAGE);
    compute(&f, b, 3 * PAGE);
    CHECK_INT(qh_kvpool_n_free(f.pool), N_PAGES - 6);
    qh_prefix_insert(f.prefix, 0, a->tokens.ids, &a->kv, false);
    qh_prefix_insert(f.prefix, 0, b->tokens.ids, &b->kv, false);
    CHECK_INT(qh_kvpool_n_free(f.pool), N_PAGES - 3);
    for (int i = 0; i < 3; i++) CHECK_INT(a->kv.pages[i], b->kv.pages[i]);
    qh_seq_free(a);
    qh_seq_free(b);
    close_pool(&f);
}

TEST(a_longer_end_replaces_the_shorter_one_it_continues)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 10, 0), *b = seq_of(&f, 30, 0), *c = seq_of(&f, 20, 0);
    compute(&f, a, 10);
    qh_seq_unload(a, f.prefix);
    compute(&f, b, 30);
    qh_seq_unload(b, f.prefix);
    CHECK_INT(qh_kvpool_n_cached(f.pool), 1);
    compute(&f, c, 20);
    qh_seq_unload(c, f.prefix);                         /* a beginning of what is there: not kept */
    CHECK_INT(qh_kvpool_n_cached(f.pool), 1);
    CHECK_INT(qh_prefix_find(f.prefix, 0, b->tokens.ids, 30).n_tokens, 30);
    qh_seq_free(a);
    qh_seq_free(b);
    qh_seq_free(c);
    close_pool(&f);
}

TEST(eviction_takes_the_oldest_leaf_and_never_a_page_in_use)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 3 * PAGE, 0), *b = seq_of(&f, PAGE + 1, 0);
    compute(&f, a, 3 * PAGE);
    qh_seq_unload(a, f.prefix);
    CHECK_INT(qh_seq_load(b, f.prefix, PAGE + 1, PAGE), PAGE);      /* holds the first page */
    CHECK_OK(qh_prefix_make_room(f.prefix, N_PAGES - 2));
    CHECK_INT(qh_prefix_find(f.prefix, 0, a->tokens.ids, 3 * PAGE).n_tokens, 2 * PAGE);
    CHECK_STATUS(qh_prefix_make_room(f.prefix, N_PAGES), QH_AGAIN);
    CHECK_INT(qh_prefix_find(f.prefix, 0, a->tokens.ids, 3 * PAGE).n_tokens, PAGE);
    check_content(&f, b);
    qh_seq_free(a);
    qh_seq_free(b);
    close_pool(&f);
}

TEST(forks_of_a_prefix_that_was_cached_meanwhile_keep_the_tree_whole)
{
    fixture f;
    open_pool(&f);
    qh_seq *a = seq_of(&f, 2 * PAGE, 0), *b, *other = seq_of(&f, PAGE, 0);
    compute(&f, a, 2 * PAGE);
    CHECK_OK(qh_seq_fork(&b, a));
    compute(&f, other, PAGE);
    qh_seq_unload(other, f.prefix);
    qh_seq_unload(a, f.prefix);                         /* b still holds a's own first page */
    qh_prefix_check(f.prefix);
    qh_seq_unload(b, f.prefix);
    qh_prefix_check(f.prefix);
    CHECK_INT(qh_prefix_find(f.prefix, 0, b->tokens.ids, 2 * PAGE).n_tokens, 2 * PAGE);
    qh_seq_free(a);
    qh_seq_free(b);
    qh_seq_free(other);
    close_pool(&f);
}

/* Random programs of append, compute, fork, rewind, unload, load on sequences that share prefixes: each
 * sequence's pages always hold exactly its tokens. */
static uint64_t luck;
static int between(int lo, int hi)
{
    return lo + (int)(qh_rng_philox(luck++, 3, 4).v[0] % (uint32_t)(hi - lo + 1));
}

static void random_operation(fixture *f, qh_seq **seqs, int n_seqs)
{
    qh_seq **slot = &seqs[between(0, n_seqs - 1)], *s = *slot;
    if (!s) {
        *slot = seq_of(f, between(1, 150), between(0, 1));
        return;
    }
    switch (between(0, 6)) {
    case 0:
        for (int i = between(1, 40); i > 0; i--) {
            qh_token t = between(0, 2);
            if (qh_seq_append(s, &t, 1)) break;
        }
        break;
    case 1:
    case 2: {
        int n = qh_seq_n_pending(s) ? between(1, qh_seq_n_pending(s)) : 0;
        if (n && !qh_prefix_make_room(f->prefix, qh_kvtable_pages_needed(&s->kv, n)))
            compute(f, s, n);
        break;
    }
    case 3: qh_seq_rewind(s, between(0, s->tokens.len)); break;
    case 4:
        qh_seq_unload(s, f->prefix);
        if (between(0, 1)) {
            qh_prefix_hit hit = qh_prefix_find(f->prefix, s->salt, s->tokens.ids, s->tokens.len);
            CHECK_INT(qh_seq_load(s, f->prefix, s->tokens.len, hit.n_tokens), hit.n_tokens);
        }
        break;
    case 5: {
        qh_seq **to = &seqs[between(0, n_seqs - 1)];
        if (!*to) CHECK_OK(qh_seq_fork(to, s));
        break;
    }
    default:
        qh_prefix_insert(f->prefix, s->salt, s->tokens.ids, &s->kv, false);
        if (between(0, 2)) break;
        qh_seq_free(s);
        *slot = NULL;
    }
}

TEST(random_programs_keep_every_sequence_on_its_own_tokens)
{
    for (int run = 0; run < 300; run++) {
        fixture f;
        qh_seq *seqs[6] = {NULL};
        luck = (uint64_t)run << 32;
        open_pool(&f);
        for (int op = 0; op < 200; op++) {
            random_operation(&f, seqs, 6);
            for (int i = 0; i < 6; i++)
                if (seqs[i]) check_content(&f, seqs[i]);
            qh_kvpool_check(f.pool);
            qh_prefix_check(f.prefix);
        }
        for (int i = 0; i < 6; i++) qh_seq_free(seqs[i]);
        close_pool(&f);
    }
}
TEST_MAIN()
