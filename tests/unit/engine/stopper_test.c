#include "test.h"
#include "base/rng.h"
#include "engine/stopper.h"

static uint64_t luck;
static int between(int lo, int hi)
{
    return lo + (int)(qh_rng_philox(luck++, 5, 6).v[0] % (uint32_t)(hi - lo + 1));
}

/* Push text in pieces of n_each bytes; returns the match, *out what came out, *n_early its length before
 * the end was told. */
static int run(const char *const *stops, int n, bool keep, const char *text, size_t n_each,
               qh_str *out, size_t *n_early)
{
    qh_stop_set set;
    qh_stopper s;
    size_t len = strlen(text);
    int match = -1;
    CHECK_OK(qh_stop_set_init(&set, stops, n, keep));
    CHECK_OK(qh_stopper_init(&s, &set));
    for (size_t i = 0; i < len && match < 0; i += n_each)
        match = qh_stopper_push(&s, text + i, len - i < n_each ? len - i : n_each, out);
    *n_early = out->len;
    if (match < 0) qh_stopper_finish(&s, out);
    qh_stopper_deinit(&s);
    qh_stop_set_deinit(&set);
    return match;
}

static void check(const char *const *stops, int n, const char *text, const char *want,
                  int want_match)
{
    for (size_t n_each = 1; n_each <= strlen(text); n_each++) {
        qh_str out = {0};
        size_t n_early;
        CHECK_INT(run(stops, n, false, text, n_each, &out, &n_early), want_match);
        CHECK_STR(qh_str_z(&out), want);
        qh_str_deinit(&out);
    }
}

TEST(a_stop_string_ends_the_text_before_it_whatever_the_pieces)
{
    check((const char *const[]){"END"}, 1, "say END now", "say ", 0);
    check((const char *const[]){"aab"}, 1, "aaaab!", "aa", 0);
    check((const char *const[]){"abab", "abac"}, 2, "xababac", "x", 0);
    check((const char *const[]){"xyz"}, 1, "xyxyxy", "xyxyxy", -1);
    check((const char *const[]){"bc", "abcd"}, 2, "abcd", "a", 0);          /* ends first */
    check((const char *const[]){"cd", "bcd", "d"}, 3, "abcd", "a", 1);      /* end together: the longest */
    check((const char *const[]){"\xe2\x82\xac"}, 1, "5 \xe2\x82\xac", "5 ", 0);
    check(NULL, 0, "anything", "anything", -1);
}

TEST(a_kept_stop_string_stays_in_the_text_and_what_follows_does_not)
{
    qh_str out = {0};
    size_t n_early;
    CHECK_INT(run((const char *const[]){"\n\n"}, 1, true, "one\n\ntwo", 3, &out, &n_early), 0);
    CHECK_STR(qh_str_z(&out), "one\n\n");
    qh_str_deinit(&out);
}

TEST(only_what_may_begin_a_stop_string_is_held_back)
{
    qh_str out = {0};
    size_t n_early;
    run((const char *const[]){"<|im_end|>", "User:"}, 2, false, "hello Us", 1, &out, &n_early);
    CHECK_INT(n_early, strlen("hello "));
    CHECK_STR(qh_str_z(&out), "hello Us");
    qh_str_deinit(&out);
}

TEST(random_texts_stop_where_a_brute_search_says)
{
    for (int i = 0; i < 3000; i++) {
        char text[41] = {0}, stops[3][7] = {{0}};
        luck = (uint64_t)i << 16;
        int n_text = between(0, 40), n_stops = between(1, 3);
        for (int k = 0; k < n_text; k++) text[k] = (char)('a' + between(0, 1));
        const char *ptrs[3];
        for (int k = 0; k < n_stops; k++) {
            for (int c = between(1, 6); c > 0; c--) stops[k][c - 1] = (char)('a' + between(0, 1));
            ptrs[k] = stops[k];
        }
        int want = -1;
        size_t cut = (size_t)n_text;
        for (int end = 1; end <= n_text && want < 0; end++)
            for (int k = 0; k < n_stops; k++) {
                size_t len = strlen(stops[k]);
                if ((size_t)end >= len && !memcmp(text + end - len, stops[k], len) &&
                    (want < 0 || len > strlen(stops[want])))
                    want = k, cut = (size_t)end - len;
            }
        qh_str out = {0};
        size_t n_early;
        int got = run(ptrs, n_stops, false, text, (size_t)between(1, 5), &out, &n_early);
        CHECK((got < 0) == (want < 0));
        CHECK(got < 0 || strcmp(stops[got], stops[want]) == 0);
        CHECK(out.len == cut && !memcmp(qh_str_z(&out), text, cut));
        qh_str_deinit(&out);
    }
}
TEST_MAIN()
