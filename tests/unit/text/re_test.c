/* Regular expressions: what matches where, and that nothing runs away. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "test.h"
#include "text/re.h"
#include <time.h>

static qh_re *re_of(const char *pattern, const char *flags)
{
    qh_re *re;
    qh_err err = {0};
    if (qh_re_new(&re, pattern, strlen(pattern), flags, &err)) fail_msg("%s", err.msg);
    return re;
}

typedef struct {
    qh_status status;
    size_t from, to;
    int n_pieces;
    int64_t longest_us; /* CPU of the longest piece */
} found;

static int64_t cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static found search(qh_re *re, const char *text, size_t len, size_t from, int64_t give_up_us)
{
    qh_re_search s;
    qh_err err = {0};
    found f = {0};
    int64_t end_us = cpu_us() + give_up_us;
    qh_re_begin(&s, re, text, len, from, false);
    do {
        int64_t start_us = cpu_us();
        f.status = qh_re_go_on(&s, &err);
        int64_t took_us = cpu_us() - start_us;
        if (took_us > f.longest_us) f.longest_us = took_us;
        f.n_pieces++;
    } while (f.status == QH_AGAIN && cpu_us() < end_us);
    if (!f.status) f.from = qh_re_spans(re)[0].from, f.to = qh_re_spans(re)[0].to;
    return f;
}

static void check_match(const char *pattern, const char *flags, const char *text, int from, int to)
{
    qh_re *re = re_of(pattern, flags);
    found f = search(re, text, strlen(text), 0, 1000000);
    if (from < 0) {
        CHECK_STATUS(f.status, QH_ENOTFOUND);
    } else {
        CHECK_OK(f.status);
        CHECK_INT(f.from, from);
        CHECK_INT(f.to, to);
    }
    qh_re_free(re);
}

TEST(matches_are_where_perl_has_them)
{
    check_match("b+", "", "abbc", 1, 3);
    check_match("", "", "x", 0, 0);
    check_match("x", "", "abc", -1, 0);
    check_match("B+", "i", "abbc", 1, 3);
    check_match("(?i)B", "", "abb", 1, 2);
    check_match("a(?i)B", "", "xaB", 1, 3);
    check_match("^b", "m", "a\nb", 2, 3);
    check_match("^b", "", "a\nb", -1, 0);
    check_match("a.b", "s", "a\nb", 0, 3);
    check_match("a b # twice", "x", "ab", 0, 2);
    check_match("b", "a", "ab", -1, 0);
    check_match("\\w", "", "\xc3\xa9", -1, 0);
    check_match("\\w", "u", "\xc3\xa9", 0, 2);
    check_match(".", "", "\xc3\xa9", 0, 2);
    check_match("\\u00e9", "e", "a\xc3\xa9", 1, 3);
    check_match("k", "i", "\xe2\x84\xaa", 0, 3); /* the sign of Kelvin is a k */
    check_match("(?<=a)b", "", "cab", 2, 3);
    check_match("a$", "e", "a\n", -1, 0);
    check_match("a$", "", "a\n", 0, 1);
}

TEST(text_that_is_no_utf8_matches_nothing_and_harms_nothing)
{
    check_match("b", "",
                "a\xff\xfe"
                "b",
                3, 4);
    check_match("a.b", "",
                "a\xff"
                "b",
                -1, 0);
    check_match("x", "", "\x80\x80\x80\x80", -1, 0);
    check_match("\\x{e9}", "", "\xc3", -1, 0);
}

TEST(groups_have_numbers_and_names)
{
    qh_re *re = re_of("(?<year>\\d+)-(x)?(\\d+)", "");
    CHECK_INT(qh_re_n_groups(re), 3);
    CHECK_STR(qh_re_group_name(re, 1), "year");
    CHECK(!qh_re_group_name(re, 2));
    CHECK_OK(search(re, "on 2024-02", 10, 0, 1000000).status);
    const qh_re_span *s = qh_re_spans(re);
    CHECK_INT(s[1].from, 3);
    CHECK_INT(s[1].to, 7);
    CHECK(s[2].from == QH_RE_UNSET);
    CHECK_INT(s[3].from, 8);
    qh_re_free(re);
}

