/* Real vocabularies on random and hostile text: what goes in comes back, and no text takes long. */
#include "test.h"
#include "base/mem.h"
#include "base/str.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "toy_vocab.h"
#include "vocab_file.h"
#include <time.h>

enum { MB = 1 << 20 };
static const char *const names[] = {"gpt-2",        "falcon",    "starcoder",
                                    "deepseek-llm", "llama-spm", "phi-3"};
enum { N_NAMES = sizeof names / sizeof *names };

static qh_tokenizer *open_tokenizer(const char *name)
{
    char path[4096];
    if (!qh_test_data()) return NULL;
    snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-%s.gguf", qh_test_data(), name);
    qh_vocab *v = test_vocab_open(path, NULL);
    qh_tokenizer *t = NULL;
    if (v) CHECK_OK(qh_tokenizer_new(&t, v, NULL));
    return t;
}

static void close_tokenizer(qh_tokenizer *t)
{
    qh_vocab *v = (qh_vocab *)qh_tokenizer_vocab(t);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

/* text, with U+FFFD in place of characters that hold a byte without a token. */
static void replace_lacking(const qh_vocab *v, const char *text, size_t len, qh_str *out)
{
    for (size_t i = 0, n; i < len; i += n) {
        int c_len = qh_utf8_len(text + i, len - i);
        bool is_lacking = false;
        n = c_len ? (size_t)c_len : 1;
        for (size_t k = 0; k < n && qh_vocab_kind(v) == QH_TOKENIZER_BPE; k++)
            is_lacking |= qh_vocab_find_text(v, text + i + k, 1) < 0;
        qh_str_append(out, is_lacking ? "\xef\xbf\xbd" : text + i, is_lacking ? 3 : n);
    }
}

static void check_round_trip(const qh_tokenizer *t, const char *text, size_t len)
{
    const qh_vocab *v = qh_tokenizer_vocab(t);
    qh_tokens ids = {0};
    qh_str want = {0}, got = {0};
    CHECK_OK(qh_tokenizer_encode(t, text, len, 0, &ids, NULL));
    for (int i = 0; i < ids.len; i++)
        CHECK(qh_vocab_is_shown(v, ids.ids[i])); /* no control token from text */
    replace_lacking(v, text, len, &want);
    qh_detok_all(v, ids.ids, ids.len, false, &got);
    CHECK_INT(got.len, want.len);
    CHECK(got.len == 0 || !memcmp(got.data, want.data, want.len));
    qh_str_deinit(&want);
    qh_str_deinit(&got);
    qh_tokens_deinit(&ids);
}

static size_t put_code(char *dst, uint32_t c)
{
    if (c < 0x80) return dst[0] = (char)c, 1;
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    dst[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c >> (6 * (n - 1)));
    for (int i = 1; i < n; i++) dst[i] = (char)(0x80 | (c >> (6 * (n - 1 - i)) & 0x3f));
    return (size_t)n;
}

/* Any code point, but often one of the ranges that texts are made of, or a space. */
static uint32_t random_code(uint64_t *state)
{
    uint64_t r = toy_random(state);
    static const uint32_t ranges[][2] = {{0, 0x7f},        {0x80, 0x24f},      {0x370, 0x52f},
                                         {0x900, 0x97f},   {0x2000, 0x2bff},   {0x3000, 0x9fff},
                                         {0xe000, 0xffff}, {0x1f300, 0x1faff}, {0, 0x10ffff}};
    const uint32_t *range = ranges[r % 9];
    uint32_t c = r >> 60 == 0 ? ' ' : range[0] + (uint32_t)((r >> 8) % (range[1] - range[0] + 1));
    return c >= 0xd800 && c <= 0xdfff ? 0x2581 : c;
}

static void random_text(uint64_t *state, bool is_unicode, char *text, size_t *len)
{
    size_t want = toy_random(state) % 200;
    *len = 0;
    while (*len < want)
        *len += is_unicode ? put_code(text + *len, random_code(state))
                           : (text[*len] = (char)toy_random(state), 1);
}

static void check_random(bool is_unicode)
{
    bool is_any = false;
    for (int k = 0; k < N_NAMES; k++) {
        qh_tokenizer *t = open_tokenizer(names[k]);
        if (!t) continue;
        is_any = true;
        uint64_t state = (uint64_t)k;
        for (int round = 0; round < 3000; round++) {
            char text[256];
            size_t len;
            random_text(&state, is_unicode, text, &len);
            check_round_trip(t, text, len);
        }
        close_tokenizer(t);
    }
    if (!is_any) SKIP("no tokenizers in QH_TEST_DATA");
}

TEST(random_unicode_comes_back)
{
    check_random(true);
}
TEST(random_bytes_come_back)
{
    check_random(false);
}

TEST(text_of_specials_typed_by_a_user_comes_back_and_is_not_special)
{
    qh_tokenizer *t = open_tokenizer("phi-3");
    if (!t) SKIP("no tokenizers in QH_TEST_DATA");
    const qh_vocab *v = qh_tokenizer_vocab(t);
    for (qh_token id = 0; id < qh_vocab_len(v); id++) {
        qh_slice p = qh_vocab_piece(v, id);
        if (qh_vocab_is_special(v, id)) check_round_trip(t, p.data, p.len);
    }
    check_round_trip(t, " </s> a </s></s>", 16); /* user-defined in this vocabulary */
    close_tokenizer(t);
}

/* ---- time ---------------------------------------------------------------------------------- */

/* Sanitizers make everything slow: then the texts are shorter and the limits the same. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LONG = MB / 16 };
#else
enum { LONG = MB };
#endif

static double cpu_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static double time_once(const qh_tokenizer *t, const char *text, size_t len, int *n_tokens)
{
    qh_tokens ids = {0};
    double before = cpu_s();
    CHECK_OK(qh_tokenizer_encode(t, text, len, QH_ENCODE_PARSE_SPECIAL, &ids, NULL));
    double took = cpu_s() - before;
    *n_tokens = ids.len;
    qh_tokens_deinit(&ids);
    return took;
}

/* A busy machine can double the time of one run, so a slow one gets a second chance. */
static void check_time(const char *name, const qh_tokenizer *t, const char *what, const char *text,
                       size_t len, double max_s)
{
    int n_tokens;
    double took = time_once(t, text, len, &n_tokens);
    if (took > max_s) took = time_once(t, text, len, &n_tokens);
    print_message("%-12s %-24s %zu bytes %7d tokens %.3f s\n", name, what, len, n_tokens, took);
    if (took > max_s) fail_msg("%s: %s took %.2f s", name, what, took);
}

static void repeat(char *dst, size_t len, const char *unit)
{
    size_t n = strlen(unit);
    for (size_t i = 0; i < len; i++) dst[i] = unit[i % n];
}

TEST(a_megabyte_of_anything_takes_less_than_a_second)
{
    static const struct {
        const char *name, *unit;
    } cases[] = {{"a", "a"},
                 {"spaces", " "},
                 {"line ends", "\r\n"},
                 {"spaced line ends", " \n"},
                 {"digits", "3"},
                 {"exclamation marks", "!"},
                 {"one Han character", "\xe4\xb8\x80"},
                 {"accents", "\xcc\x81"},
                 {"halves of a special", "<|im_"},
                 {"starts of padding", "[PAD10000"},
                 {"bad bytes", "\xff"},
                 {"short words", "a "}};
    static const int tested[] = {2, 3, 4}; /* starcoder, deepseek-llm, llama-spm */
    char *text = qh_alloc0(LONG);
    for (size_t k = 0; k < sizeof tested / sizeof *tested; k++) {
        const char *name = names[tested[k]];
        qh_tokenizer *t = open_tokenizer(name);
        if (!t) {
            qh_free(text);
            SKIP("no tokenizers in QH_TEST_DATA");
        }
        for (size_t u = 0; u < sizeof cases / sizeof *cases; u++) {
            repeat(text, LONG, cases[u].unit);
            check_time(name, t, cases[u].name, text, LONG, 1.0);
        }
        memset(text, ' ', LONG);
        text[LONG - 1] = '3'; /* what a rule for spaces at the end would trip over */
        check_time(name, t, "spaces and a digit", text, LONG, 1.0);
        uint64_t state = 1;
        for (size_t i = 0; i < LONG; i++) text[i] = (char)toy_random(&state);
        check_time(name, t, "random bytes", text, LONG, 1.0);
        for (size_t i = 0; i < LONG; i++) text[i] = (char)('a' + toy_random(&state) % 26);
        check_time(name, t, "one random word", text, LONG, 1.0);
        close_tokenizer(t);
    }
    qh_free(text);
}

TEST(a_long_run_meets_no_limit_of_the_splitters)
{
    /* More than PCRE2's default limit of 10 million steps; without merges, so that splitting is
     * all. */
    static const char *const splitters[] = {"gpt-2",  "smollm",       "llama-bpe", "qwen2",
                                            "falcon", "deepseek-llm", "default"};
    static const char *const units[] = {" ", "a"};
    size_t len = 12 * (size_t)LONG;
    char *text = qh_alloc0(len);
    for (size_t k = 0; k < sizeof splitters / sizeof *splitters; k++) {
        qh_vocab *v = toy_bpe(splitters[k], NULL, 0, NULL);
        qh_tokenizer *t;
        CHECK_OK(qh_tokenizer_new(&t, v, NULL));
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            repeat(text, len, units[u]);
            text[len - 1] = '3';
            check_time(splitters[k], t, u ? "letters" : "spaces", text, len, 6.0);
        }
        qh_tokenizer_free(t);
        qh_vocab_free(v);
    }
    qh_free(text);
}
TEST_MAIN()
