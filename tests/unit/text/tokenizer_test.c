#include "test.h"
#include "base/mem.h"
#include "base/str.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "toy_vocab.h"
#include <pthread.h>

enum { MAX_IDS = 4096 };

static qh_tokenizer *tokenizer_of(const qh_vocab *v)
{
    qh_err err = {0};
    qh_tokenizer *t;
    if (qh_tokenizer_new(&t, v, &err)) fail_msg("%s", err.msg);
    return t;
}

static qh_tokens encode(const qh_tokenizer *t, const char *text, size_t len, int flags)
{
    qh_tokens ids = {0};
    CHECK_OK(qh_tokenizer_encode(t, text, len, flags, &ids, NULL));
    return ids;
}

static void check_ids(const qh_tokens *got, const qh_token *want, int n)
{
    if (got->len == n && (n == 0 || !memcmp(got->ids, want, (size_t)n * sizeof *want))) return;
    print_error("want");
    for (int i = 0; i < n; i++) print_error(" %d", (int)want[i]);
    print_error("\ngot ");
    for (int i = 0; i < got->len; i++) print_error(" %d", (int)got->ids[i]);
    print_error("\n");
    fail();
}

#define CHECK_ENCODES(t, text, flags, ...)                                                         \
    do {                                                                                           \
        const qh_token want_[] = {__VA_ARGS__};                                                    \
        qh_tokens got_ = encode(t, text, sizeof text - 1, flags);                                  \
        check_ids(&got_, want_, (int)(sizeof want_ / sizeof *want_));                              \
        qh_tokens_deinit(&got_);                                                                   \
    } while (0)

/* ---- merging: against the definition ------------------------------------------------------- */

typedef struct {
    qh_slice parts[MAX_IDS];
    int n;
} naive_word;

/* Priority of joining two parts: lower first, INT32_MAX when they do not join. */
typedef int32_t (*naive_rank)(const qh_vocab *v, qh_slice a, qh_slice b);

static int32_t rank_by_merges(const qh_vocab *v, qh_slice a, qh_slice b)
{
    int n;
    const qh_merge *m = qh_vocab_merges(v, &n);
    for (int i = 0; i < n; i++) {
        qh_slice l = qh_vocab_bytes(v, m[i].left), r = qh_vocab_bytes(v, m[i].right);
        if (l.len == a.len && r.len == b.len && !memcmp(l.data, a.data, a.len) &&
            !memcmp(r.data, b.data, b.len))
            return i;
    }
    return INT32_MAX;
}

static int32_t rank_by_score(const qh_vocab *v, qh_slice a, qh_slice b)
{
    qh_token id = qh_vocab_find_text(v, a.data, a.len + b.len);  /* neighbours: one slice */
    return id < 0 ? INT32_MAX : -(int32_t)qh_vocab_score(v, id); /* scores here are whole numbers */
}

static void naive_merge(const qh_vocab *v, naive_word *w, naive_rank rank)
{
    for (;;) {
        int best = -1;
        int32_t least = INT32_MAX;
        for (int i = 0; i + 1 < w->n; i++) {
            int32_t r = rank(v, w->parts[i], w->parts[i + 1]);
            if (r < least) least = r, best = i;
        }
        if (best < 0) return;
        w->parts[best].len += w->parts[best + 1].len;
        w->n--;
        for (int i = best + 1; i < w->n; i++) w->parts[i] = w->parts[i + 1];
    }
}

static void check_against_naive(const qh_tokenizer *t, const char *text, size_t len,
                                naive_rank rank)
{
    const qh_vocab *v = qh_tokenizer_vocab(t);
    static naive_word w;
    qh_token want[MAX_IDS];
    w.n = 0;
    for (size_t i = 0; i < len; i++) w.parts[w.n++] = (qh_slice){text + i, 1};
    naive_merge(v, &w, rank);
    for (int i = 0; i < w.n; i++) want[i] = qh_vocab_find_text(v, w.parts[i].data, w.parts[i].len);
    qh_tokens got = encode(t, text, len, 0);
    check_ids(&got, want, w.n);
    qh_tokens_deinit(&got);
}

/* "left right" lines in which earlier results become parts of later ones; parts repeat on purpose.
 */