TEST(what_is_no_expression_is_refused_with_its_place)
{
    qh_re *re;
    qh_err err = {0};
    CHECK_STATUS(qh_re_new(&re, "ab(", 3, "", &err), QH_EFORMAT);
    CHECK(!re && strstr(err.msg, "\"ab(\", at byte 4: missing closing parenthesis"));
    qh_err_clear(&err);
    CHECK_STATUS(qh_re_new(&re, "a", 1, "iz", &err), QH_EINVAL);
    CHECK(strstr(err.msg, "'z' is no flag"));
    qh_err_clear(&err);
    char *big = qh_alloc0(QH_RE_MAX_PATTERN_BYTES + 2);
    memset(big, 'a', QH_RE_MAX_PATTERN_BYTES + 1);
    CHECK_STATUS(qh_re_new(&re, big, QH_RE_MAX_PATTERN_BYTES + 1, "", &err), QH_ELIMIT);
    qh_err_clear(&err);
    for (int i = 0; i < 200; i++) memcpy(big + 2 * i, "()", 2);
    CHECK_STATUS(qh_re_new(&re, big, 400, "", &err), QH_ELIMIT);
    qh_err_clear(&err);
    CHECK_STATUS(qh_re_new(&re, "((a{1000}){1000}){1000}", 23, "", &err), QH_EFORMAT);
    qh_free(big);
}

/* Texts of so many bytes, longer than one window. */
static char *filled(size_t len, const char *with)
{
    char *s = qh_alloc0(len + 1);
    size_t n = strlen(with);
    for (size_t i = 0; i < len; i++) s[i] = with[i % n];
    return s;
}

TEST(a_match_far_away_is_found_as_if_there_were_no_windows)
{
    static const struct {
        const char *fill, *pattern, *flags;
    } CASES[] = {
        {"a", "b", ""},         {"ab", "b$", ""},  {"xyz", "[^x-z]", ""},     {"B", "b(?<=Bb)", ""},
        {"\xc3\xa9", "b", "i"}, {"\x80", "b", ""}, {"a", "(?:a{1,3}|b)$", ""}};
    enum { LEN = 300000 };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char *text = filled(LEN, CASES[i].fill);
        text[LEN - 1] = 'b';
        qh_re *re = re_of(CASES[i].pattern, CASES[i].flags);
        found f = search(re, text, LEN, 0, 5000000);
        CHECK_OK(f.status);
        CHECK_INT(f.to, LEN);
        qh_re_free(re);
        qh_free(text);
    }
}

TEST(no_piece_holds_the_caller_however_bad_the_pattern)
{
    static const struct {
        const char *fill, *pattern;
    } CASES[] = {{"a", "(a+)+$"},       {"a", "(a|aa)+$"},      {"a", "(a*)*b"},
                 {"a", "(.*a){20}b"},   {"ab", "(?:a|b|ab)*c"}, {"x", "(x+x+)+y"},
                 {"a", "a.*b.*c"},      {"a", "[^x]*y"},        {"a", "(?=(a+))a*b\\1"},
                 {"(", "(\\((?1)*)+x"}, {" ", "\\s+$|\\s+x"},   {"a", "^(?:.?){100}b"}};
    static const size_t LENS[] = {40, 5000, 1 << 20};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        qh_re *re = re_of(CASES[i].pattern, "");
        for (size_t k = 0; k < sizeof LENS / sizeof *LENS; k++) {
            char *text = filled(LENS[k], CASES[i].fill);
            text[LENS[k] - 1] = '!';
            found f = search(re, text, LENS[k], 0, 50000);
            if (f.longest_us > 50000 || f.status == QH_OK)
                print_error("%s on %zu bytes: %s, %d pieces, the longest %lld us\n",
                            CASES[i].pattern, LENS[k], qh_status_name(f.status), f.n_pieces,
                            (long long)f.longest_us);
            CHECK(f.longest_us <= 50000);
            CHECK(f.status != QH_OK);
            qh_free(text);
        }
        qh_re_free(re);
    }
}

TEST_MAIN()
