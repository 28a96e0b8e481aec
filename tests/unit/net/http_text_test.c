#include "test.h"
#include "net/http_text.h"
#include "net/sha256.h"

TEST(url_text_survives_a_round_trip)
{
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    qh_str enc = {0}, dec = {0};
    qh_url_encode(&enc, all, sizeof all);
    CHECK_OK(qh_url_decode(&dec, enc.data, enc.len, true));
    CHECK_INT(dec.len, 256);
    CHECK(memcmp(dec.data, all, 256) == 0);
    qh_str_clear(&dec);
    CHECK_OK(qh_url_decode(&dec, "a+b%2Bc", 7, true));
    CHECK_STR(qh_str_z(&dec), "a b+c");
    qh_str_deinit(&enc);
    qh_str_deinit(&dec);
}

TEST(url_decode_refuses_bad_escapes_and_leaves_out_alone)
{
    static const char *const BAD[] = {"%", "%4", "%zz", "ab%4", "ab%4g", "%%41"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        qh_str s = {0};
        qh_str_append_z(&s, "kept");
        CHECK_STATUS(qh_url_decode(&s, BAD[i], strlen(BAD[i]), false), QH_EFORMAT);
        CHECK_STR(qh_str_z(&s), "kept");
        qh_str_deinit(&s);
    }
}

TEST(reasons_are_known_or_empty)
{
    CHECK_STR(qh_http_reason(404), "Not Found");
    CHECK_STR(qh_http_reason(299), "");
}

/* FIPS 180-4 examples: the empty message, "abc", and a million times 'a'. */
TEST(sha256_gives_the_published_sums_in_any_pieces)
{
    char hex[QH_SHA256_HEX_BYTES], piece[1000];
    qh_sha256 *h = qh_sha256_new();
    qh_sha256_hex(h, hex);
    CHECK_STR(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    qh_sha256_restart(h);
    qh_sha256_add(h, "a", 1);
    qh_sha256_add(h, "bc", 2);
    qh_sha256_hex(h, hex);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    qh_sha256_restart(h);
    memset(piece, 'a', sizeof piece);
    for (int i = 0; i < 1000; i++) qh_sha256_add(h, piece, sizeof piece);
    qh_sha256_hex(h, hex);
    CHECK_STR(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    qh_sha256_free(h);
    CHECK(qh_sha256_is_hex(hex) && !qh_sha256_is_hex("abc") && !qh_sha256_is_hex(""));
}

TEST_MAIN()