static void random_merges(uint64_t *state, char (*lines)[256], const char **merges, int n)
{
    char known[64][256] = {"a", "b", "c"};
    int n_known = 3;
    for (int i = 0; i < n; i++) {
        const char *l, *r;
        do {
            l = known[toy_random(state) % (uint64_t)n_known];
            r = known[toy_random(state) % (uint64_t)n_known];
        } while (strlen(l) + strlen(r) > 24);
        snprintf(lines[i], 256, "%s %s", l, r);
        merges[i] = lines[i];
        char joined[256];
        snprintf(joined, sizeof joined, "%s%s", l, r);
        if (n_known < 64) strcpy(known[n_known++], joined);
    }
}

TEST(bpe_merges_like_the_definition_in_short_and_long_words)
{
    uint64_t state = 11;
    for (int round = 0; round < 60; round++) {
        char lines[40][256];
        const char *merges[40];
        random_merges(&state, lines, merges, 40);
        qh_vocab *v = toy_bpe("gpt-2", merges, 40, NULL);
        qh_tokenizer *t = tokenizer_of(v);
        for (int k = 0; k < 60; k++) {
            char text[200];
            size_t len = 1 + toy_random(&state) % (k % 10 ? 40 : sizeof text);
            for (size_t i = 0; i < len; i++) text[i] = (char)('a' + toy_random(&state) % 3);
            check_against_naive(t, text, len, rank_by_merges);
            check_against_naive(t, text, len, rank_by_merges); /* now the word has been met */
        }
        qh_tokenizer_free(t);
        qh_vocab_free(v);
    }
}

