#include "test.h"
#include "base/mem.h"
#include "base/str.h"
#include "text/detok.h"
#include "text/utf8.h"
#include "toy_vocab.h"

static const toy_token specials[] = {
    {"<s>", QH_TOKEN_CONTROL, 0}, {"<tool>", QH_TOKEN_USER_DEFINED, 0}, {NULL, 0, 0}};
enum { CONTROL = 256, TOOL = 257, N_TOY = 258 };

/* A vocabulary of every byte: a token is a byte, so a stream can break anywhere. */
static qh_vocab *byte_vocab(void)
{
    return toy_bpe("gpt-2", NULL, 0, specials);
}

/* Bytes as ids, pushed one by one; each push must add whole characters only. */
static void stream(const qh_vocab *v, const qh_token *ids, int n, qh_str *out)
{
    qh_detok d;
    qh_detok_init(&d, v, true);
    for (int i = 0; i < n; i++) {
        qh_detok_push(&d, ids[i], out);
        CHECK_INT(qh_utf8_span(qh_str_z(out), out->len), out->len);
    }
    qh_detok_finish(&d, out);
    CHECK_INT(qh_utf8_span(qh_str_z(out), out->len), out->len);
}

static void check_stream(const char *bytes, size_t len, const char *want)
{
    qh_vocab *v = byte_vocab();
    qh_token ids[64];
    qh_str out = {0};
    for (size_t i = 0; i < len; i++) ids[i] = (unsigned char)bytes[i];
    stream(v, ids, (int)len, &out);
    CHECK_STR(qh_str_z(&out), want);
    qh_str_deinit(&out);
    qh_vocab_free(v);
}

#define CHECK_STREAM(bytes, want) check_stream(bytes, sizeof bytes - 1, want)
#define BAD                       "\xef\xbf\xbd"

TEST(each_maximal_part_of_a_character_becomes_one_replacement)
{
    CHECK_STREAM("h\xc3\xa9llo", "h\xc3\xa9llo");
    CHECK_STREAM("\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80");
    CHECK_STREAM("a\x80z", "a" BAD "z");
    CHECK_STREAM("\xe2\x82"
                 "x",
                 BAD "x");
    CHECK_STREAM("\xe2\x82\xe2\x82\xac", BAD "\xe2\x82\xac");
    CHECK_STREAM("\xed\xa0\x80", BAD BAD BAD);
    CHECK_STREAM("\xf0\x8f\x80\x80", BAD BAD BAD BAD);
    CHECK_STREAM("\xff\xfe", BAD BAD);
    CHECK_STREAM("ok\xf0\x9f", "ok" BAD);
    /* Unicode 15, table 3-8 */
    CHECK_STREAM("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64",
                 "a" BAD BAD BAD "b" BAD "c" BAD BAD "d");
}

/* What detokenizing the whole gives, invalid parts replaced by the rule of utf8.h. */
static void replace_invalid(const qh_str *in, qh_str *out)
{
    for (size_t i = 0; i < in->len;) {
        int len = qh_utf8_len(in->data + i, in->len - i),
            partial = qh_utf8_partial(in->data + i, in->len - i);
        if (len)
            qh_str_append(out, in->data + i, (size_t)len);
        else
            qh_str_append_z(out, BAD);
        i += (size_t)(len ? len : partial ? partial : 1);
    }
}

TEST(a_stream_equals_the_whole_for_random_tokens)
{
    /* Tokens of several bytes that begin and end inside characters. */
    static const char *const merges[] = {"\xc3\xa2 \xc4\xa4", "\xc4\xa4 \xc2\xac",
                                         "\xc3\xb0 \xc5\x81", "\xc4\xba \xc4\xa2",
                                         "\xc2\xac a",        "a \xc3\xa2"};
    qh_vocab *v = toy_bpe("gpt-2", merges, 6, specials);
    uint64_t state = 7;
    for (int round = 0; round < 20000; round++) {
        qh_token ids[24];
        int n = (int)(toy_random(&state) % 24);
        for (int i = 0; i < n; i++) {
            uint64_t r = toy_random(&state);
            ids[i] =
                (qh_token)(r & 3 ? 0x80 + (r >> 8) % 0x80 : (r >> 8) % (uint64_t)qh_vocab_len(v));
        }
        qh_str whole = {0}, want = {0}, got = {0};
        qh_detok_all(v, ids, n, false, &whole);
        replace_invalid(&whole, &want);
        stream(v, ids, n, &got);
        CHECK_STR(qh_str_z(&got), qh_str_z(&want));
        CHECK_INT(got.len, want.len);
        qh_str_deinit(&whole);
        qh_str_deinit(&want);
        qh_str_deinit(&got);
    }
    qh_vocab_free(v);
}

TEST(control_tokens_show_only_when_asked_and_user_defined_always)
{
    qh_vocab *v = byte_vocab();
    qh_token ids[] = {CONTROL, 0xc3, CONTROL, 0xa9, TOOL, 'x', N_TOY, -1};
    qh_str out = {0};
    stream(v, ids, 8, &out);
    CHECK_STR(qh_str_z(&out), "\xc3\xa9<tool>x" BAD BAD);
    qh_str_clear(&out);
    qh_detok_all(v, ids, 6, true, &out);
    CHECK_STR(qh_str_z(&out), "<s>\xc3<s>\xa9<tool>x");
    qh_str_deinit(&out);
    qh_vocab_free(v);
}

TEST(the_space_that_encoding_adds_is_dropped_at_the_start_and_after_specials)
{
    static const toy_token tokens[] = {{"\xe2\x96\x81"
                                        "a",
                                        1, 0},
                                       {"b", 1, 0},
                                       {"</s>", QH_TOKEN_CONTROL, 0},
                                       {"\xe2\x96\x81", 1, 0},
                                       {NULL, 0, 0}};
    enum { SPACE_A = 1, B, END, SPACE };
    qh_vocab *v = toy_spm(tokens, false, true);
    const struct {
        qh_token ids[4];
        int n;
        bool strip;
        const char *want;
    } cases[] = {
        {{SPACE_A, SPACE_A}, 2, true, "a a"},       {{SPACE_A, B}, 2, false, " ab"},
        {{END, SPACE_A, SPACE_A}, 3, false, "a a"}, {{B, END, SPACE, SPACE_A}, 4, true, "b a"},
        {{SPACE, SPACE, B}, 3, true, " b"},         {{END, B, SPACE_A}, 3, true, "b a"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qh_detok d;
        qh_str out = {0};
        qh_detok_init(&d, v, cases[i].strip);
        for (int k = 0; k < cases[i].n; k++) qh_detok_push(&d, cases[i].ids[k], &out);
        qh_detok_finish(&d, &out);
        CHECK_STR(qh_str_z(&out), cases[i].want);
        qh_str_deinit(&out);
    }
    qh_vocab_free(v);
}

TEST(control_tokens_that_are_listed_give_their_name)
{
    qh_vocab *v = byte_vocab();
    const qh_token ids[] = {'a', CONTROL, 'b'}, listed[] = {TOOL, CONTROL};
    for (int n_shown = 0; n_shown <= 2; n_shown++) {
        qh_detok d;
        qh_str out = {0};
        qh_detok_init(&d, v, false);
        d.shown = listed;
        d.n_shown = n_shown;
        for (int k = 0; k < 3; k++) qh_detok_push(&d, ids[k], &out);
        qh_detok_finish(&d, &out);
        CHECK_STR(qh_str_z(&out), n_shown == 2 ? "a<s>b" : "ab");
        qh_str_deinit(&out);
    }
    qh_vocab_free(v);
}
TEST_MAIN()
