#include "test.h"
#include <math.h>
#include "text/vocab.h"
#include "toy_vocab.h"

/* A vocabulary of a few pieces that each test bends in one place. */
typedef struct {
    qh_slice pieces[8], merges[4];
    int32_t types[8];
    float scores[8];
    qh_token stops[2];
    qh_vocab_spec spec;
} bent;

static qh_slice z(const char *s)
{
    return (qh_slice){s, strlen(s)};
}

static bent *straight(void)
{
    static bent b;
    b = (bent){.pieces = {z("a"), z("b"), z("ab"), z("<0x0A>"), z("<s>"),
                          z("\xe2\x96\x81"
                            "a"),
                          z(""), z("[X]")},
               .types = {1, 1, 1, 6, 3, 1, 1, 5},
               .merges = {z("a b")},
               .stops = {7}};
    b.spec = (qh_vocab_spec){.n_tokens = 8,
                             .pieces = b.pieces,
                             .types = b.types,
                             .scores = b.scores,
                             .n_merges = 1,
                             .merges = b.merges,
                             .bos = 4,
                             .eos = 4,
                             .eot = QH_NO_TOKEN,
                             .unk = QH_NO_TOKEN,
                             .pad = 6,
                             .stops = b.stops,
                             .n_stops = 1};
    return &b;
}