static void check_spm_rounds(uint64_t *state, bool crosses_spaces)
{
    char pieces[60][32];
    toy_token tokens[64] = {0};
    int n = 0;
    for (const char *c = "ab\xe2\x96\x81"; n < 3; n++) {
        snprintf(pieces[n], 32, "%.*s", n == 2 ? 3 : 1, c + n);
        tokens[n] = (toy_token){pieces[n], QH_TOKEN_NORMAL, -1000};
    }
    for (int tries = 0; tries < 50; tries++) {
        char *p = pieces[n];
        size_t n_chars = 2 + toy_random(state) % 5, end = 0;
        for (size_t i = 0; i < n_chars; i++) {
            static const char *const chars[] = {"a", "b", "\xe2\x96\x81"};
            const char *c = chars[toy_random(state) % 3];
            memcpy(p + end, c, strlen(c));
            end += strlen(c);
        }
        p[end] = 0;
        bool crosses = false, is_known = false;
        for (char *at = p; (at = strstr(at, "\xe2\x96\x81")); at += 3)
            crosses |= at > p && (at[-1] == 'a' || at[-1] == 'b');
        for (int i = 0; i < n; i++) is_known |= !strcmp(pieces[i], p);
        if (is_known || (crosses && !crosses_spaces)) continue;
        tokens[n++] = (toy_token){p, QH_TOKEN_NORMAL, -(float)(toy_random(state) % 12)}; /* ties */
    }
    qh_vocab *v = toy_spm(tokens, true, false);
    qh_tokenizer *t = tokenizer_of(v);
    for (int k = 0; k < 60; k++) {
        char text[150];
        size_t len = 1 + toy_random(state) % (k % 10 ? 40 : sizeof text);
        for (size_t i = 0; i < len; i++) text[i] = "ab  "[toy_random(state) % 4];
        check_against_naive(t, text, len, rank_by_score);
        check_against_naive(t, text, len, rank_by_score);
    }
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

TEST(spm_merges_like_the_definition_whether_or_not_words_can_be_cut)
{
    uint64_t state = 5;
    for (int round = 0; round < 60; round++) check_spm_rounds(&state, round & 1);
}

TEST(llama_3_takes_a_word_that_is_a_token_before_any_merge)
{
    /* Merges give "ab" + "c"; "abc" is a token that they never reach. */
    static const char *const merges[] = {"a b", "b c", "a bc"};
    enum { AB = 256, BC, ABC };
    qh_vocab *v = toy_bpe("gpt-2", merges, 3, NULL), *v3 = toy_bpe("llama-bpe", merges, 3, NULL);
    qh_tokenizer *t = tokenizer_of(v), *t3 = tokenizer_of(v3);
    CHECK_ENCODES(t, "abc", 0, AB, 'c');
    CHECK_ENCODES(t3, "abc", 0, ABC);
    CHECK_ENCODES(t3, "abca", 0, AB, 'c', 'a');
    qh_tokenizer_free(t);
    qh_tokenizer_free(t3);
    qh_vocab_free(v);
    qh_vocab_free(v3);
}

/* ---- splitters ----------------------------------------------------------------------------- */

/* Words show when every pair of bytes inside a word can merge: then a token is a word. Here a merge
 * of any letter with any other is given by hand, so the texts use few letters. */
static void check_words(const char *pretokenizer, const char *text, const char *want)
{
    static const char *const merges[] = {"\xc4\xa0 a", "\xc4\xa0 1",
                                         "1 1",        "\xc4\xa0 \xc4\xa0",
                                         "! \xc4\x8a", "\xc4\x8a \xc4\x8a",
                                         "' s",        "' S",
                                         "\xc4\xa0 !", "! a",
                                         "11 1",       "! !",
                                         "a a",        "\xc4\xa0 \xc4\x8a",
                                         "! \xc3\xa1", "\xc2\xbf a"};
    qh_vocab *v = toy_bpe(pretokenizer, merges, (int)(sizeof merges / sizeof *merges), NULL);
    qh_tokenizer *t = tokenizer_of(v);
    qh_tokens ids = encode(t, text, strlen(text), 0);
    qh_str got = {0};
    for (int i = 0; i < ids.len; i++) {
        qh_slice s = qh_vocab_bytes(v, ids.ids[i]);
        if (i) qh_str_append_c(&got, '|');
        qh_str_append(&got, s.data, s.len);
    }
    CHECK_STR(qh_str_z(&got), want);
    qh_str_deinit(&got);
    qh_tokens_deinit(&ids);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

TEST(each_family_cuts_words_its_own_way)
{
    check_words("gpt-2", "a 111 a's", "a| 1|11| a|'s"); /* " 111" is one word: " 1" merges first */
    check_words("gpt-2", "a  a", "a| | a");
    check_words("gpt-2", "a'S", "a|'|S");
    check_words("smollm", "a 111", "a| |1|1|1");
    check_words("starcoder", "a  11", "a|  |1|1");
    check_words("refact", "11", "1|1");
    check_words("qwen2", "a 11!\n\n", "a| |1|1|!\n|\n");
    check_words("qwen2", "'S!a", "'S|!a");
    check_words("llama-bpe", "1111", "111|1");
    check_words("llama-bpe", "a  \n\na", "a|  |\n\n|a");
    check_words("gpt-2", "a  \n\na", "a|  |\n|\n|a");
    /* U+017F is an "s" where case does not count; U+180E is no white space. */
    check_words("qwen2",
                "'\xc5\xbf"
                "a",
                "'|\xc5|\xbf|a");
    check_words("gpt-2",
                "'\xc5\xbf"
                "a",
                "'|\xc5|\xbf"
                "a");
    check_words("qwen2", "!\xe1\xa0\x8e", "!\xe1|\xa0|\x8e");
    check_words("falcon", "a!!a", "a|!!|a");
    check_words("deepseek-llm", "a!\na", "a|!|\n|a");
    check_words("default", "a!a 1", "a|!|a| |1");
}

TEST(an_unknown_splitter_is_refused_with_the_known_ones)
{
    qh_vocab *v = toy_bpe("gpt-5", NULL, 0, NULL);
    qh_err err = {0};
    qh_tokenizer *t;
    CHECK_STATUS(qh_tokenizer_new(&t, v, &err), QH_EUNSUPPORTED);
    CHECK(t == NULL && strstr(err.msg, "gpt-5") && strstr(err.msg, "smollm") &&
          strstr(err.msg, "llama-bpe"));
    qh_vocab_free(v);
    static const char *const not_names[] = {"", "gpt", "smollm starcoder", "llama3 "};
    for (size_t i = 0; i < sizeof not_names / sizeof *not_names; i++) {
        v = toy_bpe(not_names[i], NULL, 0, NULL);
        CHECK_STATUS(qh_tokenizer_new(&t, v, NULL), QH_EUNSUPPORTED);
        qh_vocab_free(v);
    }
}

/* ---- special tokens ------------------------------------------------------------------------ */

static const char *const chat_merges[] = {"a b", "u s", "e r", "us er", "\xc4\xa0 user"};
enum { AB = 256, US, ER, USER, SPACE_USER, END, START, TAB, TABBY, USERDEF };
static const toy_token chat_specials[] = {
    {"<|im_end|>", QH_TOKEN_CONTROL, 0},        {"<|im_start|>", QH_TOKEN_CONTROL, 0},
    {"[tab]", QH_TOKEN_USER_DEFINED, 0},        {"[tab]by", QH_TOKEN_CONTROL, 0},
    {"\xe2\x86\x92", QH_TOKEN_USER_DEFINED, 0}, {NULL, 0, 0}};

static qh_tokenizer *chat_tokenizer(void)
{
    return tokenizer_of(toy_bpe("gpt-2", chat_merges, 5, chat_specials));
}

static void free_both(qh_tokenizer *t)
{
    qh_vocab *v = (qh_vocab *)qh_tokenizer_vocab(t);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

TEST(control_tokens_are_parsed_only_when_asked)
{
    qh_tokenizer *t = chat_tokenizer();
    CHECK_ENCODES(t, "user<|im_end|>ab", QH_ENCODE_PARSE_SPECIAL, USER, END, AB);
    CHECK_ENCODES(t, "<|im_end|>", 0, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    CHECK_ENCODES(t, "<|im_en|><|im_end|><", QH_ENCODE_PARSE_SPECIAL, '<', '|', 'i', 'm', '_', 'e',
                  'n', '|', '>', END, '<');
    CHECK_ENCODES(t, "<|im_end|><|im_start|>", QH_ENCODE_PARSE_SPECIAL, END, START);
    CHECK_ENCODES(t, "ab", QH_ENCODE_ADD_SPECIAL, END, AB); /* the toy's bos */
    CHECK_ENCODES(t, "", QH_ENCODE_ADD_SPECIAL, END);
    qh_tokens none = encode(t, NULL, 0, QH_ENCODE_PARSE_SPECIAL);
    CHECK_INT(none.len, 0);
    free_both(t);
}

TEST(user_defined_tokens_are_always_parsed_and_the_longest_wins)
{
    qh_tokenizer *t = chat_tokenizer();
    CHECK_ENCODES(t, "a[tab]by\xe2\x86\x92", 0, 'a', TAB, 'b', 'y', USERDEF);
    CHECK_ENCODES(t, "a[tab]by\xe2\x86\x92", QH_ENCODE_PARSE_SPECIAL, 'a', TABBY, USERDEF);
    CHECK_ENCODES(t, "[tab[tab]b", QH_ENCODE_PARSE_SPECIAL, '[', 't', AB, TAB, 'b');
    free_both(t);
}

#define SEG(text, is_special)                                                                      \
    {                                                                                              \
        text, sizeof text - 1, is_special                                                          \
    }
#define CHECK_SEGMENTS(t, add, segs, ...)                                                          \
    do {                                                                                           \
        const qh_token want_[] = {__VA_ARGS__};                                                    \
        qh_tokens got_ = {0};                                                                      \
        CHECK_OK(qh_tokenizer_encode_segments(t, segs, (int)(sizeof segs / sizeof *segs), add,     \
                                              &got_, NULL));                                       \
        check_ids(&got_, want_, (int)(sizeof want_ / sizeof *want_));                              \
        qh_tokens_deinit(&got_);                                                                   \
    } while (0)

TEST(what_a_user_typed_never_becomes_a_control_token)
{
    qh_tokenizer *t = chat_tokenizer();
    const qh_segment typed[] = {SEG("<|im_start|>user", true), SEG("<|im_end|>", false),
                                SEG("<|im_end|>", true)};
    CHECK_SEGMENTS(t, false, typed, START, USER, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>',
                   END);
    /* Neither when the template's own text completes it, before or after. */
    const qh_segment begun[] = {SEG("<|im_", true), SEG("end|>", false)};
    CHECK_SEGMENTS(t, false, begun, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    const qh_segment ended[] = {SEG("<|im_end|", false), SEG(">", true)};
    CHECK_SEGMENTS(t, false, ended, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    const qh_segment inside[] = {SEG("<|im", true), SEG("_", false), SEG("end|>", true)};
    CHECK_SEGMENTS(t, false, inside, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    free_both(t);
}

TEST(segments_meet_without_a_seam)
{
    qh_tokenizer *t = chat_tokenizer();
    const qh_segment word[] = {SEG("<|im_start|> us", true), SEG("", false), SEG("er", false),
                               SEG("a", false), SEG("b", true)};
    CHECK_SEGMENTS(t, false, word, START, SPACE_USER, AB);
    const qh_segment special[] = {SEG("<|im_", true), SEG("", false), SEG("start|>", true)};
    /* An empty user segment is nothing: the two halves are one trusted text. */
    CHECK_SEGMENTS(t, true, special, END, START);
    const qh_segment defined[] = {SEG("[ta", true), SEG("b]b", false), SEG("y", true)};
    CHECK_SEGMENTS(t, false, defined, TAB, 'b', 'y');
    qh_tokens none = {0};
    CHECK_OK(qh_tokenizer_encode_segments(t, NULL, 0, false, &none, NULL));
    CHECK_INT(none.len, 0);
    free_both(t);
}

/* Ids of text in which byte i may be part of a control token where is_trusted[i]. */
static void naive_specials(const qh_tokenizer *t, const char *text, size_t len,
                           const bool *is_trusted, qh_tokens *out)
{
    const qh_vocab *v = qh_tokenizer_vocab(t);
    size_t raw = 0;
    for (size_t at = 0; at <= len;) {
        qh_token best = QH_NO_TOKEN;
        size_t best_len = 0;
        for (qh_token id = 0; id < qh_vocab_len(v); id++) {
            qh_slice p = qh_vocab_piece(v, id);
            if (!qh_vocab_is_special(v, id) || p.len > len - at || p.len <= best_len ||
                memcmp(p.data, text + at, p.len))
                continue;
            bool is_all_trusted = true;
            for (size_t i = 0; i < p.len; i++) is_all_trusted &= is_trusted[at + i];
            if (qh_vocab_type(v, id) == QH_TOKEN_USER_DEFINED || is_all_trusted)
                best = id, best_len = p.len;
        }
        if (best < 0 && at < len) {
            at++;
            continue;
        }
        qh_tokens between = encode(t, text + raw, at - raw, 0);
        CHECK_OK(qh_tokens_append(out, between.ids, between.len));
        qh_tokens_deinit(&between);
        if (best < 0) break;
        CHECK_OK(qh_tokens_append(out, &best, 1));
        at += best_len;
        raw = at;
    }
}

TEST(random_segments_agree_with_the_definition)
{
    static const toy_token specials[] = {{"<a>", QH_TOKEN_CONTROL, 0},
                                         {"<a", QH_TOKEN_USER_DEFINED, 0},
                                         {"a>b", QH_TOKEN_CONTROL, 0},
                                         {"b<", QH_TOKEN_UNKNOWN, 0},
                                         {"bb<a>", QH_TOKEN_USER_DEFINED, 0},
                                         {"<<", QH_TOKEN_CONTROL, 0},
                                         {NULL, 0, 0}};
    static const char *const merges[] = {"a b", "b b", "> a", "ab b"};
    qh_vocab *v = toy_bpe("smollm", merges, 4, specials);
    qh_tokenizer *t = tokenizer_of(v);
    uint64_t state = 3;
    for (int round = 0; round < 20000; round++) {
        char text[32];
        bool is_trusted[32];
        qh_segment segs[33];
        int n_segs = 0;
        size_t len = toy_random(&state) % 32;
        for (size_t i = 0; i < len; i++) {
            text[i] = "ab<>"[toy_random(&state) % 4];
            bool starts = i == 0 || toy_random(&state) % 4 == 0;
            is_trusted[i] = starts ? toy_random(&state) % 2 : is_trusted[i - 1];
            if (starts) segs[n_segs++] = (qh_segment){text + i, 0, is_trusted[i]};
            segs[n_segs - 1].len++;
        }
        qh_tokens want = {0}, got = {0};
        naive_specials(t, text, len, is_trusted, &want);
        CHECK_OK(qh_tokenizer_encode_segments(t, segs, n_segs, false, &got, NULL));
        check_ids(&got, want.ids, want.len);
        qh_tokens_deinit(&want);
        qh_tokens_deinit(&got);
    }
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

static const toy_token spm_tokens[] = {{"\xe2\x96\x81", QH_TOKEN_NORMAL, -9},
                                       {"a", QH_TOKEN_NORMAL, -8},
                                       {"\xe2\x96\x81"
                                        "a",
                                        QH_TOKEN_NORMAL, -1},
                                       {"</s>", QH_TOKEN_CONTROL, 0},
                                       {"<", QH_TOKEN_NORMAL, -7},
                                       {"/", QH_TOKEN_NORMAL, -7},
                                       {"s", QH_TOKEN_NORMAL, -7},
                                       {">", QH_TOKEN_NORMAL, -7},
                                       {"</", QH_TOKEN_NORMAL, -3},
                                       {"s>", QH_TOKEN_NORMAL, -3},
                                       {NULL, 0, 0}};
enum {
    BYTE0 = 1,
    SPM_SPACE = 257,
    SPM_A,
    SPM_SPACE_A,
    SPM_END,
    SPM_LT,
    SPM_SLASH,
    SPM_S,
    SPM_GT,
    SPM_LT_SLASH,
    SPM_S_GT
};

TEST(spm_puts_a_space_in_front_and_after_specials_and_falls_back_to_bytes)
{
    qh_vocab *v = toy_spm(spm_tokens, true, true);
    qh_tokenizer *t = tokenizer_of(v);
    CHECK_ENCODES(t, "a a", 0, SPM_SPACE_A, SPM_SPACE_A);
    CHECK_ENCODES(t, " a", 0, SPM_SPACE, SPM_SPACE_A);
    CHECK_ENCODES(t, "a</s>a</s></s>", QH_ENCODE_PARSE_SPECIAL, SPM_SPACE_A, SPM_END, SPM_SPACE_A,
                  SPM_END, SPM_END);
    CHECK_ENCODES(t, "\xc3\xa9", 0, SPM_SPACE, BYTE0 + 0xc3, BYTE0 + 0xa9);
    CHECK_ENCODES(t, "a\xff", 0, SPM_SPACE_A, BYTE0 + 0xff);
    /* "▁" typed by a user is no space. */
    CHECK_ENCODES(t,
                  "\xe2\x96\x81"
                  "a",
                  0, SPM_SPACE, BYTE0 + 0xe2, BYTE0 + 0x96, BYTE0 + 0x81, SPM_A);
    /* "</" + "s>" could merge to the control token's piece: it must not. */
    CHECK_ENCODES(t, "</s>", 0, SPM_SPACE, SPM_LT_SLASH, SPM_S_GT);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

TEST(spm_without_byte_tokens_uses_the_unknown_token)
{
    qh_vocab *v = toy_spm(spm_tokens, false, false);
    qh_tokenizer *t = tokenizer_of(v);
    CHECK_ENCODES(t,
                  "a\xc3\xa9\xff"
                  "a",
                  0, SPM_A - 256, 0, 0, SPM_A - 256);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

/* ---- bytes that a vocabulary lacks --------------------------------------------------------- */

/* The 256 letters without the listed bytes, which hold other pieces. */
static qh_vocab *vocab_lacking(const char *lacking, qh_token unk)
{
    static char letters[256][8];
    qh_slice pieces[256];
    for (int b = 0; b < 256; b++) {
        toy_letter(b, letters[b]);
        if (strchr(lacking, b) && b) snprintf(letters[b], 8, "xx%02x", (unsigned)b);
        pieces[b] = (qh_slice){letters[b], strlen(letters[b])};
    }
    qh_vocab *v;
    CHECK_OK(qh_vocab_new(&v,
                          &(qh_vocab_spec){.n_tokens = 256,
                                           .pieces = pieces,
                                           .pretokenizer = "gpt-2",
                                           .bos = -1,
                                           .eos = -1,
                                           .eot = -1,
                                           .unk = unk,
                                           .pad = -1},
                          NULL));
    return v;
}

TEST(a_character_with_a_byte_that_the_vocabulary_lacks_becomes_one_replacement)
{
    qh_vocab *v = vocab_lacking("\x04\xf1\xff", QH_NO_TOKEN);
    qh_tokenizer *t = tokenizer_of(v);
    CHECK_ENCODES(t, "a\x04z", 0, 'a', 0xef, 0xbf, 0xbd, 'z');
    CHECK_ENCODES(t, "\xf1\x80\x80\x80\x80\xff", 0, 0xef, 0xbf, 0xbd, 0x80, 0xef, 0xbf, 0xbd);
    qh_tokenizer_free(t);
    qh_vocab_free(v);

    v = vocab_lacking("\x04\xef", 7);
    t = tokenizer_of(v);
    CHECK_ENCODES(t, "a\x04z", 0, 'a', 7, 'z');
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

TEST(a_vocabulary_that_cannot_even_replace_is_refused)
{
    qh_err err = {0};
    qh_tokenizer *t;
    qh_vocab *v = vocab_lacking("\x04\xbd", QH_NO_TOKEN);
    CHECK_STATUS(qh_tokenizer_new(&t, v, &err), QH_EFORMAT);
    CHECK(strstr(err.msg, "byte 0xBD"));
    qh_vocab_free(v);

    const qh_slice piece = {"a", 1};
    const float score = 0;
    err = (qh_err){0};
    CHECK_OK(qh_vocab_new(&v,
                          &(qh_vocab_spec){.kind = QH_TOKENIZER_SPM,
                                           .n_tokens = 1,
                                           .pieces = &piece,
                                           .scores = &score,
                                           .bos = -1,
                                           .eos = -1,
                                           .eot = -1,
                                           .unk = -1,
                                           .pad = -1},
                          NULL));
    CHECK_STATUS(qh_tokenizer_new(&t, v, &err), QH_EFORMAT);
    CHECK(strstr(err.msg, "<0x00>"));
    qh_vocab_free(v);
}

/* ---- limits, threads ----------------------------------------------------------------------- */

TEST(an_overlong_special_token_is_refused_by_id)
{
    static char piece[2000];
    memset(piece, 'x', sizeof piece);
    const qh_slice p = {piece, sizeof piece};
    const int32_t type = QH_TOKEN_CONTROL;
    qh_vocab *v;
    qh_tokenizer *t;
    qh_err err = {0};
    CHECK_OK(qh_vocab_new(&v,
                          &(qh_vocab_spec){.n_tokens = 1,
                                           .pieces = &p,
                                           .types = &type,
                                           .bos = -1,
                                           .eos = -1,
                                           .eot = -1,
                                           .unk = 0,
                                           .pad = -1},
                          NULL));
    CHECK_STATUS(qh_tokenizer_new(&t, v, &err), QH_ELIMIT);
    CHECK(strstr(err.msg, "token 0") && strstr(err.msg, "2000"));
    qh_vocab_free(v);
}

TEST(a_text_over_the_limit_is_refused_and_leaves_the_list_alone)
{
    qh_tokenizer *t = chat_tokenizer();
    qh_tokens ids = encode(t, "ab", 2, 0);
    const qh_segment segs[] = {
        {"x", (size_t)1 << 29, false}, {"x", (size_t)1 << 29, false}, {"x", 1, true}};
    qh_err err = {0};
    CHECK_STATUS(qh_tokenizer_encode_segments(t, segs, 3, true, &ids, &err), QH_ELIMIT);
    CHECK_STATUS(qh_tokenizer_encode(t, "x", SIZE_MAX, 0, &ids, NULL), QH_ELIMIT);
    CHECK(ids.len == 1 && ids.ids[0] == AB);
    qh_tokens_deinit(&ids);
    free_both(t);
}

typedef struct {
    const qh_tokenizer *t;
    const char *text;
    size_t len;
    qh_tokens ids;
} racer;

static void *race(void *arg)
{
    racer *r = arg;
    for (int i = 0; i < 50; i++) {
        r->ids.len = 0;
        if (qh_tokenizer_encode(r->t, r->text, r->len, 0, &r->ids, NULL)) r->ids.len = -1;
    }
    return NULL;
}

TEST(threads_encode_with_one_tokenizer_at_the_same_time)
{
    qh_tokenizer *t = chat_tokenizer();
    char text[4000];
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof text; i++) text[i] = "usera b[]"[toy_random(&state) % 9];
    racer racers[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        racers[i] = (racer){.t = t, .text = text, .len = sizeof text};
        CHECK_INT(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    qh_tokens want = encode(t, text, sizeof text, 0);
    for (int i = 0; i < 4; i++) {
        check_ids(&racers[i].ids, want.ids, want.len);
        qh_tokens_deinit(&racers[i].ids);
    }
    qh_tokens_deinit(&want);
    free_both(t);
}
TEST_MAIN()
