#include "test.h"
#include "text/utf8.h"
#include "toy_vocab.h"

/* The definition, from the code point's side: encode it again and compare. */
static int naive_len(const unsigned char *p, size_t n)
{
    static const int lens[] = {1, 2, 3, 4};
    for (int k = 0; k < 4; k++) {
        size_t len = (size_t)lens[k];
        if (len > n) return 0;
        uint32_t code = len == 1 ? p[0] : p[0] & (0x7fu >> len);
        for (size_t i = 1; i < len; i++) code = code << 6 | (p[i] & 0x3f);
        if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) continue;
        unsigned char again[4];
        size_t want = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
        if (want != len) continue;
        if (len == 1)
            again[0] = (unsigned char)code;
        else {
            again[0] = (unsigned char)((0xf00u >> len & 0xff) | code >> (6 * (len - 1)));
            for (size_t i = 1; i < len; i++) again[i] = 0x80 | (code >> (6 * (len - 1 - i)) & 0x3f);
        }
        if (memcmp(again, p, len) == 0) return (int)len;
    }
    return 0;
}

TEST(length_agrees_with_the_definition_on_every_lead_pair_and_random_rest)
{
    uint64_t state = 1;
    for (unsigned pair = 0; pair < 0x10000; pair++) {
        for (int k = 0; k < 8; k++) {
            uint32_t rest = (uint32_t)toy_random(&state);
            unsigned char p[4] = {(unsigned char)(pair >> 8), (unsigned char)pair,
                                  (unsigned char)(k & 1 ? 0x80 | (rest & 0x3f) : rest),
                                  (unsigned char)(k & 2 ? 0x80 | (rest >> 8 & 0x3f) : rest >> 8)};
            for (size_t n = 0; n <= 4; n++) CHECK_INT(qh_utf8_len((char *)p, n), naive_len(p, n));
        }
    }
}

TEST(partial_means_that_more_bytes_could_make_a_character)
{
    CHECK_INT(qh_utf8_partial("\xf0\x9f\x98", 3), 3);
    CHECK_INT(qh_utf8_partial("\xf0\x9f", 2), 2);
    CHECK_INT(qh_utf8_partial("\xf0", 1), 1);
    CHECK_INT(qh_utf8_partial("\xf0\x9f\x98\x80", 4), 0);
    CHECK_INT(qh_utf8_partial("\xf0\x8f", 2),
              1); /* overlong: only the lead could begin something */
    CHECK_INT(qh_utf8_partial("\xed\xa0\x80", 3), 1); /* a surrogate */
    CHECK_INT(qh_utf8_partial("\xff", 1), 0);
    CHECK_INT(qh_utf8_partial("\x80", 1), 0);
    CHECK_INT(qh_utf8_partial("\xe2\x82"
                              "a",
                              3),
              2);
    CHECK_INT(qh_utf8_partial("", 0), 0);
}

TEST(span_stops_at_the_first_bad_byte)
{
    CHECK_INT(qh_utf8_span("abcdefgh\xe2\x82\xac"
                           "ijklmnop\xff"
                           "q",
                           21),
              19);
    CHECK_INT(qh_utf8_span("\xe2\x82", 2), 0);
    CHECK_INT(qh_utf8_span("", 0), 0);
}
TEST_MAIN()