static void check_refused(const bent *b, qh_status want, const char *words)
{
    qh_err err = {0};
    qh_vocab *v;
    CHECK_STATUS(qh_vocab_new(&v, &b->spec, &err), want);
    CHECK(v == NULL);
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static bool is_slice(qh_slice s, const char *want)
{
    return s.len == strlen(want) && !memcmp(s.data, want, s.len);
}

TEST(answers_what_the_file_says)
{
    qh_vocab *v;
    bent *b = straight();
    CHECK_OK(qh_vocab_new(&v, &b->spec, NULL));
    memset(b, 0x55, sizeof *b); /* everything was borrowed for the call */
    CHECK_INT(qh_vocab_len(v), 8);
    CHECK_INT(qh_vocab_find(v, "ab", 2), 2);
    CHECK_INT(qh_vocab_find(v, "ba", 2), QH_NO_TOKEN);
    CHECK_INT(qh_vocab_find(v, "", 0), QH_NO_TOKEN);
    CHECK_INT(qh_vocab_find_text(v, "ab", 2), 2);
    CHECK_INT(qh_vocab_find_text(v, "<s>", 3), QH_NO_TOKEN); /* text never is a control token */
    CHECK_INT(qh_vocab_find(v, "<s>", 3), 4);
    CHECK_INT(qh_vocab_type(v, 4), QH_TOKEN_CONTROL);
    CHECK(is_slice(qh_vocab_bytes(v, 3), "\n"));
    CHECK(is_slice(qh_vocab_piece(v, 3), "<0x0A>"));
    CHECK(is_slice(qh_vocab_bytes(v, 4), "<s>"));
    CHECK_INT(qh_vocab_bytes(v, 6).len, 0);
    CHECK_INT(qh_vocab_pad(v), 6);
    CHECK_INT(qh_vocab_unk(v), QH_NO_TOKEN);
    CHECK(qh_vocab_is_stop(v, 4) && qh_vocab_is_stop(v, 7) && !qh_vocab_is_stop(v, 0));
    CHECK(qh_vocab_is_special(v, 4) && !qh_vocab_is_special(v, 7));
    CHECK(qh_vocab_is_shown(v, 3) && !qh_vocab_is_shown(v, 4) && !qh_vocab_is_shown(v, 7));
    int n;
    const qh_merge *m = qh_vocab_merges(v, &n);
    CHECK(n == 1 && m[0].left == 0 && m[0].right == 1 && m[0].result == 2);
    CHECK_STR(qh_vocab_pretokenizer(v), "default");
    qh_vocab_free(v);
}

TEST(sentencepiece_spells_spaces_and_keeps_scores)
{
    qh_vocab *v;
    bent *b = straight();
    b->spec.kind = QH_TOKENIZER_SPM;
    b->spec.n_merges = 0;
    b->scores[2] = -2.5f;
    CHECK_OK(qh_vocab_new(&v, &b->spec, NULL));
    CHECK(is_slice(qh_vocab_bytes(v, 5), " a"));
    CHECK(is_slice(qh_vocab_piece(v, 5), "\xe2\x96\x81"
                                         "a"));
    CHECK_INT(qh_vocab_find_text(v, " a", 2), 5);
    CHECK(qh_vocab_score(v, 2) == -2.5f);
    qh_vocab_free(v);
}

TEST(every_byte_has_its_printable_letter)
{
    qh_vocab *v = toy_bpe("gpt-2", NULL, 0, NULL);
    for (int b = 0; b < 256; b++) {
        qh_slice s = qh_vocab_bytes(v, b);
        CHECK(s.len == 1 && (unsigned char)s.data[0] == b);
    }
    CHECK_INT(qh_vocab_find(v, "\xc4\xa0", 2), ' ');  /* U+0120, as in every GPT-2 vocabulary */
    CHECK_INT(qh_vocab_find(v, "\xc4\x8a", 2), '\n'); /* U+010A */
    qh_vocab_free(v);
}

TEST(merges_that_make_a_control_token_are_left_out)
{
    qh_vocab *v;
    int n;
    bent *b = straight();
    b->types[2] = QH_TOKEN_CONTROL;
    CHECK_OK(qh_vocab_new(&v, &b->spec, NULL));
    qh_vocab_merges(v, &n);
    CHECK_INT(n, 0);
    qh_vocab_free(v);
}

TEST(bad_tokens_are_refused_by_id)
{
    bent *b = straight();
    b->pieces[5] = z("b");
    check_refused(b, QH_EFORMAT, "token 5: piece \"b\" is already token 1");
    b = straight(), b->types[1] = 7;
    check_refused(b, QH_EFORMAT, "token 1: type 7");
    b = straight(), b->types[1] = -1;
    check_refused(b, QH_EFORMAT, "token 1: type -1");
    b = straight(), b->pieces[3] = z("<0xG0>");
    check_refused(b, QH_EFORMAT, "token 3: byte token \"<0xG0>\"");
    b = straight(), b->spec.n_tokens = 0;
    check_refused(b, QH_EFORMAT, "no tokens");
    b = straight(), b->spec.kind = QH_TOKENIZER_SPM, b->scores[6] = (float)NAN;
    check_refused(b, QH_EFORMAT, "token 6: its score");
    b = straight(), b->spec.kind = QH_TOKENIZER_SPM, b->spec.scores = NULL;
    check_refused(b, QH_EFORMAT, "scores: missing");
    b = straight(), b->pieces[1].len = (size_t)1 << 32;
    check_refused(b, QH_ELIMIT, "4 GiB");
}

TEST(bad_merges_are_refused_by_number)
{
    static const char *const malformed[] = {"", "a", "ab", "a ", " a", "abc"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        bent *b = straight();
        b->merges[0] = z(malformed[i]);
        check_refused(b, QH_EFORMAT, "merge 0: ");
    }
    bent *b = straight();
    b->spec.n_merges = 2, b->merges[1] = z("a c");
    check_refused(b, QH_EFORMAT, "merge 1: \"c\" is not in the vocabulary");
    b = straight(), b->merges[0] = z("b a");
    check_refused(b, QH_EFORMAT, "merge 0: \"ba\" is not");
}

TEST(bad_special_ids_are_refused_by_name)
{
    bent *b = straight();
    b->spec.bos = 8;
    check_refused(b, QH_EFORMAT, "bos: token id 8, expected 0 to 7");
    b = straight(), b->spec.eot = -2;
    check_refused(b, QH_EFORMAT, "eot: token id -2");
    b = straight(), b->stops[0] = 99;
    check_refused(b, QH_EFORMAT, "stops: token id 99");
    b = straight(), b->spec.bos = QH_NO_TOKEN, b->spec.add_bos = true;
    check_refused(b, QH_EFORMAT, "add_bos");
    b = straight(), b->spec.eos = QH_NO_TOKEN, b->spec.add_eos = true;
    check_refused(b, QH_EFORMAT, "add_eos");
}
TEST_MAIN()
